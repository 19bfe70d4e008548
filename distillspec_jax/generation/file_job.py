"""Answers a request file: reads, completes and writes every line, resuming where an earlier run stopped."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distillspec_jax import bounds, files, outputs, shards, terminal
from distillspec_jax.acceptance import Record
from distillspec_jax.decoding import drafter_registry, named_drafters
from distillspec_jax.decoding.engine import DecodingProgress
from distillspec_jax.errors import UsageError
from distillspec_jax.generation import request_files, text_generator
from distillspec_jax.generation.pairing import fitting_block_size
from distillspec_jax.generation.prompt_format import prompt_format, tokenizer_of
from distillspec_jax.models import fingerprints, pretrained
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.partitioning import make_partitioner

LINES = "lines.jsonl"
"""The file of one shard's lines, in its folder."""


@outputs.one_run
def generate_file(
    model: str,
    input: str = "-",
    output: str = "-",
    *,
    drafter: Sequence[str] | None = None,
    field: str = "inputs",
    task: str | None = None,
    prefix: str | None = None,
    chat: bool = False,
    truncate_inputs: bool = False,
    block_size: int | str | None = None,
    rule: str = "token",
    epsilon: float | None = None,
    candidates: int = 1,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    batch_size: int = 8,
    max_new_tokens: int | None = None,
    seed: int = 0,
    num_samples: int = 1,
    stop: Sequence[str] = (),
    resume: bool = False,
    shard: str | None = None,
    dtype: str | None = None,
    num_partitions: int | None = None,
    assume_same_vocabulary: bool = False,
    progress: Callable[[DecodingProgress], None] | None = None,
    say: Callable[[str], None] = terminal.say,
) -> Record | None:
    """Completes every line of a request file and writes one line for each, in order.

    Args:
      model: the target, a directory or `zoo:NAME`.
      input, output: paths; `-` is standard input or output.
      drafter: draft models, or names of drafters without a model; `none` alone means no drafter.
      field: the field of a line that holds its text.
      task, prefix, chat, truncate_inputs: see `prompt_format`.
      block_size: drafts per round, or `auto`; default: 5, or less if outputs are shorter.
      rule, epsilon, candidates, batch_size, stop, assume_same_vocabulary: see `TextGenerator`.
      temperature, top_k, top_p, max_new_tokens: defaults for lines without their own.
      seed: of all draws.
      num_samples: outputs per line, numbered in the field `sample`.
      resume: continue after the lines that an interrupted run left in `OUTPUT.partial`.
      shard: `I/N`, see `shards.parse`: answer the I-th of N shares of the requests; `merge_files` joins them.
      dtype: of models whose name gives none, see `pretrained.load`.
      num_partitions: use all devices, with the target split over this many; default: one device.
      progress: called on the host while decoding.
      say: called with a line on compilation, resumption and failures.

    Returns:
      The counts of the outputs written; None if the output was already complete.

    Raises:
      UsageError: a value is out of range, a model does not exist, a line is malformed (names file and line),
        or the output was begun with another input or other settings.
      OSError: the input cannot be opened.
    """
    # Everything besides the requests that texts and counts depend on; recorded next to incomplete output.
    decisive: dict[str, Any] = {
        **{"model": model, "drafter": drafter, "task": task, "prefix": prefix, "chat": chat},
        **{"truncate_inputs": truncate_inputs, "rule": rule, "epsilon": epsilon, "candidates": candidates},
        **{"temperature": temperature, "top_k": top_k, "top_p": top_p, "max_new_tokens": max_new_tokens},
        **{"seed": seed, "stop": stop, "dtype": dtype},
    }
    if num_samples < 1:
        raise UsageError(f"--num_samples={num_samples}: must be at least 1")
    bounds.check_most("--num_samples", num_samples, bounds.SAMPLES)
    own = None if shard is None else shards.parse(shard)
    if own is not None and output == "-":
        raise UsageError(f"--shard={shard}: name an --output, beside which the shards lie")
    requests = request_files.read_requests(input, field)
    partitioner = None if num_partitions is None else make_partitioner(num_partitions)
    target = pretrained.load(model, partitioner=partitioner, dtype=dtype)
    drafts = [drafter_registry.load(name, dtype) for name in named_drafters.chosen(drafter or ())]
    if own is not None:
        output = str(outputs.place(own.folder(output), folder=True) / LINES)
    else:
        output = outputs.place(output, folder=False)
        request_files.check_output(output, resume)
    form = prompt_format(
        target,
        tokenizer=tokenizer_of(target, *(draft for draft in drafts if isinstance(draft, Pretrained))),
        task=task,
        prefix=prefix,
        truncate=truncate_inputs,
        chat=chat,
    )
    requests = [sample for request in requests for sample in request.repeated(num_samples)]
    limit = form.max_new_tokens if max_new_tokens is None else max_new_tokens
    options = request_files.options(
        requests, {"temperature": temperature, "top_k": top_k, "top_p": top_p, "max_new_tokens": limit}
    )
    limits = options["max_new_tokens"]
    decisive["block_size"] = block_size = fitting_block_size(
        block_size, max(limits) if isinstance(limits, list) else limits
    )
    generator = text_generator.TextGenerator(
        target,
        drafts,
        form=form,
        block_size=block_size,
        rule=rule,
        epsilon=epsilon,
        candidates=candidates,
        batch_size=batch_size,
        stop=stop,
        assume_same_vocabulary=assume_same_vocabulary,
        partitioner=partitioner,
        on_compile=say,
    )
    share, part = range(len(requests)), None
    if own is not None:
        share = own.of(len(requests), "outputs")
        models = [target, *(draft for draft in drafts if isinstance(draft, Pretrained))]
        part = shards.Part(
            "generate",
            own.index,
            own.count,
            len(requests),
            {LINES: len(share)},
            {
                **decisive,
                "weights": [fingerprints.of_params(model.params) for model in models],
                "requests": fingerprints.of_json([[one.inputs, one.extra] for one in requests]),
            },
        )
        part.check(Path(output).parent)
        request_files.check_output(output, resume)
    done = request_files.finished(output, [requests[i] for i in share], decisive) if resume else 0
    if done == len(share) and not os.path.exists(output + ".partial"):
        request_files.forget_settings(output)
        say(f"{output} is whole: nothing is left to do")
        return None
    if done:
        say(f"resuming after {done} of {len(share)} outputs")
    numbers = share[done:]
    left = [requests[i] for i in numbers]
    generations = generator.stream(
        [request.inputs for request in left],
        **{
            name: [value[i] for i in numbers] if isinstance(value, list) else value
            for name, value in options.items()
        },
        seed=seed,
        names=[request.where for request in left],
        progress=progress,
        numbers=numbers,
    )
    if part is not None:
        part.begin(Path(output).parent)
    records = []
    with request_files.output_lines(output, resume, decisive) as write:
        for request, generation in zip(left, generations, strict=True):
            write(request_files.write_line(request, generation))
            records.append(generation.record)
            if generation.finish_reason == "failed":
                say(f"{request.where}: failed: the model's logits were not finite")
    return Record.total(records)


def merge_files(folders: Sequence[Path], output: str) -> int:
    """Joins the lines of all shards of a run and returns their number.

    Args:
      folders: from `shards.find`.

    Raises:
      UsageError: the output cannot be written, or holds something else.
    """
    output = outputs.place(output, folder=False)
    files.write_whole_by(
        output, functools.partial(shards.joined, folders, LINES), request_files.holds_answers
    )
    return shards.read_card(folders[0]).units
