"""`distillspec merge`: the shards of a run put together."""

from __future__ import annotations

import sys
from pathlib import Path

from distillspec_jax import outputs, shards
from distillspec_jax.buckets import stores
from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import CommandParser
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.terminal import news, say

HELP = """Combines the shards of a run into the output that one process would have written, except for times:

  for i in 0 1 2 3; do distillspec generate ... --output=out.jsonl --shard=$i/4 --resume & done; wait
  distillspec merge out.jsonl

OUTPUT is the output path of the run; its shards are next to it, as OUTPUT-00000-of-00004 and so on.
If a shard is missing, unfinished or from another run, the command names it and writes nothing. The shards
stay; remove them afterwards.
"""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("merge", HELP)
    parser.add_argument("output", metavar="OUTPUT", help="the --output or --output_dir of the run")
    output = Path(parser.parse(argv).output)
    folders = shards.find(output)
    card = shards.read_card(folders[0])

    if card.command == "generate":
        from distillspec_jax.generation import file_job

        file_job.merge_files(folders, str(output))
    elif card.command == "collect":
        from distillspec_jax.distillation import collect

        collect.merge_sets(folders, output)
    elif card.command == "sweep":
        from distillspec_jax.evaluation import result_shards
        from distillspec_jax.evaluation.sweep import RESULTS
        from distillspec_jax.reports import tables

        results = outputs.place(output, folder=True) / RESULTS
        rows = result_shards.merge_rows(folders, results)
        outputs.publish(results)
        tables.print_table(rows)
        tables.print_findings(rows)
        output /= RESULTS
    elif card.command == "evaluate":
        from distillspec_jax.evaluation import held_out, held_out_shards
        from distillspec_jax.reports import tables

        what, found = held_out_shards.merge_held_out(folders)
        tables.print_held_out(what, found)
        held_out.write(outputs.place(output, folder=False), found)
    else:
        known = ("generate", "collect", "sweep", "evaluate")
        raise UsageError(
            f"{folders[0] / shards.CARD}: unknown command {card.command!r}: {nearest(card.command, known)}"
        )
    news(f"{len(folders)} shards of `{card.command}`, merged")
    say(stores.address(output))
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="merge"))
