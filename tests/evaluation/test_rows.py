"""What a row says, by hand, and how it is read and written."""

import dataclasses
import json

import numpy as np
import pytest

from distillspec_jax.decoding import Completion
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation.measured import Measured
from distillspec_jax.evaluation.result_row import NO_DRAFTER, ResultRow
from distillspec_jax.evaluation.rows import drafted_row
from distillspec_jax.evaluation.timing import Timing
from tests.evaluation import simulated

CONDITIONS = {
    "task": "t",
    "target": "m",
    "top_k": 0,
    "top_p": 1.0,
    "prompts": 6,
    "prompts_digest": "d",
    "device": "cpu",
    "batch_size": 1,
    "temperature": 0.0,
}
ROW = simulated.rows(prompts=6, block_sizes=(2,))[1]


def test_a_row_by_hand():
    # γ = 2: one draft accepted and a correction, then both accepted and the limit: 4 tokens in 2 calls.
    drafted = Completion((5, 6, 7, 8), "length", 2, 1, (2, 2), (2, 1))
    alone = Completion((5, 6, 7, 8), "length", 4, 0, (), ())
    seconds = np.array([[4.0, 2.0, 2.0, 2.0, 2.0], [3.0, 2.0, 2.0, 2.0, 2.0]])
    measured = Measured([drafted] * 6, Timing([[drafted]] * 5, seconds, 9.0))
    baseline = Measured([alone] * 5, Timing([[alone]] * 5, 2 * seconds, 9.0))
    row = drafted_row("mine", 2, 0.25, measured, baseline, None, CONDITIONS)
    assert row.acceptance_tested == 3 / 4
    assert row.acceptance_joint == [1.0, 0.5]
    assert (row.block_efficiency, row.block_efficiency_ci95) == (2.0, [2.0, 2.0])
    assert row.mbsu == pytest.approx(2.0 / 1.5)
    assert (row.seconds, row.baseline_seconds) == (11.0, 22.0)
    assert (row.speedup, row.speedup_ci95) == (2.0, [2.0, 2.0])
    assert row.timing.repeats == 2
    assert row.per_prompt.tested == [4] * 6
    assert row.quality == {}


def test_a_draft_that_is_never_tested_has_no_acceptance():
    idle = Completion((1,), "eos", 1, 0, (0, 0), (0, 0))
    row = drafted_row("mine", 2, 0.25, Measured([idle] * 6, None), Measured([], None), None, CONDITIONS)
    assert row.acceptance_tested is row.acceptance_tested_ci95 is row.speedup is None
    assert row.block_efficiency == 1.0


def test_a_row_survives_its_line():
    line = json.dumps(ROW.to_json())
    assert ResultRow.from_json(json.loads(line), "x:1") == ROW
    assert ROW.to_json()["schema_version"] == 1
    assert "overlap" not in ROW.to_json()["per_prompt"], "a column that was not recorded is not written"


def test_what_another_release_wrote_is_kept():
    line = ROW.to_json() | {"new": [1]}
    line["timing"] = line["timing"] | {"clock": "fine"}
    line["per_prompt"] = line["per_prompt"] | {"words": [3] * 6}
    found = ResultRow.from_json(line, "x:1")
    assert found.to_json() == line
    assert (found.unknown, found.per_prompt.unknown) == ({"new": [1]}, {"words": [3] * 6})


def test_a_row_of_the_first_releases_has_no_dtype_and_no_rule():
    line = {
        name: value for name, value in ROW.to_json().items() if name not in ("dtype", "verifier", "timing")
    }
    found = ResultRow.from_json(line, "x:1")
    assert (found.dtype, found.verifier, found.timing) == (None, None, None)


REQUIRED = """task target drafter temperature block_size prompts prompts_digest acceptance_tested
    acceptance_joint block_efficiency speedup quality per_prompt top_k top_p batch_size device"""


@pytest.mark.parametrize("name", REQUIRED.split())
def test_a_missing_field_is_named(name):
    line = ROW.to_json()
    del line[name]
    with pytest.raises(UsageError, match=f"^f:3: not a row of a sweep: it has no field '{name}'$"):
        ResultRow.from_json(line, "f:3")


def test_a_missing_column_is_named():
    line = ROW.to_json()
    del line["per_prompt"]["emitted"]
    with pytest.raises(UsageError, match=r"^f:3, per_prompt: .* no field 'emitted'$"):
        ResultRow.from_json(line, "f:3")
    with pytest.raises(UsageError, match=r"^f:3, timing: .*expected a JSON object, got str"):
        ResultRow.from_json({**ROW.to_json(), "timing": "long"}, "f:3")


def test_drafter_temperature_and_size_tell_cells_of_a_group_apart():
    for field, other in (("drafter", NO_DRAFTER), ("temperature", 0.5), ("block_size", 9)):
        changed = dataclasses.replace(ROW, **{field: other})
        assert changed.group == ROW.group
        assert changed.identity != ROW.identity
    assert dataclasses.replace(ROW, seed=7, repeats=9, speedup=None).identity == ROW.identity
