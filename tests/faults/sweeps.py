"""`python -m tests.faults.sweeps`: a sweep killed at random moments, given the same command again each time.

Between kills every row that the file held must be there, byte for byte. At the end its rows must be those of
a sweep in peace, but for times: nothing is lost, and nothing is there twice.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from tests.faults.shards import COMMANDS, differences, finish, prepare, start

PROMPTS = 24
RESULTS = Path("sweep", "results.jsonl")


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.sweeps", description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="how many (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--folder", type=Path, default=Path("runs/sweeps"), help="where all of it lies")
    flags = parser.parse_args(argv)
    shutil.rmtree(flags.folder, ignore_errors=True)
    one, many = flags.folder.absolute() / "one", flags.folder.absolute() / "many"
    prepare(flags.folder, PROMPTS)
    line = COMMANDS["sweep"]
    finish(one, line)  # compiles for the others, too
    again = flags.folder.absolute() / "again"
    again.mkdir()
    began = time.monotonic()
    finish(again, line)
    whole = time.monotonic() - began

    rng, kills, calls = random.Random(flags.seed), 0, 0
    print("| kill | after, s | rows before | rows after |\n|---|---|---|---|")
    while kills < flags.kills:
        before, calls = complete_lines(many / RESULTS), calls + 1
        process, moment = start(many, line), rng.uniform(0, whole)
        process.join(moment)
        process.kill()
        process.join()
        after = complete_lines(many / RESULTS)
        assert after[: len(before)] == before, "rows that were there are gone"
        if process.exitcode != -signal.SIGKILL:  # it came to its end first: another sweep
            assert process.exitcode == 0, f"exit {process.exitcode}"
            assert not differences(one / "sweep", many / "sweep"), "the sweep is another"
            shutil.rmtree(many / "sweep")
            continue
        kills += 1
        print(f"| {kills} | {moment:.2f} | {len(before)} | {len(after)} |", flush=True)
    finish(many, line)
    unequal = differences(one / "sweep", many / "sweep")
    print(f"{kills} kills in {calls} calls: {', '.join(unequal) or 'the same rows but for times'}")
    return int(bool(unequal))


def complete_lines(path: Path) -> list[bytes]:
    """The lines of a file that have their end."""
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    return [line for line in lines if line.endswith(b"\n")]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
