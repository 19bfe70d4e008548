"""`distillspec prompts`: prompts that an instruct model writes itself."""

from __future__ import annotations

import sys

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import DRAFTER_HELP, CommandParser
from distillspec_jax.terminal import news, say

HELP = """Generates prompts as JSON lines, if you have none: the target completes the opening of a user turn
in its chat template (Magpie, arXiv 2406.08464). It keeps the prompts that the target ends itself, without
duplicates. Then collect the target's answers:

  distillspec prompts --model=runs/smollm2/target --limit=2000 --output=prompts.jsonl
  distillspec collect --model=runs/smollm2/target --chat --gin_file=tasks/jsonl.gin --gin.TASK_NAME=open \\
      --gin.TRAIN_FILE=prompts.jsonl --gin.TARGETS_FIELD=None --top_logprobs=32 --output=runs/open_texts

To resume a stopped run, run the same command.
"""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("prompts", HELP, gin_sets_flags=True)
    add = parser.add_argument
    add("--model", required=True, metavar="MODEL", help="the target, with a chat template")
    add("--output", required=True, metavar="FILE", help="JSON lines to write, or to resume")
    add("--limit", type=int, required=True, metavar="N", help="prompts to write")
    add("--temperature", type=float, default=1.0, help="sampling temperature (default: 1)")
    add("--top_p", type=float, default=1.0, help="1 is off (default)")
    add("--max_new_tokens", type=int, default=96, metavar="N", help="longest prompt in tokens (default: 96)")
    add("--seed", type=int, default=0, help="random seed (default: 0)")
    add("--drafter", metavar="MODEL", help=f"{DRAFTER_HELP}, for speed")
    add("--block_size", type=int, default=5, metavar="N", help="drafted tokens per round (default: 5)")
    add("--batch_size", type=int, default=16, metavar="N", help="prompts per batch (default: 16)")
    flags = parser.parse(argv)

    from distillspec_jax.cli.progress import ProgressLine
    from distillspec_jax.decoding import drafter_registry
    from distillspec_jax.generation.own_prompts import is_finished, write_prompts
    from distillspec_jax.models import pretrained

    if is_finished(flags.output, flags.limit):
        news(f"{flags.output} is finished with {flags.limit:,} prompts: for others choose another output")
        say(flags.output)
        return 0
    line = ProgressLine()
    draws = write_prompts(
        pretrained.load(flags.model),
        flags.output,
        flags.limit,
        temperature=flags.temperature,
        top_p=flags.top_p,
        max_new_tokens=flags.max_new_tokens,
        seed=flags.seed,
        draft=flags.drafter and drafter_registry.load(flags.drafter),
        block_size=flags.block_size,
        batch_size=flags.batch_size,
        progress=lambda count: line(f"{count:,}/{flags.limit:,} prompts", last=count == flags.limit),
    )
    news(f"{flags.limit:,} prompts of {draws:,} draws")
    say(flags.output)
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="prompts"))
