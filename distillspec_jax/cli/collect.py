"""`distillspec collect`: a target's texts on a task's prompts, for distillation later and elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import DRAFTER_HELP, SHARD_HELP, CommandParser, list_of
from distillspec_jax.cli.progress import ProgressLine
from distillspec_jax.errors import UsageError
from distillspec_jax.terminal import news, say

HELP = """Generates a target's texts for a task's prompts, once, into a folder that training reads:

  distillspec collect --model=zoo:wiki_leads/target --task=wiki_leads --output=runs/wiki_texts \\
      --top_logprobs=32
  distillspec distill --gin_file=runs/distill_stored.gin --gin.TARGET_SET=runs/wiki_texts \\
      --gin.DRAFT=zoo:wiki_leads/draft --gin.MIXTURE_OR_TASK_NAME=wiki_leads \\
      --gin.MODEL_DIR=runs/my_distilled --gin.TRAIN_STEPS=200

  distillspec collect --model=runs/target --gin_file=tasks/jsonl.gin --gin.TASK_NAME=mine \\
      --gin.TRAIN_FILE=train.jsonl --output=runs/texts

Prompts and texts have the task's lengths; --gin.TASK_FEATURE_LENGTHS="{'inputs': 256, 'targets': 128}" gives
others, in tokens.
With --top_logprobs it also stores the target's top-k log-probabilities at every token, so that training does
not need the target.
To resume a stopped run, run the same command.
"""

LENGTHS = "TASK_FEATURE_LENGTHS"


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("collect", HELP, gin_sets_flags=True, macros=(LENGTHS,))
    add = parser.add_argument
    add("--model", required=True, metavar="MODEL", help="the target: a checkpoint directory or zoo:NAME")
    add("--task", help="the task whose prompts are used (default: the gin file's)")
    add("--output", required=True, metavar="DIR", help="folder to write, or to resume")
    add("--split", default="train", help="train, validation or test (default: train)")
    add("--limit", type=int, help="number of prompts (default: all)")
    add("--num_samples", type=int, default=1, help="texts per prompt (default: 1)")
    add(
        "--temperature",
        type=list_of(float),
        default=[1.0],
        metavar="T,T",
        help="1 (default) is the target's own distribution, 0 is greedy; with several, each text takes the "
        "next",
    )
    add("--top_k", type=int, default=0, help="0 is off (default)")
    add("--top_p", type=float, default=1.0, help="1 is off (default)")
    add("--max_new_tokens", type=int, help="longest text in tokens, including EOS (default: the task's)")
    add("--chat", action="store_true", help="wrap prompts in the target's chat template")
    add("--seed", type=int, default=0, help="random seed (default: 0)")
    add(
        "--top_logprobs",
        "--law_ids",  # its name in 0.1
        type=int,
        default=0,
        metavar="K",
        help="store the target's top-k log-probabilities at every token: K ids and the remaining mass, in "
        "4 K + 4 bytes per token (6 K + 4 above 65,536 logits); 0 is off (default)",
    )
    add(
        "--drafter",
        metavar="MODEL",
        help=f"{DRAFTER_HELP}, for speed; the texts still follow the target's distribution",
    )
    add("--block_size", type=int, default=5, metavar="N", help="drafted tokens per round (default: 5)")
    add("--batch_size", type=int, default=16, help="prompts per batch (default: 16)")
    add("--shard", metavar="I/N", help=SHARD_HELP)
    add(
        "--num_partitions",
        type=int,
        metavar="N",
        help="use all devices, with the target split over N of them (default: one device)",
    )
    flags = parser.parse(argv)

    from distillspec_jax.cli import bindings
    from distillspec_jax.decoding import drafter_registry
    from distillspec_jax.distillation.collect import collect
    from distillspec_jax.models import pretrained
    from distillspec_jax.partitioning import make_partitioner

    task = flags.task or bindings.task(flags.gin)
    if task is None:
        raise UsageError("--task is missing: name one, or give a --gin_file that makes one")
    lengths = bindings.macro(LENGTHS, flags.gin)
    if not isinstance(lengths, (Mapping, type(None))):
        raise UsageError(f"{LENGTHS}={lengths!r}: must be a dictionary of whole numbers")
    partitioner = None if flags.num_partitions is None else make_partitioner(flags.num_partitions)
    texts = collect(
        pretrained.load(flags.model, partitioner=partitioner),
        flags.output,
        task,
        split=flags.split,
        limit=flags.limit,
        num_samples=flags.num_samples,
        temperature=flags.temperature,
        top_k=flags.top_k,
        top_p=flags.top_p,
        max_new_tokens=flags.max_new_tokens,
        lengths=lengths,
        chat=flags.chat,
        seed=flags.seed,
        top_logprobs=flags.top_logprobs,
        draft=flags.drafter and drafter_registry.load(flags.drafter),
        block_size=flags.block_size,
        batch_size=flags.batch_size,
        shard=flags.shard,
        partitioner=partitioner,
        progress=ProgressLine().prompts,
        say=news,
    )
    tokens = sum(len(text["tokens"]) for text in texts.texts)
    news(f"{len(texts.texts)} texts, {tokens} tokens of {texts.header.task}:{texts.header.split}")
    say(str(texts.directory))
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="collect"))
