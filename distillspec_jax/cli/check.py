"""`distillspec check`: whether the counts of results and of outputs agree with each other."""

from __future__ import annotations

import sys

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import CommandParser
from distillspec_jax.terminal import say

HELP = """Verifies the identities that tie the counts of every row of a sweep and every line of `generate`:
emitted tokens = accepted draft tokens + rounds - rounds cut by the end of a text; a round rejects at most one
tested draft token; sums over prompts, and their ratios (docs/acceptance.md). It names each line that breaks
an identity or cannot be read. Exit status:
  0  all identities hold
  1  some do not, or some lines cannot be read
  2  a file has no readable row or line

  distillspec check runs/sweep/results.jsonl served.jsonl
  distillspec check served.jsonl --record     # and the counts with every ratio
"""

VIOLATED = 1
"""Exit status."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("check", HELP)
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="results.jsonl of a sweep, or output of generate")
    add("--record", action="store_true", help="print the acceptance record of each row, or of all outputs")
    flags = parser.parse(argv)

    from distillspec_jax.evaluation import results
    from distillspec_jax.evaluation.audit import audit
    from distillspec_jax.reports import records

    found = {str(path): audit(path) for path in map(results.file_of, flags.files)}
    status = 0
    for path, one in found.items():
        if flags.record:
            records.print_audit(path, one)
        for said in (*one.violations, *one.broken):
            say(said)
        told = f"{path}: {one.lines:,} lines, {one.texts:,} texts"
        if one.violations or one.broken:
            status = VIOLATED
            wrong = len(one.violations)
            say(f"{told}: {wrong:,} violations, {len(one.broken):,} lines that cannot be read")
        else:
            say(f"{told}: every identity holds")
    return status


if __name__ == "__main__":
    sys.exit(errors.run(main, command="check"))
