"""Speculative decoding, ours beside transformers' assisted generation and prompt lookup: the same weights."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import jax
import numpy as np

from benchmarks.measurement import THREADS, Measurement, paired_ratio
from distillspec_jax.data.examples import examples
from distillspec_jax.decoding import Engine, SamplingParams, StopOnEos
from distillspec_jax.decoding.adaptive import AUTO
from distillspec_jax.decoding.drafter_registry import make_drafter
from distillspec_jax.evaluation import timing
from distillspec_jax.models import pretrained
from distillspec_jax.models.t5 import T5Config
from distillspec_jax.vocabulary import Vocabulary

TASK, NEW_TOKENS = "wiki_leads", 64
TURNS = {1: 7, 4: 7, 8: 4, 16: 2}
"""By batch size: transformers takes its prompts one after the other."""
SCHEDULES = tuple(itertools.product((3, 5, 7, None), ("constant", "heuristic")))
"""num_assistant_tokens (None: its default) and how transformers changes it."""


@functools.cache
def spec_vs_hf_assisted(batch_size: int) -> Measurement:
    """Ours in one batch, transformers' prompt by prompt (it refuses batches) at its best setting.

    Both generate a fixed number of greedy tokens; prompts are of one length, so that neither is padded.
    """
    # torch takes seconds to import and is needed nowhere else.
    from benchmarks.transformers_reference import TransformersT5

    target, draft = (pretrained.load(f"zoo:{TASK}/{role}") for role in ("target", "distilled"))
    assert isinstance(target.model.config, T5Config)
    assert isinstance(draft.model.config, T5Config)
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    theirs = TransformersT5(target.model.config, target.params, device)
    assistant = TransformersT5(draft.model.config, draft.params, device)
    width = 32
    rows = [row.prompt for row in examples(TASK, split="test") if len(row.prompt) >= width]
    prompts = [list(prompt[:width]) for prompt in rows[:batch_size]]
    distribution = SamplingParams(0.0).distribution(Vocabulary(None, (1,), ()))
    ours = {
        str(size): Engine(
            target.model,
            target.params,
            *make_drafter([draft], vocab_size=target.model.vocab_size),
            block_size=size,
            batch_size=batch_size,
            stopping=StopOnEos(()),
        )
        for size in (1, 3, 5, AUTO)
    }

    def run_ours(name: str, _: int) -> list[list[int]]:
        return [list(done.tokens) for done in ours[name].generate(prompts, distribution, NEW_TOKENS, seed=0)]

    def run_theirs(setting: tuple[int | None, str], _: int) -> list[list[int]]:
        size, schedule = setting
        return [
            theirs.generate([p], NEW_TOKENS, assistant=assistant, size=size, schedule=schedule)[0]
            for p in prompts
        ]

    def run_lookup(_: int) -> list[list[int]]:
        return [theirs.generate([p], NEW_TOKENS, prompt_lookup=5)[0] for p in prompts]

    def run_plain(_: int) -> list[list[int]]:
        return theirs.generate(prompts, NEW_TOKENS)

    settings = {f"assisted {size or 'default'} {schedule}": (size, schedule) for size, schedule in SCHEDULES}
    systems: dict[str, Callable[[int], list[list[int]]]] = {
        **{f"ours {name}": functools.partial(run_ours, name) for name in ours},
        **{name: functools.partial(run_theirs, setting) for name, setting in settings.items()},
        "lookup": run_lookup,
        "plain": run_plain,
    }
    timed = dict(zip(systems, timing.interleaved(list(systems.values()), 1, TURNS[batch_size]), strict=True))
    median = {name: float(np.median(t.seconds_RU)) for name, t in timed.items()}
    best_theirs = min(settings, key=median.__getitem__)
    best_ours = min((name for name in median if name.startswith("ours")), key=median.__getitem__)
    equal = sum(
        a == b for a, b in zip(timed[best_ours].results[0], timed[best_theirs].results[0], strict=True)
    )
    what = (
        f"assisted generation, transformers' seconds over ours, {NEW_TOKENS} greedy tokens of {batch_size} "
        f"prompts of {width} tokens, zoo pair, {device} (torch: {THREADS} threads), ours {best_ours[5:]} in "
        f"one batch against its {best_theirs}, prompt by prompt; {equal} of {batch_size} texts equal; its "
        f"prompt lookup took {median['lookup'] / median[best_ours]:.1f} times, its plain batched generate "
        f"{median['plain'] / median[best_ours]:.1f} times as long as ours; settings: "
        + ", ".join(f"{name} {1e3 * seconds:.0f} ms" for name, seconds in median.items())
    )
    return paired_ratio(
        f"spec_vs_hf_assisted_bs{batch_size}",
        timed[best_theirs].seconds_RU[:, 0],
        timed[best_ours].seconds_RU[:, 0],
        what,
    )
