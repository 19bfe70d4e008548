"""`distillspec generate`: JSONL in, JSONL out."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import (
    COMPILATION_CACHE_HELP,
    DRAFTER_HELP,
    DTYPE_HELP,
    RULE_HELP,
    CommandParser,
)
from distillspec_jax.cli.progress import ProgressLine
from distillspec_jax.errors import UsageError

if TYPE_CHECKING:
    from distillspec_jax.decoding.drafter_registry import NamedDraft

HELP = """Completes every line of a JSONL file ({"inputs": ...}) and writes one line for each, in order:
{"inputs", "outputs", "emitted_tokens", "target_calls", "accepted", "tested", "finish_reason"}.

  distillspec generate --model=zoo:wiki_leads/target --drafter=zoo:wiki_leads/distilled \\
      --input=prompts.jsonl --output=out.jsonl

A line may set its own "temperature", "top_k", "top_p" and "max_new_tokens"; all its fields are copied to the
output. `inputs` is raw text. It gets a prefix: the task's for zoo:TASK/... and --task=TASK, the one stored
with any other checkpoint, or the one given by --prefix (--prefix='' for none).
"""

_DECISIVE = (
    *("model", "drafter", "task", "prefix", "chat", "truncate_inputs", "block_size", "rule", "epsilon"),
    *("candidates", "temperature", "top_k", "top_p", "max_new_tokens", "seed", "stop", "dtype"),
)
"""The flags that texts and counts depend on, given the requests."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("generate", HELP, gin_sets_flags=True)
    add = parser.add_argument
    add("--model", required=True, metavar="MODEL", help="the target: a checkpoint directory or zoo:NAME")
    add(
        "--drafter",
        action="append",
        metavar="MODEL",
        help=f"{DRAFTER_HELP}; none is the default; repeatable, to combine several drafters",
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
        help="drafted tokens per round (default: 5, or less if outputs are shorter), or auto: chosen while "
        "decoding from measured costs and acceptance; it may turn drafting off",
    )
    add("--rule", default="token", help=RULE_HELP)
    add("--epsilon", type=float, help="of the lenient rules, in (0, 1]; 1 (default) is lossless")
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
        help="continue an interrupted run, whose lines so far are in OUTPUT.partial",
    )
    add("--dtype", help=DTYPE_HELP)
    add(
        "--num_partitions",
        type=int,
        metavar="N",
        help="use all devices, with the target split over N of them (default: one device)",
    )
    add("--compilation_cache", metavar="DIR", help=COMPILATION_CACHE_HELP)
    add("--assume_same_vocabulary", action="store_true", help="accept a pair with an unknown tokenizer")
    flags = parser.parse(argv)

    from distillspec_jax.cli import compilation
    from distillspec_jax.generation import request_files, text_generator
    from distillspec_jax.models import pretrained
    from distillspec_jax.partitioning import make_partitioner

    if flags.compilation_cache:
        compilation.keep(flags.compilation_cache)
    if flags.num_samples < 1:
        raise UsageError(f"--num_samples={flags.num_samples}: must be at least 1")
    asked = request_files.read_requests(flags.input, flags.field)
    if flags.input != "-" and os.path.isfile(flags.output) and os.path.samefile(flags.input, flags.output):
        raise UsageError(f"--output={flags.output} is the file of --input: choose another")
    partitioner = None if flags.num_partitions is None else make_partitioner(flags.num_partitions)
    target = pretrained.load(flags.model, partitioner=partitioner, dtype=flags.dtype)
    form = text_generator.prompt_format(
        target, task=flags.task, prefix=flags.prefix, truncate=flags.truncate_inputs, chat=flags.chat
    )
    asked = [sample for request in asked for sample in request.repeated(flags.num_samples)]
    limit = form.max_new_tokens if flags.max_new_tokens is None else flags.max_new_tokens
    defaults = {name: getattr(flags, name) for name in request_files.OPTIONS} | {"max_new_tokens": limit}
    options = request_files.options(asked, defaults)
    limits = options["max_new_tokens"]
    block_size = _block_size(flags.block_size, max(limits) if isinstance(limits, list) else limits)
    generator = text_generator.TextGenerator(
        target,
        _drafters(flags.drafter or [], flags.dtype),
        form=form,
        block_size=block_size,
        rule=flags.rule,
        epsilon=flags.epsilon,
        candidates=flags.candidates,
        batch_size=flags.batch_size,
        stop=flags.stop,
        assume_same_vocabulary=flags.assume_same_vocabulary,
        partitioner=partitioner,
        on_compile=lambda line: print(line, file=sys.stderr),
    )
    settings = {name: getattr(flags, name) for name in _DECISIVE} | {"block_size": block_size}
    done = request_files.finished(flags.output, asked, settings) if flags.resume else 0
    if done == len(asked) and not os.path.exists(flags.output + ".partial"):
        print(f"{flags.output} is whole: nothing is left to do", file=sys.stderr)
        return 0
    if done:
        print(f"resuming after {done} of {len(asked)} outputs", file=sys.stderr)
    left = asked[done:]
    generations = generator.stream(
        [request.inputs for request in left],
        **{name: value[done:] if isinstance(value, list) else value for name, value in options.items()},
        seed=flags.seed,
        names=[request.where for request in left],
        progress=ProgressLine().prompts,
        numbers=range(done, len(asked)),
    )
    emitted = calls = 0
    with request_files.output_lines(flags.output, flags.resume, settings) as write:
        for request, generation in zip(left, generations, strict=True):
            write(request_files.write_line(request, generation))
            emitted, calls = emitted + generation.emitted_tokens, calls + generation.target_calls
            if generation.finish_reason == "failed":
                print(f"{request.where}: failed: the model's logits were not finite", file=sys.stderr)
    efficiency = emitted / max(calls, 1)
    print(
        f"{len(left)} outputs, {emitted} tokens, {calls} target calls: block efficiency {efficiency:.2f}",
        file=sys.stderr,
    )
    return 0


def _number_or_auto(value: str) -> int | str:
    return value if value == "auto" else int(value)


_number_or_auto.__name__ = "whole number or auto"  # argparse names it in its message


def _block_size(asked: int | str | None, longest: int) -> int | str:
    """What was asked for, or 5; a block that is longer than any output may be is refused, or shortened."""
    if isinstance(asked, int) and asked > longest >= 1:
        raise UsageError(f"--block_size={asked}: outputs end after {longest} tokens, use {longest} or less")
    return max(1, min(5, longest)) if asked is None else asked


def _drafters(names: list[str], dtype: str | None) -> list[NamedDraft]:
    from distillspec_jax.decoding import drafter_registry

    if "none" in names and len(names) > 1:
        raise UsageError(
            f"--drafter=none beside --drafter={next(n for n in names if n != 'none')}: choose one"
        )
    return [drafter_registry.load(name, dtype) for name in names if name != "none"]


if __name__ == "__main__":
    sys.exit(errors.run(main, command="generate"))
