"""`python -m tests.faults`: kills a training process repeatedly, and compares it with an uninterrupted one.

Each kill is followed by the same command again, which resumes the run. Files in `--folder` are reused, so
that this command can be stopped and given again, too. Fails if any array or report differs by a bit.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

from tests.faults.killing import MOMENTS, Job, differences, kill

REFERENCE = "reference"
SHARES = (1, 2, 2)
"""Of the moments."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="how many (default 20)")
    parser.add_argument("--steps", type=int, default=300, help="of a run (default 300)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--folder", type=Path, default=Path("runs/faults"), help="where all is kept")
    flags = parser.parse_args(argv)
    job, log = Job(flags.folder.absolute(), flags.steps), flags.folder / "kills.jsonl"
    job.prepare()
    job.finish(REFERENCE, keep=flags.steps, SAVE_PERIOD=1)
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    while (killed := _killed(done)) < flags.kills:
        rng = random.Random(1000 * flags.seed + len(done))
        run = f"run_{len(done) - killed}"  # a new one when one is over
        moment = rng.choices(MOMENTS, SHARES)[0]
        row = {"run": run, **kill(job.start(run), job.folder / run, moment, rng)}
        row["differences"] = differences(job, run, REFERENCE, whole=row["fate"] == "finished")
        done.append(row)
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{_killed(done)} of {flags.kills}: {row}", file=sys.stderr, flush=True)
    last = done[-1]["run"]
    job.finish(last)
    unequal = differences(job, last, REFERENCE, whole=True)
    print(table(done))
    print(f"\nAfter the last, to the end of its run: {', '.join(unequal) or 'bit-equal'}.")
    return int(bool(unequal) or any(row["differences"] for row in done))


def _killed(rows: list[dict[str, Any]]) -> int:
    return sum(row["fate"] == "killed" for row in rows)


def table(rows: list[dict[str, Any]]) -> str:
    """The kills in Markdown."""
    lines = ["| kill | moment | seconds after its sign | newest whole step | half-written step | compared |"]
    lines += ["|---|---|---|---|---|---|"]
    for number, row in enumerate((row for row in rows if row["fate"] == "killed"), start=1):
        cells = [number, row["moment"], f"{row['delay']:.3f}", row["step"], "yes" if row["torn"] else "no"]
        cells.append(", ".join(row["differences"]) or "bit-equal")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
