"""`distillspec distill` of a tiny pair, as a process that can be killed at a chosen kind of moment."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from distillspec_jax import checkpoint
from distillspec_jax.training import throughput
from tests import pair

ROOT = Path(__file__).parents[2]
SAVE_PERIOD = 2
POLL = 0.001
PATIENCE = 300.0
"""Seconds that a process may take to come to its moment."""

MOMENTS = ("start", "training", "save")
"""Before the first step; between two looks at the clock; while a temporary folder of Orbax is there."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What all processes run: on-policy distillation, whose every part a restart must bring back.

    Attributes:
      folder: of the pair, the text, the compiled programs and the runs.
      steps: of a run.
    """

    folder: Path
    steps: int

    def prepare(self) -> None:
        """Writes the pair and the text, unless they are there."""
        if (self.folder / "valid.jsonl").exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        pair.write(self.folder / "target", pair.target())
        pair.write(self.folder / "draft", pair.draft())
        for name, rows in (("train", 50), ("valid", 4)):
            lines = ({"inputs": f"say {i:02}", "targets": f"{i:02} is said"} for i in range(rows))
            (self.folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def flags(self, run: str, keep: int, **changes: Any) -> list[str]:
        """The command, after `distillspec`; `changes` of its gin names, `__` for a dot."""
        macros = {
            "TARGET": self.folder / "target",
            "DRAFT": self.folder / "draft",
            "TASK_NAME": "said",
            "TRAIN_FILE": self.folder / "train.jsonl",
            "VALIDATION_FILE": self.folder / "valid.jsonl",
            "INPUTS_LENGTH": 16,
            "TARGETS_LENGTH": 8,
            "MODEL_DIR": self.folder / run,
            "TRAIN_STEPS": self.steps,
            "BATCH_SIZE": 4,
            "SAVE_PERIOD": SAVE_PERIOD,
            "EVAL_PERIOD": 15,
            "loop.LoopConfig.log_period": 5,
            "loop.LoopConfig.keep": keep,
            **{name.replace("__", "."): value for name, value in changes.items()},
        }
        files = ["--gin_file=tasks/jsonl.gin", "--gin_file=runs/distill.gin"]
        return ["distill", *files, *(f"--gin.{name}={value}" for name, value in macros.items())]

    def start(
        self, run: str, keep: int = 2, environment: Mapping[str, str] | None = None, **changes: Any
    ) -> subprocess.Popen[str]:
        """Starts the command, or goes on with what it left."""
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "distillspec_jax.cli.main", *self.flags(run, keep, **changes)],
            cwd=ROOT,
            env={**os.environ, **cache, "JAX_PLATFORMS": "cpu", **(environment or {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, run: str, keep: int = 2, **changes: Any) -> None:
        """Runs the command to its end."""
        process = self.start(run, keep, **changes)
        _, said = process.communicate()
        assert process.returncode == 0, said


def kill(process: subprocess.Popen[str], directory: Path, moment: str, rng: random.Random) -> dict[str, Any]:
    """Kills a process that has just been started.

    Args:
      directory: of its run.
      moment: one of `MOMENTS`; how long after its sign the signal goes out is drawn from `rng`.

    Returns:
      `moment`, `delay` in seconds, `fate` (`killed`, or `finished` where it was over before), `torn`
      (whether the kill left a step half-written) and `step`, the newest whole one.
    """
    delay = rng.uniform(0, {"start": 4.0, "training": 1.5, "save": 0.05}[moment])
    steps, before = directory / checkpoint.STEPS, checkpoint.latest_step(directory)
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        moved = checkpoint.latest_step(directory) != before  # or no kill would ever find a step to go on from
        if moment == "start" or (moved and (moment == "training" or _torn(steps))):
            break
        time.sleep(POLL)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), said
    fate = "killed" if process.returncode else "finished"
    found = {"moment": moment, "delay": round(delay, 3), "fate": fate, "torn": _torn(steps)}
    return found | {"step": checkpoint.latest_step(directory)}


def _torn(steps: Path) -> bool:
    return any(not path.name.isdecimal() for path in steps.glob("*"))


def lines(directory: Path) -> dict[tuple[int, str], dict[str, Any]]:
    """Whole lines of `metrics.jsonl` by step and split, less what depends on the clock."""
    found = {}
    path = directory / "metrics.jsonl"
    for line in path.read_text().splitlines(keepends=True) if path.exists() else ():
        if line.endswith("\n"):
            record = {k: v for k, v in json.loads(line).items() if k not in throughput.NAMES}
            found[record["step"], record["split"]] = record
    return found


def differences(job: Job, run: str, reference: str, whole: bool = False) -> list[str]:
    """What a run has that the reference has otherwise: reports, and every array of the newest step.

    Args:
      whole: the run is over, so that no report may be missing.
    """
    ours, theirs = lines(job.folder / run), lines(job.folder / reference)
    found = [f"report {key}" for key in ours if ours[key] != theirs.get(key)]
    if whole:
        found += [f"report {key} is missing" for key in theirs.keys() - ours.keys()]
    step = checkpoint.latest_step(job.folder / run)
    if step is None:
        return found
    for item in ("params", "optimizer"):
        part = Path(checkpoint.STEPS, str(step), item)
        mine, other = (_arrays(job.folder / name / part) for name in (run, reference))
        assert mine.keys() == other.keys()
        found += [
            f"{item}{name} of step {step}" for name in mine if mine[name].tobytes() != other[name].tobytes()
        ]
    return found


def _arrays(folder: Path) -> dict[str, np.ndarray]:
    with ocp.PyTreeCheckpointer() as checkpointer:
        local = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        arguments = jax.tree.map(
            lambda _: ocp.ArrayRestoreArgs(sharding=local), checkpoint.stored_shapes(folder)
        )
        tree = checkpointer.restore(folder, restore_args=arguments)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
