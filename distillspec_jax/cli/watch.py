"""`distillspec watch`: acceptance in service, and whether it is still worth a draft."""

from __future__ import annotations

import sys

from distillspec_jax import bounds
from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import CommandParser
from distillspec_jax.errors import UsageError
from distillspec_jax.terminal import say

HELP = """Adds up the counts that `distillspec generate` writes with every output: acceptance and tokens per
target call, with 95 % intervals over prompts, for each file or each window of it. With --at_least=RATE the
latest whole window of each file is judged (a shorter file as it is), and the exit status is
  0  no file's acceptance is known to be lower
  1  some file's is: its whole interval lies below RATE
  3  none's is, but some file cannot be judged: too few prompts, or no draft was tested
Use `distillspec advise` to find the break-even rate.

  distillspec watch served.jsonl --window=1000 --at_least=0.55
  distillspec watch now=a.jsonl next=b.jsonl        # two drafts, each serving part of the traffic
"""

TOO_LOW, NOT_JUDGED = 1, 3
"""Exit statuses."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("watch", HELP)
    add = parser.add_argument
    add("files", nargs="+", metavar="[LABEL=]FILE", help="output of generate; it may still be growing")
    add("--window", type=int, metavar="N", help="lines per window (default: all in one)")
    add("--at_least", type=float, metavar="RATE", help="exit 1 if the latest window is accepted less often")
    flags = parser.parse(argv)
    if flags.window is not None and flags.window < 1:
        raise UsageError(f"--window={flags.window}: must be at least 1")
    bounds.check_most("--window", flags.window, bounds.COUNT)
    if flags.at_least is not None and not 0 <= flags.at_least <= 1:
        raise UsageError(f"--at_least={flags.at_least}: must lie in [0, 1]")

    from pathlib import Path

    from distillspec_jax.evaluation import served_lines
    from distillspec_jax.evaluation.paired import MIN_PROMPTS
    from distillspec_jax.reports import tables

    found = {}
    for argument in flags.files:
        label, equals, path = argument.partition("=")
        if not equals or Path(argument).is_file():
            label, path = argument, argument
        if label in found:
            raise UsageError(f"{argument}: the label {label!r} is taken; write LABEL=FILE")
        found[label] = list(served_lines.windows(served_lines.read(path), flags.window))
    tables.print_served(found)
    status = 0
    for label, windows in found.items() if flags.at_least is not None else ():
        lines, latest = served_lines.latest_whole(windows)
        if latest.acceptance.ends is None:
            lack = "no draft tested" if not latest.total.tested else f"at least {MIN_PROMPTS} needed"
            say(f"{label}: lines {lines} cannot be judged: {len(latest.records):,} prompts, {lack}")
            status = status or NOT_JUDGED
        elif latest.acceptance.high < flags.at_least:
            least = f"{flags.at_least:g}"
            say(f"{label}: acceptance of lines {lines} is below {least}: distil on what is asked now")
            status = TOO_LOW
    return status


if __name__ == "__main__":
    sys.exit(errors.run(main, command="watch"))
