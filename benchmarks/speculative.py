"""The zoo's pair, its draft distilled for temperature 0, against decoding without a draft.

At every block size and with a chosen one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from benchmarks.measurement import Measurement
from distillspec_jax.acceptance import Record
from distillspec_jax.data import catalog
from distillspec_jax.data.examples import examples
from distillspec_jax.decoding import Completion, Engine, SamplingParams, StopOnEos
from distillspec_jax.decoding.adaptive import AUTO
from distillspec_jax.decoding.drafter_registry import make_drafter
from distillspec_jax.decoding.round_costs import RoundCosts, tokens_per_round
from distillspec_jax.evaluation import timing
from distillspec_jax.evaluation.paired import Interval
from distillspec_jax.generation.prompt_format import tokenizer_of
from distillspec_jax.models import pretrained, registry
from distillspec_jax.models.pretrained import Pretrained

TASKS = ("wiki_leads", "gsm_symbolic", "office_help_ende")
FIXED = tuple(size for size in AUTO if size)
PROMPTS = {1: 48, 8: 192}
"""Timed prompts a task, by batch size. So many that their acceptance is the task's, to a few per cent."""
UNIT = {1: 4, 8: 32}
"""Prompts of one timing; at batch 8 a few long texts end a unit in half-empty batches, as they do in use."""
REPEATS = 4
"""Of every unit; the first compiles what no unit before it needed, and does not count."""
OTHER_PROMPTS = 128


@dataclasses.dataclass(frozen=True)
class Raced:
    """One task at one batch size.

    Attributes:
      speedup: over decoding without a draft, by system: a block size, `auto`, or `useless` (auto with a
        random draft).
      seconds_U: of every system and of `plain` (`misled_plain` beside `useless`), unit by unit.
      predicted: speed-up of every block size by the cost model, from the acceptance of other prompts and
        costs that were timed between the units of the race.
    """

    speedup: dict[str, Interval]
    seconds_U: dict[str, np.ndarray]
    tokens_U: dict[str, list[int]]
    predicted: dict[str, float]


@functools.cache
def raced(task: str, batch_size: int) -> Raced:
    """All systems in turns on the same prompts, greedily."""
    # Ten loops a task: the kernels of all tasks together would be more mappings than Linux grants a process.
    jax.clear_caches()
    target, draft = (pretrained.load(f"zoo:{task}/{role}") for role in ("target", "greedy"))
    tokenizer = tokenizer_of(target)
    distribution = SamplingParams(0.0).distribution(tokenizer.vocabulary)
    longest = catalog.find_task(task).feature_lengths["targets"]
    prompts = [row.prompt for row in examples(task, split="test")][: PROMPTS[batch_size]]
    others = [row.prompt for row in examples(task, split="validation")][:OTHER_PROMPTS]
    useless = dataclasses.replace(draft, params=_random(draft))

    def engine(draft: Pretrained) -> Engine:
        return Engine(
            target.model,
            target.params,
            *make_drafter([draft], vocab_size=tokenizer.vocab_size),
            block_size=AUTO,
            batch_size=batch_size,
            stopping=StopOnEos(tokenizer.eos_ids),
        )

    # Systems share their weights: with a copy each, which of them lies better in memory made up to a fifth.
    auto, misled = engine(draft), engine(useless)
    engines = {"plain": auto.held_to(0), **{str(size): auto.held_to(size) for size in FIXED}}
    engines |= {"auto": auto, "misled_plain": misled.held_to(0), "useless": misled}
    seen = engines[str(FIXED[-1])].generate(others, distribution, longest, seed=0)
    record = Record.total(done.record for done in seen)
    reach_G, length = record.reach or (), record.emitted_tokens / record.texts
    unit = UNIT[batch_size]
    chunks = [prompts[i : i + unit] for i in range(0, len(prompts), unit)]

    def system(name: str, index: int) -> Sequence[Completion]:
        return engines[name].generate(chunks[index], distribution, longest, seed=0)

    # A neighbour takes the memory's speed for a minute, and plain decoding lives by that alone.
    timed_costs: list[RoundCosts] = []

    def costs(index: int) -> Sequence[Completion]:
        del index
        timed_costs.append(auto.round_costs(others, distribution, longest, repeats=1))
        return ()

    systems: list[Callable[[int], Sequence[Completion]]] = [costs]
    systems += [functools.partial(system, name) for name in engines]
    timings = timing.interleaved(systems, len(chunks), REPEATS)[1:]
    # Not the smallest of the repeats: a system that chooses does not do the same twice, and would be lucky.
    seconds_U = {
        name: np.median(timed.seconds_RU[1:], axis=0) for name, timed in zip(engines, timings, strict=True)
    }
    tokens_U = {
        name: [sum(len(done.tokens) for done in unit) for unit in timed.results]
        for name, timed in zip(engines, timings, strict=True)
    }
    baseline = dict.fromkeys(engines, "plain") | {"useless": "misled_plain"}
    speedup = {
        name: timing.speedup(seconds_U[plain], tokens_U[plain], seconds_U[name], tokens_U[name])
        for name, plain in baseline.items()
        if "plain" not in name
    }
    costs_between = RoundCosts.median(timed_costs)
    predicted = {
        str(size): costs_between.speedup(size, tokens_per_round(reach_G, size, length), length)
        for size in FIXED
    }
    return Raced(speedup, seconds_U, tokens_U, predicted)


