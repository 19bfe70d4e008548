"""`distillspec evaluate`: held-out loss, perplexity and task quality of models."""

from __future__ import annotations

import sys

from distillspec_jax import outputs
from distillspec_jax.buckets import stores
from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import DTYPE_HELP, SHARD_HELP, CommandParser
from distillspec_jax.cli.progress import heartbeat
from distillspec_jax.errors import UsageError
from distillspec_jax.terminal import say

HELP = """Measures models on a task's held-out rows: the loss of the references (nats per token) and its
perplexity, with 95 % intervals over rows; the task's metric on greedy outputs, if it has one; and the paired
difference in loss from the first model, for models that share its vocabulary.

  distillspec evaluate --model=zoo:target --model=zoo:draft --task=office_help_ende --limit=100
  distillspec evaluate --model=runs/lm --task=wiki_continued
  distillspec evaluate --model=runs/target --gin_file=tasks/jsonl.gin --gin.TASK_NAME=mine \\
      --gin.TRAIN_FILE=train.jsonl --gin.VALIDATION_FILE=valid.jsonl --split=validation

For acceptance, use `distillspec sweep`.
"""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("evaluate", HELP, gin_sets_flags=True)
    add = parser.add_argument
    add(
        "--model",
        action="append",
        required=True,
        metavar="MODEL",
        help="a checkpoint directory or zoo:NAME; repeatable",
    )
    add(
        "--task",
        help="task whose rows are read (default: that of the gin file, else that of the first model)",
    )
    add("--split", default="test", help="train, validation or test (default: test)")
    add("--limit", type=int, help="number of rows (default: all)")
    add("--chat", action="store_true", help="wrap prompts in the model's chat template")
    add("--batch_size", type=int, default=8, help="rows per batch (default: 8)")
    add("--dtype", help=DTYPE_HELP)
    add("--output", metavar="FILE", help="also write the numbers as JSON")
    add("--shard", metavar="I/N", help=SHARD_HELP)
    flags = parser.parse(argv)
    if flags.shard and not flags.output:
        raise UsageError(f"--shard={flags.shard}: name an --output, beside which the shards lie")
    if flags.batch_size < 1:
        raise UsageError(f"--batch_size={flags.batch_size}: must be at least 1")

    from distillspec_jax.cli import bindings
    from distillspec_jax.data import catalog
    from distillspec_jax.evaluation import held_out, held_out_shards
    from distillspec_jax.models import pretrained, zoo_manifest
    from distillspec_jax.reports import tables

    first = flags.model[0]
    # Making the task of a gin file registers it, which --task may name.
    made, lengths = bindings.macros(flags.gin, "MIXTURE_OR_TASK_NAME", "TASK_FEATURE_LENGTHS")
    named = flags.task or made
    task = named or zoo_manifest.task_of(first) or pretrained.read_card(first).task
    if task is None:
        raise UsageError(f"{first} names no task: pass --task")
    if not named and task not in {spec.name for spec in catalog.known_tasks()}:
        raise UsageError(
            f"{first} was trained on {task!r}: pass --task, or the gin file of a task of your own "
            "(--gin_file=tasks/jsonl.gin --gin.TASK_NAME=…)"
        )
    for name in flags.model:
        pretrained.read_card(name)
    if flags.output and not flags.shard:
        flags.output = outputs.place(flags.output, folder=False)
    if flags.output and not stores.is_bucket(flags.output):  # a shard's folder is checked by itself
        outputs.check(flags.output, held_out.is_written)
    options = {"split": flags.split, "limit": flags.limit, "batch_size": flags.batch_size, "chat": flags.chat}
    options["lengths"] = lengths if not flags.task or made in (None, flags.task) else None
    found = {}
    with heartbeat("loading") as doing:
        if flags.shard:
            folder = held_out_shards.measure_shard(
                flags.model, flags.output, task, flags.shard, dtype=flags.dtype, doing=doing, **options
            )
            say(str(folder))
            return 0
        for number, name in enumerate(flags.model, start=1):
            doing(f"[{number}/{len(flags.model)}] {name}")
            found[name] = held_out.measure(pretrained.load(name, dtype=flags.dtype), task, **options)
    tables.print_held_out(f"{task}, {flags.split} split", found)
    if flags.output:
        held_out.write(flags.output, found)
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="evaluate"))
