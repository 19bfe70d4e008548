"""`python -m tests.faults.slurm`: preemption and an array of shards under a SLURM of this machine.

`launch/slurm_here.sh start FOLDER` starts it, and prints what `SLURM_CONF` is to be. A training job in the
partition `low` is displaced by one in `high`, goes back into the queue and ends; it is compared bit for bit
with a run left in peace. Then shards of `generate` are an array, one of whose tasks is killed; merged, they
are the bytes of one process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from distillspec_jax import checkpoint
from tests.faults import killing, shards

STEPS = 60
PATIENCE, POLL = 1800.0, 0.2
"""Seconds that a job may take to what is waited for, and between two looks at it."""

GENERATE = (
    "generate --model=../target --drafter=../draft --input=../train.jsonl --temperature=1 --max_new_tokens=8 "
    "--output=lines.jsonl"
)


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.slurm", description=__doc__)
    parser.add_argument("--shards", type=int, default=8, help="how many (default 8)")
    parser.add_argument("--only", choices=("preempted", "array"), help="one of the two")
    parser.add_argument("--folder", type=Path, default=Path("runs/slurm"), help="a new folder for all of it")
    flags = parser.parse_args(argv)
    assert os.environ.get("SLURM_CONF"), "start a SLURM with launch/slurm_here.sh, and set SLURM_CONF"
    unequal = []
    if flags.only != "array":
        found = preempted(flags.folder.absolute() / "preempted")
        print(f"preempted, requeued, finished: {', '.join(found) or 'bit-equal'}", flush=True)
        unequal += found
    if flags.only != "preempted":
        found = array(flags.folder.absolute() / "array", flags.shards)
        print(f"{flags.shards} shards, one killed, merged: {', '.join(found) or 'byte-equal'}", flush=True)
        unequal += found
    return int(bool(unequal))


def preempted(folder: Path) -> list[str]:
    """Has a training job displaced when it has saved; what differs from one left in peace."""
    job = killing.Job(folder, STEPS)
    job.prepare()
    job.finish("reference")
    number = submit(folder, "slurm.sbatch", "low", *job.flags("run", keep=2), options=["--cpus-per-task=1"])
    wait(lambda: checkpoint.latest_step(folder / "run") is not None)
    high = ["--parsable", "--partition=high", "--exclusive", f"--output={folder}/high.log", "--wrap=true"]
    subprocess.run(["sbatch", *high], check=True, capture_output=True)
    wait(lambda: state(number) == "COMPLETED")
    assert field(number, "Restarts") != "0", "nobody displaced it"
    return killing.differences(job, "run", "reference", whole=True)


def array(folder: Path, count: int) -> list[str]:
    """Runs shards as an array, and kills one when it has written a line; what differs from one process."""
    shards.prepare(folder, rows=40 * count)
    one, many = folder / "one", folder / "many"
    shards.finish(one, GENERATE)
    line = [*GENERATE.split(), f"--shard=auto/{count}", "--resume"]
    options = [f"--array=0-{count - 1}", "--cpus-per-task=1"]
    number = submit(many, "slurm_array.sbatch", "low", *line, options=options)
    last = f"{number}_{count - 1}"  # its number is the array's: requeued by it, all tasks would start again
    growing = many / f"lines.jsonl-{count - 1:05}-of-{count:05}" / "lines.jsonl.partial"
    wait(lambda: growing.is_file() and growing.stat().st_size > 0)
    step = f"{field(last, 'JobId')}.0"  # its process; a job that is killed whole counts as cancelled
    subprocess.run(["scancel", "--signal=KILL", step], check=True)
    tasks = [f"{number}_{index}" for index in range(count)]
    wait(lambda: all(state(task) == "COMPLETED" for task in tasks))
    restarts = [field(task, "Restarts") for task in tasks]
    assert restarts[-1] != "0", "nobody killed it"
    assert set(restarts[:-1]) <= {"0"}, "tasks that nobody killed started again"
    shards.finish(many, "merge lines.jsonl")
    return shards.differences(one, many, ["lines.jsonl"])


def submit(folder: Path, script: str, partition: str, *line: str, options: list[str]) -> str:
    """Queues a command in a folder; its number."""
    environment = {
        **{"JAX_PLATFORMS": "cpu", **os.environ, "PYTHONPATH": str(killing.ROOT)},
        "DISTILLSPEC": str(Path(sys.executable).with_name("distillspec")),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
    }
    ours = [f"--partition={partition}", "--gpus-per-node=0", f"--output={folder}/%x-%A-%a.log", *options]
    command = ["sbatch", "--parsable", *ours, str(killing.ROOT / "launch" / script), *line]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip().partition(";")[0]


def field(number: str, name: str) -> str:
    """One field of what SLURM says of a job."""
    told = subprocess.run(["scontrol", "show", "job", number], capture_output=True, text=True, check=True)
    pairs = (word.partition("=") for word in told.stdout.split())
    return next(value for key, _, value in pairs if key == name)


def state(number: str) -> str:
    """The state of a job.

    Raises:
      AssertionError: it failed.
    """
    found = field(number, "JobState")
    assert found not in ("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"), (
        f"job {number}: {found}"
    )
    return found


def wait(until: Callable[[], bool]) -> None:
    """Waits until something holds."""
    deadline = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(POLL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
