"""`distillspec report`: tables and one HTML page from any number of results files."""

from __future__ import annotations

import sys

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import CommandParser
from distillspec_jax.errors import UsageError
from distillspec_jax.terminal import say

HELP = """Prints tables of any number of results.jsonl files, and writes them with plots to one self-contained
HTML page.

  distillspec report runs/sweep/results.jsonl --output=report.html
  distillspec report runs/*/results.jsonl --training=distilled=runs/my_draft/metrics.jsonl
"""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("report", HELP)
    add = parser.add_argument
    add("results", nargs="+", metavar="RESULTS", help="results.jsonl files of sweeps or of the demo")
    add("--output", default="report.html", metavar="FILE", help="the page to write (default: report.html)")
    add(
        "--training",
        action="append",
        default=[],
        metavar="LABEL=FILE",
        help="metrics.jsonl of a training run to plot; repeatable",
    )
    add("--title", help="the page's heading")
    add("--block_size", type=int, default=5, help="the block size of the headline (default: 5)")
    flags = parser.parse(argv)
    training = {}
    for argument in flags.training:
        label, _, path = argument.partition("=")
        if not label or not path:
            raise UsageError(f"--training={argument}: write LABEL=FILE")
        training[label] = path
    if flags.block_size < 1:
        raise UsageError(f"--block_size={flags.block_size}: must be at least 1")

    from distillspec_jax import outputs
    from distillspec_jax.evaluation import results
    from distillspec_jax.reports import records, tables
    from distillspec_jax.reports.html import is_report, report

    rows, broken = results.usable(flags.results)
    for path in training.values():
        outputs.reads(path)
    flags.output = outputs.place(flags.output, folder=False)
    outputs.check(flags.output, is_report)  # before anything is printed
    records.print_broken(broken, len(rows))
    tables.print_table(rows)
    tables.print_findings(rows, block_size=flags.block_size)
    page = report(
        rows,
        flags.output,
        training=training,
        broken=broken,
        title=flags.title,
        block_size=flags.block_size,
    )
    say("", f"report: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="report"))
