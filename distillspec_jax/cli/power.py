"""`distillspec power`: how many prompts a comparison needs."""

from __future__ import annotations

import sys

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import CommandParser
from distillspec_jax.errors import UsageError

HELP = """Estimates from a pilot, the results.jsonl of a short sweep, how many prompts it takes to detect a
change in block efficiency or measured speed-up, by the spread over the pilot's prompts (delta method) and
Student's t. `shows +` is the rise that the pilot's own prompts would show; `at most` uses the upper end of
the spread's 90 % interval.

  distillspec power runs/pilot/results.jsonl --change=5
  distillspec power runs/pilot/results.jsonl --change=5 --against=supervised   # paired, prompt by prompt
"""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("power", HELP)
    add = parser.add_argument
    add("results", nargs="+", metavar="RESULTS", help="results.jsonl of a pilot")
    add("--change", type=float, default=5.0, metavar="PERCENT", help="change to detect (default: 5)")
    add("--against", metavar="LABEL", help="compare with this drafter, on the same prompts")
    add("--power", type=float, default=0.8, help="probability of detecting it (default: 0.8)")
    add("--level", type=float, default=0.05, help="probability of a false alarm (default: 0.05)")
    add("--block_size", type=int, metavar="N", help="use only rows of this block size")
    flags = parser.parse(argv)
    if not 0.01 <= flags.change <= 1_000:
        raise UsageError(f"--change={flags.change}: must lie in [0.01, 1000], per cent")
    for name, least, most in (("power", 0.1, 0.999), ("level", 1e-6, 0.5)):
        if not least <= getattr(flags, name) <= most:
            raise UsageError(f"--{name}={getattr(flags, name)}: must lie in [{least:g}, {most:g}]")

    from distillspec_jax.evaluation import results, sample_size
    from distillspec_jax.reports import records

    rows, broken = results.usable(flags.results)
    records.print_broken(broken, len(rows))
    sizes = sorted({row.block_size for row in rows if row.is_drafted})
    if not sizes:
        raise UsageError(
            f"{', '.join(flags.results)}: no drafter was measured: a pilot has rows with a draft"
        )
    if flags.block_size is not None:
        if flags.block_size not in sizes:
            raise UsageError(f"--block_size={flags.block_size}: the pilot has {', '.join(map(str, sizes))}")
        rows = [row for row in rows if row.block_size == flags.block_size]
    found = sample_size.requirements(
        rows, flags.change / 100, against=flags.against, wanted=flags.power, level=flags.level
    )
    seen = f"a change of {flags.change:g} % seen with probability {flags.power:g} at level {flags.level:g}"
    records.print_requirements(seen, found)
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="power"))
