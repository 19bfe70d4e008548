"""Targets without drafts, timed in turns: what a sweep, which has one target, cannot compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from distillspec_jax.decoding import Engine, SamplingParams, StopOnEos
from distillspec_jax.evaluation import grid, measured, prompts
from distillspec_jax.evaluation.measured import Workload
from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.evaluation.rows import autoregressive_row
from distillspec_jax.evaluation.sweep import device
from distillspec_jax.generation.prompt_format import tokenizer_of
from distillspec_jax.models import pretrained
from distillspec_jax.version import __version__

SPLIT, SEED, PROMPT_BUCKET = "test", 0, 32
PART = "in turns: "
"""What `part` begins with."""


def is_in_turns(row: ResultRow) -> bool:
    """Tells a row of this module from one of a sweep."""
    return str(row.unknown.get("part", "")).startswith(PART)


def measure(
    targets: Mapping[str, str],
    task: str,
    *,
    temperatures: tuple[float, ...],
    timed: int,
    repeats: int,
    max_new_tokens: int | None,
) -> list[ResultRow]:
    """Decodes the first prompts of a task with every target, prompt by prompt in turns.

    Args:
      targets: paths by name; the first is what the others are compared with.
      temperatures, timed, repeats, max_new_tokens: as a sweep's.

    Returns:
      For each temperature a row a target, whose `timing` has the first target's as the baseline, and whose
      field `part` is its name.
    """
    loaded = {name: pretrained.load(path) for name, path in targets.items()}
    first = next(iter(loaded.values()))
    tokenizer = tokenizer_of(first)
    prompt_set = prompts.from_task(first, task, SPLIT, timed)
    longest = max(map(len, prompt_set.prompts))
    engines = [
        Engine(
            target.model,
            target.params,
            None,
            None,
            verifier=grid.verifier("token"),
            stopping=StopOnEos(tokenizer.eos_ids),
            block_size=1,
            batch_size=1,
            prompt_bucket=-(-longest // PROMPT_BUCKET) * PROMPT_BUCKET,
        )
        for target in loaded.values()
    ]
    workload = Workload(
        prompts=prompt_set.prompts,
        max_new_tokens=max_new_tokens or prompt_set.max_new_tokens,
        batch_size=1,
        timed_prompts=timed,
        repeats=repeats,
        seed=SEED,
    )
    shared: dict[str, Any] = {
        "task": task,
        "split": SPLIT,
        "top_k": 0,
        "top_p": 1.0,
        "seed": SEED,
        "prompts": len(prompt_set.prompts),
        "prompts_digest": prompt_set.fingerprint,
        "max_new_tokens": workload.max_new_tokens,
        "timing_prompts": timed,
        "repeats": repeats,
        "device": device(),
        "version": __version__,
        "verifier": "token",
        "batch_size": 1,
    }
    found = []
    for temperature in temperatures:
        distribution = SamplingParams(temperature).distribution(tokenizer.vocabulary)
        all_of = measured.in_turns(engines, distribution, workload)
        for (name, path), one in zip(targets.items(), all_of, strict=True):
            quality = prompts.score(prompt_set, one.completions, tokenizer)
            row = autoregressive_row(
                one, quality, {**shared, "target": path, "dtype": first.dtype, "temperature": temperature}
            )
            assert row.timing is not None
            beside = dataclasses.replace(
                row.timing,
                baseline_seconds=all_of[0].unit_seconds,
                baseline_emitted=all_of[0].unit_tokens,
            )
            found.append(dataclasses.replace(row, timing=beside, unknown={"part": f"{PART}{name}"}))
    return found
