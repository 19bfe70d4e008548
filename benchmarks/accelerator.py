"""`python -m benchmarks.accelerator`: checks this GPU or TPU; starts no new check after eight minutes.

Greedy texts with and without a draft, the everyday part of the exactness grid, the losses of three
distillation steps beside those of a CPU, and the benchmarks that say most about a device. It also runs on
a CPU, where the comparison of the losses is void. Not yet run on a GPU or a TPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from benchmarks import speculative, steps, training
from benchmarks.greedy_identity import greedy_identity
from benchmarks.measurement import Measurement
from distillspec_jax.cli import errors
from distillspec_jax.terminal import news, say

EXACTNESS = ("tests/exactness/test_outputs.py", "-k", "exact_distribution", "-m", "not slow")
LOSS_TOLERANCE = 1e-3
"""Relative: sums of float32 in another order, through three updates."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """A check, or a measurement.

    Attributes:
      id: its name.
      holds: None where there is nothing to hold, or no time was left.
      value: the number, where there is one.
      seconds: that it took, compilation included.
      what: in words.
    """

    id: str
    holds: bool | None
    value: float | None
    seconds: float
    what: str


def exactness() -> tuple[bool, float | None, str]:
    """The everyday cells of the grid that compare joint distributions with enumeration."""
    root = Path(__file__).parents[1]
    asked = os.environ | {"JAX_PLATFORMS": jax.default_backend().replace("gpu", "cuda")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *EXACTNESS]
    done = subprocess.run(command, cwd=root, env=asked, capture_output=True, text=True, check=False)
    last = (done.stdout.strip().splitlines() or ["nothing was printed"])[-1]
    return done.returncode == 0, None, f"{' '.join(EXACTNESS)}: {last}"


def losses_beside_a_cpu() -> tuple[bool, float | None, str]:
    """Three distillation steps of the zoo's pair here and, in another process, on a CPU."""
    here = training.losses()
    command = [
        sys.executable,
        "-c",
        "import json; from benchmarks import training; print(json.dumps(training.losses()))",
    ]
    asked = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=asked, capture_output=True, text=True, check=True)
    there = json.loads(done.stdout.splitlines()[-1])
    apart = float(np.max(np.abs(np.array(here) / np.array(there) - 1)))
    what = f"losses {', '.join(f'{x:.5f}' for x in here)}; on a CPU {', '.join(f'{x:.5f}' for x in there)}"
    return apart <= LOSS_TOLERANCE, apart, what


def greedy() -> tuple[bool, float | None, str]:
    """The share of greedy texts that are the target's own."""
    found = greedy_identity()
    return found.value == 1, found.value, found.what


def measured(measure: Callable[[], Measurement]) -> tuple[None, float | None, str]:
    """A benchmark: a number that need not be anything."""
    found = measure()
    return None, found.value, f"{found.what} ({found.low:.2f} – {found.high:.2f})"


CHECKS: dict[str, Callable[[], tuple[bool | None, float | None, str]]] = {
    "losses_beside_a_cpu": losses_beside_a_cpu,
    "greedy_identity": greedy,
    "exactness": exactness,
    "spec_vs_ar_bs1": functools.partial(measured, functools.partial(speculative.spec_vs_ar, 1)),
    "verify_cost_6_bs1": functools.partial(measured, functools.partial(steps.verify_cost, 1)),
    "training_precision": functools.partial(measured, training.training_precision),
    "on_policy_step_ratio": functools.partial(measured, training.on_policy_step_ratio),
    "spec_vs_ar_bs8": functools.partial(measured, functools.partial(speculative.spec_vs_ar, 8)),
}
"""What says most comes first: time may run out."""


def main(argv: list[str]) -> int:
    """Runs the command: status 1 where a check does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accelerator", description=__doc__)
    parser.add_argument("--minutes", type=float, default=8, help="starts no check after these (default: 8)")
    parser.add_argument("--output", type=Path, default=Path("runs/accelerator.json"))
    flags = parser.parse_args(argv)
    device = f"{jax.device_count()} × {jax.devices()[0].device_kind} ({jax.default_backend()})"
    machine = f"{device}, {os.cpu_count()} CPU cores, {platform.machine()}, JAX {jax.__version__}"
    began, found = time.monotonic(), []
    for name, check in CHECKS.items():
        before = time.monotonic()
        if before - began > 60 * flags.minutes:
            found.append(Finding(name, None, None, 0.0, "left out: the time was over"))
            continue
        news(f"{name} …")
        holds, value, what = check()
        found.append(Finding(name, holds, value, time.monotonic() - before, what))
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    rows = [dataclasses.asdict(one) for one in found]
    flags.output.write_text(
        json.dumps({"machine": machine, "found": rows}, indent=1) + "\n", encoding="utf-8"
    )
    say(machine, "", *table(found))
    return int(any(one.holds is False for one in found))


def table(found: list[Finding]) -> list[str]:
    """The findings in Markdown."""
    words = {True: "holds", False: "**fails**", None: ""}
    lines = ["| id | | value | seconds | what |", "|---|---|---|---|---|"]
    for one in found:
        value = "" if one.value is None else f"{one.value:.3g}"
        lines.append(f"| {one.id} | {words[one.holds]} | {value} | {one.seconds:.0f} | {one.what} |")
    return lines


if __name__ == "__main__":
    sys.exit(errors.run(main, command="accelerator"))