def _random(draft: Pretrained) -> object:
    """Parameters that nobody trained."""
    return jax.jit(lambda key: registry.unboxed(draft.model.init(key)))(jax.random.key(0))


def spec_vs_ar(batch_size: int) -> Measurement:
    """The best task's best block size; the text holds all."""
    best = {
        task: max(FIXED, key=lambda size: raced(task, batch_size).speedup[str(size)].value) for task in TASKS
    }
    found = {task: raced(task, batch_size).speedup[str(best[task])] for task in TASKS}
    task = max(TASKS, key=lambda task: found[task].value)
    worst = min(raced(task, batch_size).speedup["auto"].value for task in TASKS)
    what = (
        "speculative over autoregressive decoding, tokens a second, zoo target and the draft distilled for "
        f"temperature 0, T = 0, batch {batch_size}, best block size of the best task; "
        + "; ".join(f"{task}: {_all_sizes(task, batch_size)}" for task in TASKS)
        + f"; lowest with a chosen size: {worst:.2f}"
    )
    return Measurement(f"spec_vs_ar_bs{batch_size}", *found[task], what)


def _all_sizes(task: str, batch_size: int) -> str:
    found = raced(task, batch_size).speedup
    names = (*map(str, FIXED), "auto")
    return ", ".join(f"{name} {found[name].value:.2f}" for name in names)


def prediction_ratio() -> Measurement:
    """Measured over predicted speed-up, block size by block size, task by task, batch 1 and 8."""
    ratios = {
        f"{task} bs {batch_size} γ {size}": raced(task, batch_size).speedup[str(size)].value
        / raced(task, batch_size).predicted[str(size)]
        for task in TASKS
        for batch_size in PROMPTS
        for size in FIXED
    }
    low, high = min(ratios, key=ratios.__getitem__), max(ratios, key=ratios.__getitem__)
    inside = sum(0.9 <= ratio <= 1.1 for ratio in ratios.values())
    what = (
        f"smallest of measured over predicted speed-up ({low}), and in the next column smallest and largest; "
        f"largest: {ratios[high]:.2f} ({high}); "
        f"{inside} of {len(ratios)} in 0.9–1.1; prediction from rounds and prompt reading timed alone "
        f"and the acceptance of {OTHER_PROMPTS} validation prompts"
    )
    values = sorted(ratios.values())
    return Measurement("prediction_ratio_min", values[0], values[0], values[-1], what)


def adaptive_vs_best_fixed() -> Measurement:
    """The lowest over tasks and batch sizes, plain decoding among the fixed choices."""
    found = {}
    for task in TASKS:
        for batch_size in PROMPTS:
            race = raced(task, batch_size)
            fixed = ("plain", *map(str, FIXED))
            best = min(fixed, key=lambda name: race.seconds_U[name].sum())
            found[f"{task} bs {batch_size} (best {best})"] = _between(race, best, "auto")
    lowest = min(found, key=lambda name: found[name].value)
    what = (
        f"tokens a second with the chosen block size over the best fixed one, lowest: {lowest}; all: "
        + ", ".join(f"{name} {ratio.value:.2f}" for name, ratio in found.items())
    )
    return Measurement("adaptive_vs_best_fixed", *found[lowest], what)


def adaptive_useless_draft() -> Measurement:
    """A draft of random parameters: what looking costs."""
    found = {
        f"{task} bs {batch_size}": raced(task, batch_size).speedup["useless"]
        for task in TASKS
        for batch_size in PROMPTS
    }
    lowest = min(found, key=lambda name: found[name].value)
    what = (
        f"tokens a second with a chosen block size and a random draft over decoding without a draft, lowest: "
        f"{lowest}; all: " + ", ".join(f"{name} {ratio.value:.2f}" for name, ratio in found.items())
    )
    return Measurement("adaptive_useless_draft_vs_ar", *found[lowest], what)


def _between(race: Raced, baseline: str, name: str) -> Interval:
    return timing.speedup(
        race.seconds_U[baseline], race.tokens_U[baseline], race.seconds_U[name], race.tokens_U[name]
    )
