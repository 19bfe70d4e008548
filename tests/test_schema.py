"""JSON objects as typed values: what is kept, what is refused, and how it is said."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from distillspec_jax import schema
from distillspec_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Part:
    sizes: list[schema.Size]
    unknown: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Whole:
    name: str
    count: schema.Count
    share: schema.Share = 0.5
    seconds: list[schema.Amount] = dataclasses.field(default_factory=list)
    words: dict[str, str] = dataclasses.field(default_factory=dict)
    part: Part | None = None
    unknown: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name == "nobody":
            raise UsageError("field name: must be somebody's")


GOOD = {"name": "a", "count": 2}


def test_fields_of_newer_releases_are_kept_at_every_depth():
    found = schema.read(
        Whole, {**GOOD, "later": [1], "unknown": 5, "part": {"sizes": [3], "unknown": {"x": 1}}}, "f"
    )
    assert found.unknown == {"later": [1], "unknown": 5}
    assert found.part == Part([3], {"unknown": {"x": 1}})


def test_whole_numbers_stay_whole_where_any_number_will_do():
    found = schema.read(Whole, {**GOOD, "share": 1, "seconds": [1, 1.5]}, "f")
    assert [type(x) for x in (found.share, *found.seconds)] == [int, int, float]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([], "expected a JSON object, got list"),
        ({"name": "a", "cuont": 1}, "it has no field 'count', but 'cuont'"),
        ({**GOOD, "name": 3}, "field name: expected str, got 3"),
        ({**GOOD, "name": None}, "field name: expected str, got None"),
        ({**GOOD, "count": True}, "field count: expected int, got True"),
        ({**GOOD, "count": 1.5}, "field count: expected int, got 1.5"),
        ({**GOOD, "count": -1}, "field count: expected int >= 0, got -1"),
        ({**GOOD, "count": 2**40}, "got 1099511627776"),
        ({**GOOD, "count": 10**400}, "field count: "),
        ({**GOOD, "share": 1.5}, "field share: expected float <= 1.0, got 1.5"),
        ({**GOOD, "share": 10**400}, "field share: "),
        ({**GOOD, "seconds": [1.0, "x"]}, "field seconds[1]: expected int | float, got 'x'"),
        ({**GOOD, "words": {"a": 1}}, "field words[...]: expected str, got int"),
        ({**GOOD, "part": {"sizes": [1, 0]}}, "part: not a whole: field sizes[1]: expected int >= 1, got 0"),
        ({**GOOD, "part": {"size": [1]}}, "part: not a whole: it has no field 'sizes', but 'size'"),
        ({**GOOD, "part": "x" * 99}, "part: not a whole: expected a JSON object, got str"),
        ({**GOOD, "count": "x" * 199}, f"got '{'x' * 99}… (201 characters)"),
        ({**GOOD, "name": "nobody"}, "field name: must be somebody's"),
    ],
)
def test_what_is_wrong_is_named_with_what_was_found_and_what_is_allowed(found, said):
    with pytest.raises(UsageError) as caught:
        schema.read(Whole, found, "file:3", "a whole")
    message = str(caught.value)
    assert message.startswith(("file:3: not a whole: ", "file:3, part: "))
    assert said in message
    assert "\n" not in message
    assert len(message) < 250


def test_one_value_is_checked_alone():
    assert schema.value(schema.Amount, 2, "f", "seconds") == 2
    with pytest.raises(UsageError, match=r"^f: field seconds: expected int \| float, got 'x'$"):
        schema.value(schema.Amount, "x", "f", "seconds")
