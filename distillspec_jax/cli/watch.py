"""`distillspec watch`: acceptance of what was served, and whether it is still worth a draft."""

from __future__ import annotations

import sys

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import CommandParser
from distillspec_jax.errors import UsageError

HELP = """Adds up the counts that `distillspec generate` writes with every output: acceptance and tokens per
target call, with 95 % intervals over prompts, for each file or each window of it. With --at_least=RATE it
exits 1 if any file's latest window has its whole 95 % interval below RATE; use `distillspec advise` to find
the break-even rate.

  distillspec watch served.jsonl --window=1000 --at_least=0.55
  distillspec watch now=a.jsonl next=b.jsonl        # two drafts, each serving part of the traffic
"""

TOO_LOW = 1
"""Exit status."""


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
    if flags.at_least is not None and not 0 <= flags.at_least <= 1:
        raise UsageError(f"--at_least={flags.at_least}: must lie in [0, 1]")

    from pathlib import Path

    from distillspec_jax.evaluation import served, tables

    found = {}
    for argument in flags.files:
        label, equals, path = argument.partition("=")
        if not equals or Path(argument).is_file():
            label, path = argument, argument
        if label in found:
            raise UsageError(f"{argument}: the label {label!r} is taken; write LABEL=FILE")
        found[label] = list(served.windows(served.read(path), flags.window))
    tables.print_served(found)
    low = [
        label
        for label, windows in found.items()
        if flags.at_least is not None and windows[-1][1].acceptance.high < flags.at_least
    ]
    for label in low:
        print(f"{label}: the latest acceptance is below {flags.at_least:g}: distil on what is asked now")
    return TOO_LOW if low else 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="watch"))
