"""The server's drafts are those that the registry says, whatever happens to a version."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distillspec_jax.errors import UsageError
from distillspec_jax.operations.draft_registry import DraftRegistry
from distillspec_jax.serving.follower import Follower, route_of
from distillspec_jax.serving.routing import Route
from tests.operations import toy


class Recorded:
    """Stands for a worker."""

    def __init__(self) -> None:
        self.served: list[tuple[Route, dict[str, Any]]] = []

    def serve(self, route: Route, batches: Any) -> None:
        self.served.append((route, dict(batches)))


@pytest.fixture
def registry(tmp_path: Path) -> DraftRegistry:
    return toy.registry(tmp_path / "drafts", versions=3)


def follower(
    registry: DraftRegistry,
    broken: dict[str, Exception],
    clock: Callable[[], float] | None = None,
) -> tuple[Follower, Recorded, list[str], list[str]]:
    worker, made, outcomes = Recorded(), list[str](), list[str]()

    def batch(name: str) -> Any:
        registry.check(name)
        if name in broken:
            raise broken[name]
        made.append(name)
        return f"batch {len(made)} of {name}"

    state = registry.state()
    return (
        Follower(
            registry,
            worker,  # type: ignore[arg-type]
            batch,
            {"v1": "first"},  # type: ignore[dict-item]
            state.revision,
            outcomes.append,
            clock=clock or itertools.count(0, 60).__next__,
        ),
        worker,
        made,
        outcomes,
    )


def test_every_change_is_taken_over_once_and_only_new_drafts_are_loaded(registry: DraftRegistry) -> None:
    follows, worker, made, outcomes = follower(registry, {})
    follows.look()
    assert worker.served == []
    registry.change("start", "a try", candidate="v2", share=0.1)
    follows.look()
    follows.look()
    assert worker.served == [(Route("v1", "v2", 0.1, 2), {"v1": "first", "v2": "batch 1 of v2"})]
    registry.change("advance", "well", candidate="v2", share=0.5)
    registry.change("promote", "well", stable="v2")
    follows.look()
    assert worker.served[1:] == [(Route("v2", revision=4), {"v2": "batch 1 of v2"})], (
        "only the last of two changes counts"
    )
    registry.roll_back("worse")
    follows.look()
    assert worker.served[2:] == [(Route("v1", revision=5), {"v1": "batch 2 of v1"})]
    assert made == ["v2", "v1"]
    assert outcomes == ["done"] * 3


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UsageError("v2 is damaged"), "v2 is damaged"),
        (RuntimeError("RESOURCE_EXHAUSTED: no room\nfor it"), "RuntimeError: RESOURCE_EXHAUSTED: no room"),
    ],
)
def test_a_version_that_cannot_be_loaded_changes_nothing_until_it_can(
    registry: DraftRegistry, capsys: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    broken = {"v2": error}
    follows, worker, _, outcomes = follower(registry, broken)
    registry.promote("v2", "new")
    for _ in range(3):
        follows.look()
    assert worker.served == []
    assert outcomes == ["failed"]
    assert capsys.readouterr().err.count(f"{said}; going on as before") == 1
    (registry.path / "registry.json").rename(registry.path / "away")  # the folder is being moved
    follows.look()
    (registry.path / "away").rename(registry.path / "registry.json")
    broken.clear()
    follows.look()
    assert [route for route, _ in worker.served] == [Route("v2", revision=2)]
    assert route_of(registry.state()) == Route("v2", revision=2)


def test_a_version_that_cannot_be_loaded_is_not_tried_every_second(
    registry: DraftRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every attempt reads all of its bytes again, and compiles."""
    seconds, checked = [0.0], list[float]()
    monkeypatch.setattr(DraftRegistry, "check", lambda self, name: checked.append(seconds[0]))
    broken: dict[str, Exception] = {name: RuntimeError("no room") for name in ("v2", "v3")}
    follows, worker, *_ = follower(registry, broken, lambda: seconds[0])
    registry.promote("v2", "new")
    checked.clear()
    for second in range(200):
        seconds[0] = float(second)
        follows.look()
    assert checked == [0, 2, 6, 14, 30, 62, 122, 182]
    registry.promote("v3", "newer")
    checked.clear()
    follows.look()
    assert checked == [199], "another revision is tried at once"
    broken.clear()
    seconds[0] += 2
    follows.look()
    assert [route.stable for route, _ in worker.served] == ["v3"]
