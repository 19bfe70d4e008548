"""`python -m tests.attack`: tries the cases, prints what did not hold, and writes the table.

    python -m tests.attack                                 # all of them, and 200 kills (hours)
    python -m tests.attack --groups=outputs,flags          # some groups
    python -m tests.attack --share=0.05 --seed=3           # of each group so much, drawn by the seed
    python -m tests.attack --match='report .*dev'          # those whose line matches
    python -m tests.attack --of a.jsonl b.jsonl            # one table of the outcomes of several runs

Fails if anything of the user's was lost, or more than half a percent did not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.attack import sandbox, table

ROOT = Path(__file__).parents[2]
COMPILED = "JAX_COMPILATION_CACHE_DIR"
LEAST_HELD = 0.995


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    add = parser.add_argument
    add("--groups", default="", help="of cases, and `kills`, `together` (default: all)")
    add("--share", type=float, default=1.0, help="of each group (default 1)")
    add("--quick", action="store_true", help="a few seeded cases of each group, as in `make test`")
    add("--seed", type=int, default=0, help="of the share")
    add("--match", default="", help="a regular expression that a case's line must match")
    add("--kills", type=int, default=200, help="how many (default 200)")
    add("--outcomes", type=Path, help="also write every outcome here, as JSON lines")
    add("--table", type=Path, help="write the table here")
    add("--of", type=Path, nargs="+", default=[], help="try nothing: a table of outcomes of earlier runs")
    flags = parser.parse_args(argv)
    if flags.of:
        lines = [line for path in flags.of for line in path.read_text().splitlines()]
        return _tell([json.loads(line) for line in lines], flags.table)
    if sandbox.MARK not in os.environ:
        return _enter(flags, argv)
    return _attack(flags, Path(os.environ[sandbox.MARK]), argv)


def _enter(flags: argparse.Namespace, argv: list[str]) -> int:
    """Starts again inside a namespace, or in a temporary folder where there can be none."""
    with tempfile.TemporaryDirectory(prefix="attack-") as name, contextlib.ExitStack() as opened:
        inside = Path(name, "inside")
        inside.mkdir()
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        cache = os.environ.setdefault(COMPILED, str(inside / "compiled"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
        again = [sys.executable, "-m", "tests.attack", *argv]
        files = [
            opened.enter_context(path.open("w")).fileno() for path in (flags.table, flags.outcomes) if path
        ]
        # Opened here, where they can be; the namespace writes them by their descriptors.
        for option, number in zip(
            [o for o in ("table", "outcomes") if getattr(flags, o)], files, strict=True
        ):
            again.append(f"--{option}=/dev/fd/{number}")
        if sandbox.possible():
            return sandbox.within(inside, again, "" if cache.startswith(name) else cache, files)
        environment = {**os.environ, sandbox.MARK: str(inside)}
        return subprocess.run(again, env=environment, pass_fds=files, check=False).returncode


def _attack(flags: argparse.Namespace, folder: Path, argv: list[str]) -> int:
    from tests.attack import attacker, cases, kills, world

    began = time.monotonic()
    world.preload()
    resting = attacker.bytes_of_imports()
    attack = attacker.Attacker(folder)
    attack.build()
    wanted = flags.groups.split(",") if flags.groups else [*cases.GROUPS, "kills", "together"]
    rng = random.Random(flags.seed)
    chosen = cases.quick(flags.seed) if flags.quick else []
    for group in wanted if not flags.quick else ():
        if group in cases.GROUPS:
            known = [
                case for case in cases.group(group) if not flags.match or re.search(flags.match, str(case))
            ]
            chosen += rng.sample(known, round(flags.share * len(known)))
    rooted = sandbox.ROOTED in os.environ
    chosen = [case for case in chosen if rooted or not case.root]
    log = flags.outcomes.open("w") if flags.outcomes else None
    records = []

    def note(record: table.Record) -> None:
        records.append(record)
        if log:
            print(json.dumps(record), file=log, flush=True)

    note(table.of_run(_told(argv), _commit(), resting))
    for number, outcome in enumerate(attack.outcomes(chosen), 1):
        note(table.of_case(outcome))
        if outcome.fate == "failed":
            print(f"FAILED {outcome.case}\n       {'; '.join(outcome.reasons)!a}", flush=True)
        if number % 200 == 0:
            print(f"{number} of {len(chosen)}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    tried: list[Iterator[kills.Killed]] = []
    if "kills" in wanted and not flags.quick:
        tried.append(kills.kills(attack, flags.kills, flags.seed))
    if "together" in wanted and not flags.quick:
        tried.append(kills.together(attack, flags.seed))
    for killed in itertools.chain(*tried):
        note(table.of_kill(killed))
        if killed.differences:
            print(f"UNEQUAL {killed}", flush=True)
    return _tell(records, flags.table)


def _told(argv: list[str]) -> list[str]:
    """The flags that say what was tried, and not where it was written."""
    return [word for word in argv if not word.startswith(("--table", "--outcomes"))]


def _commit() -> str:
    asked = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "an unknown commit"


def _tell(records: list[table.Record], path: Path | None) -> int:
    page = table.text(records)
    print(page)
    if path:
        path.write_text(page + "\n")
    return 0 if table.held(records, LEAST_HELD) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
