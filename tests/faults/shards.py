"""`python -m tests.faults.shards`: shards of `collect` and `sweep`, two of them killed, against one process.

Every shard is a process of its own. Those that were killed are given the same command again, all are merged,
and the result is compared with what one process writes: byte for byte, but for the times in a sweep's rows.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Collection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from distillspec_jax.cli import main as console
from tests import pair

PRELOADED = [
    "distillspec_jax.cli.main",
    "distillspec_jax.cli.bindings",
    "distillspec_jax.distillation.collect",
    "distillspec_jax.evaluation.sweep",
    "distillspec_jax.generation.file_job",
    "distillspec_jax.reports.tables",
]
"""Modules that commands import, none of which starts JAX."""
ROWS, SAMPLES = 1_100, 2
"""Prompts and texts of each: with distributions, a shard has whole files of 256 texts."""
TIMES = ("seconds", "baseline_seconds", "speedup", "speedup_ci95", "timing")
PATIENCE, POLL = 900.0, 0.01
"""Seconds that a shard may take to its first line, and between two looks at it."""

COMMANDS = {
    "collect": (
        "collect --model=../target --drafter=../draft --gin_file=tasks/jsonl.gin --gin.TASK_NAME=said "
        "--gin.TRAIN_FILE=../train.jsonl --gin.INPUTS_LENGTH=16 --gin.TARGETS_LENGTH=8 "
        f"--num_samples={SAMPLES} --top_logprobs=4 --batch_size=64 --output=collect"
    ),
    "sweep": (
        "sweep --target=../target --drafter=d=../draft --drafter=lookup --inputs=../train.jsonl --limit=12 "
        "--max_new_tokens=8 --block_sizes=1,2,3 --temperatures=0,1 --timing_prompts=2 --output_dir=sweep"
    ),
}
SIGN = {"collect": "texts.jsonl.partial", "sweep": "shard.json"}
"""The file of a shard on whose first line it is killed: texts that stay, or a cell that is being measured."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.shards", description=__doc__)
    parser.add_argument("--shards", type=int, default=8, help="how many (default 8)")
    parser.add_argument("--killed", type=int, default=2, help="so many of them (default 2)")
    parser.add_argument("--only", choices=COMMANDS, help="one of the two")
    parser.add_argument("--folder", type=Path, default=Path("runs/shards"), help="a new folder for all of it")
    flags = parser.parse_args(argv)
    one, many = flags.folder.absolute() / "one", flags.folder.absolute() / "many"
    prepare(flags.folder)
    unequal = []
    for name in [flags.only] if flags.only else COMMANDS:
        line = COMMANDS[name]
        finish(one, line)
        for index in range(flags.shards):
            command = f"{line} --shard={index}/{flags.shards}"
            if index < flags.killed:
                part = many / f"{name}-{index:05}-of-{flags.shards:05}"
                kill(start(many, command), part / SIGN[name])
                print(f"{name}: shard {index} killed", flush=True)
            finish(many, command)
        finish(many, f"merge {name}")
        found = differences(one / name, many / name)
        print(f"{name}: {', '.join(found) or 'byte-equal but for times'}", flush=True)
        unequal += found
    return int(bool(unequal))


def prepare(folder: Path, rows: int = ROWS) -> None:
    """Writes the pair and the prompts, and makes the folders of one process and of many."""
    for name in ("one", "many"):
        (folder / name).mkdir(parents=True)
    pair.write(folder / "target", pair.target())
    pair.write(folder / "draft", pair.draft())
    lines = ({"inputs": f"say {i:04}", "targets": f"{i:04} is said"} for i in range(rows))
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def start(folder: Path, line: str) -> BaseProcess:
    """Starts a command in a folder, as a process of its own that has all imports behind it."""
    os.environ |= {
        "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(PRELOADED)
    process = forking.Process(target=_run, args=(folder, line.split()))
    process.start()
    return process


def _run(folder: Path, argv: list[str]) -> None:
    os.chdir(folder)
    sys.argv = ["distillspec", *argv]
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (until the process ends)
    sys.exit(console.main(argv))


def finish(folder: Path, line: str) -> None:
    """Runs a command in a folder to its end."""
    process = start(folder, line)
    process.join()
    assert process.exitcode == 0, line


def kill(process: BaseProcess, sign: Path) -> None:
    """Kills a process when a file has its first line."""
    deadline = time.monotonic() + PATIENCE
    while process.is_alive() and not _lines(sign) and time.monotonic() < deadline:
        time.sleep(POLL)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"it ended by itself: {process.exitcode}"


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def differences(one: Path, other: Path, names: Collection[str] | None = None) -> list[str]:
    """Names of files (all, or these) that differ in bytes; of rows of a sweep, in anything but times."""
    every = {str(path.relative_to(root)) for root in (one, other) for path in root.rglob("*")}
    return sorted(name for name in names or every if _content(one / name) != _content(other / name))


def _content(path: Path) -> Any:
    if not path.is_file():
        return None
    if path.name != "results.jsonl":
        return path.read_bytes()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
