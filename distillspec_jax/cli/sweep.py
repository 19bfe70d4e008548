"""`distillspec sweep`: a grid of cells, each paired with autoregressive decoding in the same run."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distillspec_jax import shards
from distillspec_jax.buckets import stores
from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import (
    DRAFTER_HELP,
    DTYPE_HELP,
    RULE_HELP,
    SHARD_HELP,
    TASK_HELP,
    CommandParser,
    list_of,
    refuse_idle,
)
from distillspec_jax.cli.progress import INTERVAL, heartbeat
from distillspec_jax.errors import UsageError
from distillspec_jax.terminal import news, say

if TYPE_CHECKING:
    from distillspec_jax.evaluation.sweep import SweepProgress

HELP = """Measures acceptance, block efficiency and speed-up of any number of drafters over block sizes,
temperatures, verification rules and batch sizes. Each cell is compared with autoregressive decoding in the
same run, and adds a line to OUTPUT_DIR/results.jsonl. Cells already in that file are not measured again: to
resume a stopped sweep, run the same command.

  distillspec sweep --target=zoo:wiki_leads/target --drafter=supervised=zoo:wiki_leads/draft \\
      --drafter=distilled=zoo:wiki_leads/distilled --output_dir=runs/sweep

`distillspec report OUTPUT_DIR/results.jsonl` makes an HTML page of it. Values may also come from gin files,
as parameters of `sweep.sweep`; flags override them.
"""

_LABEL = re.compile(r"[\w .,+-]+")


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("sweep", HELP, gin=True)
    add = parser.add_argument
    add("--target", metavar="MODEL", help="a checkpoint directory or zoo:NAME")
    add(
        "--drafter",
        action="append",
        metavar="[LABEL=]MODEL",
        help=f"{DRAFTER_HELP}, with a label for tables; repeatable",
    )
    add("--task", help=TASK_HELP)
    add("--split", help="train, validation or test (default: test)")
    add("--inputs", metavar="FILE", help='JSONL of {"inputs": ..., "targets": ...} instead of a task')
    add(
        "--truncate_inputs", action="store_true", default=None, help="cut lines of --inputs that are too long"
    )
    add(
        "--metric",
        help="how to score the targets of --inputs: rouge, rouge2, bleu, number, answer or none (default)",
    )
    add("--limit", type=_number_or_all, metavar="N", help="number of prompts, or all (default: 64)")
    add("--chat", action="store_true", default=None, help="wrap prompts in the target's chat template")
    add("--block_sizes", type=list_of(int), metavar="N,N", help="drafted tokens per round (default: 1,3,5,7)")
    add("--temperatures", type=list_of(float), metavar="T,T", help="0 is greedy (default: 0,1)")
    add("--top_k", type=int, help="0 is off (default)")
    add("--top_p", type=float, help="1 is off (default)")
    add("--rules", type=list_of(str), metavar="RULE,RULE", help=f"each NAME or NAME:EPSILON; {RULE_HELP}")
    add("--batch_sizes", type=list_of(int), metavar="N,N", help="prompts per batch (default: 1)")
    add("--max_new_tokens", type=int, help="longest output in tokens, including EOS (default: the task's)")
    add("--seed", type=int, help="random seed (default: 0)")
    add("--timing_prompts", type=int, help="number of prompts to time; 0 for none (default: 16)")
    add("--repeats", type=int, help="runs of each timed batch; the fastest counts (default: 2)")
    add(
        "--measure_overlap",
        action="store_true",
        default=None,
        help="also record the overlap of the two distributions, the sum of min(p, q)",
    )
    add(
        "--assume_same_vocabulary",
        action="store_true",
        default=None,
        help="accept a pair with an unknown tokenizer",
    )
    add("--dtype", help=DTYPE_HELP)
    add("--shard", metavar="I/N", help=SHARD_HELP)
    add("--output_dir", metavar="DIR", help="folder for results.jsonl")
    flags = parser.parse(argv)
    refuse_idle(flags)
    given = {name: value for name, value in vars(flags).items() if name not in ("gin", "_binding")}
    given = {name: value for name, value in given.items() if value not in (None, [])}
    given = {name: value for name, value in given.items() if not name.startswith("gin_")}
    if "drafter" in given:
        given["drafters"] = _drafters(given.pop("drafter"))
    if given.get("limit") == "all":
        given["limit"] = None
    if not flags.gin.files and not flags.gin.bindings:
        for name, flag in (("target", "--target"), ("drafters", "--drafter"), ("output_dir", "--output_dir")):
            if name not in given:
                raise UsageError(f"{flag} is missing")

    from distillspec_jax.cli import bindings
    from distillspec_jax.evaluation.result_row import ResultRow
    from distillspec_jax.evaluation.sweep import sweep
    from distillspec_jax.reports import tables

    job, _ = bindings.bind(sweep, flags.gin, given=(*given, "progress"))
    with shown() as progress:
        rows: list[ResultRow] = job(**given, progress=progress)
    tables.print_table(rows)
    tables.print_findings(rows)
    folder, shard = (
        given[name] if name in given else bindings.value(sweep, name) for name in ("output_dir", "shard")
    )
    if shard is not None:
        folder = shards.parse(shard).folder(Path(folder))
    say("", f"results: {stores.address(Path(folder) / 'results.jsonl')}")
    return 0


def _drafters(arguments: Sequence[str]) -> dict[str, str]:
    """`LABEL=MODEL` or `MODEL`, whose label is its last part."""
    found: dict[str, str] = {}
    for argument in arguments:
        label, equals, model = argument.partition("=")
        if not equals or not _LABEL.fullmatch(label):  # a path may hold an equals sign itself
            label, model = re.split(r"[/:]", argument.rstrip("/"))[-1], argument
        if not label or not model:
            raise UsageError(f"--drafter={argument}: write LABEL=MODEL or MODEL")
        if label in found:
            raise UsageError(f"--drafter={argument}: the label {label!r} is taken; write LABEL=MODEL")
        found[label] = model
    return found


def _number_or_all(text: str) -> int | str:
    return text if text == "all" else int(text)


@contextlib.contextmanager
def shown(interval: float = INTERVAL) -> Iterator[Callable[[SweepProgress], None]]:
    """Prints a line a group of cells to standard error, and in a log how long it takes; yields `progress`."""
    with heartbeat("loading", interval) as doing:

        def show(progress: SweepProgress) -> None:
            if progress.row is None:
                said = f"[{progress.done}/{progress.total}] {progress.doing}"
                news(said)
                doing(said)

        yield show


if __name__ == "__main__":
    sys.exit(errors.run(main, command="sweep"))
