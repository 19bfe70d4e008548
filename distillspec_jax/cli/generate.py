"""`distillspec generate`: JSONL in, JSONL out."""

from __future__ import annotations

import sys

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import (
    COMPILATION_CACHE_HELP,
    DRAFTER_HELP,
    DTYPE_HELP,
    RULE_HELP,
    SHARD_HELP,
    CommandParser,
)
from distillspec_jax.cli.progress import ProgressLine
from distillspec_jax.terminal import news

HELP = """Completes every line of a JSONL file ({"inputs": ...}) and writes one line for each, in order:
{"inputs", "outputs", "emitted_tokens", "target_calls", "accepted", "tested", "finish_reason"}.
With a draft also "drafted", "tested_at" and "accepted_at" (docs/acceptance.md).

  distillspec generate --model=zoo:wiki_leads/target --drafter=zoo:wiki_leads/distilled \\
      --input=prompts.jsonl --output=out.jsonl

A line may set its own "temperature", "top_k", "top_p" and "max_new_tokens"; all its fields are copied to the
output. `inputs` is raw text. It gets a prefix: the task's for zoo:TASK/... and --task=TASK, the one stored
with any other checkpoint, or the one given by --prefix (--prefix='' for none).
"""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("generate", HELP, gin_sets_flags=True, may_be_empty=("prefix",))
    add = parser.add_argument
    add("--model", required=True, metavar="MODEL", help="the target: a checkpoint directory or zoo:NAME")
    add(
        "--drafter",
        action="append",
        metavar="MODEL",
        help=f"{DRAFTER_HELP}; default: none; repeatable, to combine several drafters",
    )
    add("--input", default="-", metavar="FILE", help="JSONL to read; - is standard input (default)")
    add("--output", default="-", metavar="FILE", help="JSONL to write; - is standard output (default)")
    add("--field", default="inputs", help="the field that holds the text (default: inputs)")
    add("--task", help="use this task's prefix and lengths")
    add("--prefix", help="use this prefix instead")
    add("--chat", action="store_true", help="wrap every input in the target's chat template")
    add(
        "--truncate_inputs",
        action="store_true",
        help="cut prompts that are too long instead of refusing them",
    )
    add(
        "--block_size",
        type=_number_or_auto,
        metavar="N",
        help="drafted tokens per round (default: 5, or less if outputs are shorter), or auto: choose it "
        "while decoding, from measured costs and acceptance; auto may turn drafting off",
    )
    add("--rule", default="token", help=RULE_HELP)
    add("--epsilon", type=float, help="epsilon of the lenient rules, in (0, 1]; 1 (default) is lossless")
    add("--candidates", type=int, default=1, help="blocks drafted in parallel per prompt (default: 1)")
    add("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    add("--top_k", type=int, default=0, help="0 is off (default)")
    add("--top_p", type=float, default=1.0, help="1 is off (default)")
    add("--batch_size", type=int, default=8, help="prompts per batch (default: 8)")
    add(
        "--max_new_tokens",
        type=int,
        help="longest output in tokens, including EOS (default: the model's target length)",
    )
    add("--seed", type=int, default=0, help="random seed (default: 0)")
    add(
        "--num_samples",
        type=int,
        default=1,
        help="outputs per prompt, numbered in the field `sample` (default: 1)",
    )
    add("--stop", action="append", default=[], metavar="TEXT", help="stop before this text; repeatable")
    add(
        "--resume",
        action="store_true",
        help="continue an interrupted run from the lines in OUTPUT.partial",
    )
    add("--shard", metavar="I/N", help=SHARD_HELP)
    add("--dtype", help=DTYPE_HELP)
    add(
        "--num_partitions",
        type=int,
        metavar="N",
        help="use all devices, with the target split over N of them (default: one device)",
    )
    add("--compilation_cache", metavar="DIR", help=COMPILATION_CACHE_HELP)
    add("--assume_same_vocabulary", action="store_true", help="accept a pair with an unknown tokenizer")
    flags = vars(parser.parse(argv))
    flags = {name: value for name, value in flags.items() if not name.startswith(("gin", "_"))}

    from distillspec_jax.cli import compilation
    from distillspec_jax.generation.file_job import generate_file

    compilation.keep(flags.pop("compilation_cache"))
    written = generate_file(**flags, progress=ProgressLine().prompts, say=news)
    if written is not None:
        efficiency = written.value("block_efficiency") if written.target_calls else 0.0
        news(
            f"{written.texts} outputs, {written.emitted_tokens} tokens, {written.target_calls} target calls: "
            f"block efficiency {efficiency:.2f}"
        )
    return 0


def _number_or_auto(value: str) -> int | str:
    return value if value == "auto" else int(value)


_number_or_auto.__name__ = "whole number or auto"  # argparse names it in its message


if __name__ == "__main__":
    sys.exit(errors.run(main, command="generate"))
