"""`python -m tests.faults.rollouts`: registries and rollouts under SIGKILL at random moments, and a poller.

Every call is a process that is killed, by the clock or before its n-th change of the files. Then the state
must be that of before the call or that of after it, whatever serves must be whole, and the same call again
must end where one call ends: no step is lost, and none is taken twice. Another process polls the registry
all the while, as a server does, and checks whatever it is told to serve. Nothing of JAX runs here.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from distillspec_jax.cli import errors
from distillspec_jax.cli import registry as registry_command
from distillspec_jax.cli import rollout as rollout_command
from distillspec_jax.operations import arms, rollout, two_arms
from distillspec_jax.operations.draft_registry import STATE, DraftRegistry
from tests.operations import served, toy

PRELOADED = (arms, rollout, two_arms)
"""Imported by this process, so that its children need not."""
LONGEST, PATIENCE = 0.08, 10.0
"""Seconds of the clock within which a call is killed; seconds to wait for its change of the state."""
OPERATIONS = 12
"""Changes of the files by one call, at most."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.rollouts", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="how many (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="of calls and moments (default 0)")
    parser.add_argument("--folder", type=Path, default=Path("runs/rollouts"), help="where all of it lies")
    flags = parser.parse_args(argv)
    shutil.rmtree(flags.folder, ignore_errors=True)
    flags.folder.mkdir(parents=True)
    registry = toy.registry(flags.folder / "drafts", versions=3)
    rng, killed = random.Random(flags.seed), collections.Counter[str]()
    taken: collections.Counter[str] = collections.Counter()
    poller = fork(lambda: poll(registry.path))
    calls = 0
    while killed.total() < flags.kills:
        calls += 1
        name, call = choose(registry, flags.folder, rng)
        before = registry.history.transitions
        versions = registry.versions()
        fate = killed_at_random(call, registry.path / STATE, rng)
        if fate == "killed":
            killed[name] += 1
        check(registry, before, versions)
        after = registry.history.transitions
        if fate == "killed" and len(after) > len(before):
            taken[name] += 1
        # The same call once more: what was taken is not taken again.
        if len(after) == len(before) and registry.versions() == versions:
            finish(call)
        elif name == "advance":
            finish(call)
            assert len(registry.history.transitions) == len(before) + 1, "a step was taken twice"
        check(registry, before, versions)
        done = len(registry.history.transitions) - len(before), len(registry.versions()) - len(versions)
        assert done == ((0, 1) if name == "add" else (1, 0)), f"{name}: {done}"
    os.kill(poller, signal.SIGTERM)
    status = os.waitstatus_to_exitcode(os.waitpid(poller, 0)[1])
    assert status == 0, "the poller saw what is not whole"
    left = [*registry.path.glob(".partial-*")]
    revision = registry.state().revision
    print(f"{killed.total()} kills in {calls} calls; revision {revision}, {len(left)} files left over")
    print("| call | killed | of these, with the step taken |\n|---|---|---|")
    for name, count in sorted(killed.items()):
        print(f"| {name} | {count} | {taken[name] if name != 'add' else '–'} |")
    return 0


def choose(registry: DraftRegistry, folder: Path, rng: random.Random) -> tuple[str, Callable[[], int]]:
    """Picks a call that is possible now."""
    history = registry.history
    state, where = history.last, f"--registry={registry.path}"
    if state.candidate is None:
        others = [version for version in registry.versions() if version != state.stable]
        names = ["promote", "start", "start", "start", *(["add"] if len(others) < 6 else [])]
        names += ["rollback"] if history.before() is not None else []
    else:
        names = ["advance"] * 6 + ["abort", "rollback"]
        others = []
    name = rng.choice(names)
    if name == "add":
        return name, lambda: bool(registry.add(toy.draft(f"weights {rng.random()}"))) - 1
    if name in ("promote", "rollback"):
        version = [rng.choice(others)] if name == "promote" else []
        return name, lambda: errors.run(registry_command.main, [name, *version, where], command="registry")
    more = []
    if name == "start":
        more = [rng.choice(others), "--margin=0.05", "--slower=0.3", "--least=50"]
    elif name == "advance":
        rate = rng.choice((0.5, 0.75, 0.75, 0.75))
        count = 900
        stable = round(count * (1 - state.share) / state.share)
        log = served.write(
            folder / "log.jsonl",
            served.lines(state.stable, min(stable, 9_000), 0.7, revision=state.revision, seed=state.revision),
            served.lines(
                str(state.candidate),
                min(count, round(9_000 * state.share / (1 - state.share))),
                rate,
                revision=state.revision,
                seed=state.revision,
            ),
        )
        more = [f"--log={log}"]
        if state.share < 0.1:  # a hundred prompts are too few to tell a small difference
            return name, lambda: step_on(registry, state.revision)
    return name, lambda: errors.run(rollout_command.main, [name, *more, where], command="rollout")


def step_on(registry: DraftRegistry, revision: int) -> int:
    """Goes on from the first stage, whatever the evidence, if it is still that stage."""
    stage, settings = registry.history.last, rollout.settings_of(registry)
    if stage.revision == revision and settings is not None:
        rollout.act(registry, stage, settings, rollout.Decision("advance", "whatever the evidence"))
    return 0


def killed_at_random(call: Callable[[], int], state: Path, rng: random.Random) -> str:
    """Runs a call in a process, which is killed at a moment of one of three kinds.

    By the clock, before its n-th change of the files, or as soon as the state is another.
    """
    kind, count, before = rng.choice(("clock", "change", "state")), rng.randrange(OPERATIONS), state.stat()

    def run() -> int:
        if kind == "change":
            toy.die_before(count)
        return call()

    child = fork(run)
    if kind == "clock":
        time.sleep(rng.uniform(0, LONGEST))
    elif kind == "state":
        until = time.monotonic() + PATIENCE
        while os.path.samestat(before, state.stat()) and time.monotonic() < until:
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
    if kind != "change":
        os.kill(child, signal.SIGKILL)
    return "killed" if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL else "ended"


def finish(call: Callable[[], int]) -> None:
    """Gives a call again, to its end."""
    status = os.waitstatus_to_exitcode(os.waitpid(fork(call), 0)[1])
    assert status in (0, 1, 3, 4), f"status {status}"


def fork(call: Callable[[], int]) -> int:
    """Starts a process."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        status = call()
    finally:
        os._exit(status)


def poll(path: Path) -> int:
    """Polls the registry as a server would, and checks what it is told to serve."""
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    registry, known = DraftRegistry(path), 0
    while not ended:
        state = registry.state()
        assert state.revision >= known
        if state.revision > known:
            known = state.revision
            for version in filter(None, (state.stable, state.candidate)):
                registry.check(version)
        time.sleep(0.002)
    return 0


def check(registry: DraftRegistry, before: list[object], versions: list[str]) -> None:
    """Holds what must hold after every kill."""
    fresh = DraftRegistry(registry.path)
    after = fresh.history.transitions
    assert after[: len(before)] == before, "a transition was lost"
    assert len(after) - len(before) in (0, 1), "more than one step"
    assert [one.revision for one in after] == list(range(1, len(after) + 1))
    assert fresh.versions()[: len(versions)] == versions
    for version in fresh.versions():
        fresh.check(version)
    state = fresh.state()
    assert state.stable in fresh.versions()
    assert state.candidate is None or state.candidate in fresh.versions()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
