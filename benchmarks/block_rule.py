"""The block rule beside the token rule on the zoo at temperature 1: whether a block is ever kept shorter."""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np
from scipy.stats import norm

from benchmarks.measurement import LEVEL, Measurement
from distillspec_jax.data import catalog
from distillspec_jax.data.examples import examples
from distillspec_jax.decoding import Engine, SamplingParams, StopOnEos
from distillspec_jax.decoding.drafter_registry import make_drafter
from distillspec_jax.decoding.rules import rule
from distillspec_jax.evaluation.paired import Interval, ratio_of_ratios
from distillspec_jax.generation.prompt_format import tokenizer_of
from distillspec_jax.models import pretrained

TASKS = ("wiki_leads", "gsm_symbolic", "office_help_ende")
DETECTED = {3: 0.01, 5: 0.015, 7: 0.02}
"""By block size, the relative difference in block efficiency that must be seen: below γ = 5 that the block
rule is not 1 % worse, from there on a gain of so much."""
POWER = 0.9
PILOT = 384
"""Texts of the pilot, of validation prompts."""
BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Tokens and target calls of every prompt under both rules, summed over its texts."""

    tokens_RN: np.ndarray
    calls_RN: np.ndarray

    def ratio(self) -> Interval:
        """Block efficiency under the block rule over that under the token rule, clustered by prompt."""
        return ratio_of_ratios(self.tokens_RN[1], self.calls_RN[1], self.tokens_RN[0], self.calls_RN[0])

    def deviation(self) -> float:
        """Of one prompt's part of the ratio's logarithm (linearised): that of N prompts is 1/√N of it."""
        tokens_R1 = self.tokens_RN.mean(1, keepdims=True)
        calls_R1 = self.calls_RN.mean(1, keepdims=True)
        log_RN = self.tokens_RN / tokens_R1 - self.calls_RN / calls_R1
        return float(np.std(log_RN[1] - log_RN[0], ddof=1))


def texts_needed(deviation: float, difference: float) -> int:
    """Texts a rule, for a two-sided interval at `LEVEL` to exclude a ratio `difference` away with `POWER`."""
    quantiles = norm.ppf((1 + LEVEL) / 2) + norm.ppf(POWER)
    return math.ceil((quantiles * deviation / difference) ** 2)


def block_vs_token() -> Measurement:
    """The best gain of a block size of 5 or more; the text holds all, and how many texts each took."""
    found = {}
    for task in TASKS:
        jax.clear_caches()
        pair = _Pair(task)
        for block_size, difference in DETECTED.items():
            pilot = pair.sampled(block_size, "validation", PILOT, seed=1)
            texts = texts_needed(pilot.deviation(), difference)
            found[task, block_size] = (pair.sampled(block_size, "test", texts, seed=2).ratio(), texts)
    cells = "; ".join(
        f"{task} γ {size}: {ratio.value:.3f} ({ratio.low:.3f}–{ratio.high:.3f}, {texts} texts)"
        for (task, size), (ratio, texts) in found.items()
    )
    best = max((cell for cell in found if cell[1] >= 5), key=lambda cell: found[cell][0].low)
    what = (
        f"block efficiency under the block rule over the token rule, T = 1, zoo target and distilled draft, "
        f"paired by prompt, best of γ ≥ 5: {best[0]} γ {best[1]}; {cells}; texts by a pilot of {PILOT} on "
        f"validation prompts, power {POWER} for a difference of "
        + ", ".join(f"{100 * difference:g} % at γ {size}" for size, difference in DETECTED.items())
    )
    return Measurement("block_vs_token", *found[best][0], what)


class _Pair:
    def __init__(self, task: str) -> None:
        self._task = task
        self._target, self._draft = (
            pretrained.load(f"zoo:{task}/{role}") for role in ("target", "distilled")
        )

    def sampled(self, block_size: int, split: str, texts: int, seed: int) -> Sampled:
        """Texts of every prompt in turn, at least one each of at most `texts` prompts."""
        tokenizer = tokenizer_of(self._target)
        distribution = SamplingParams(1.0).distribution(tokenizer.vocabulary)
        longest = catalog.find_task(self._task).feature_lengths["targets"]
        prompts = [row.prompt for row in examples(self._task, split=split)][:texts]
        asked_N = np.arange(texts) % len(prompts)
        sums_RCN = np.zeros((2, 2, len(prompts)))
        for sums_CN, name in zip(sums_RCN, ("token", "block"), strict=True):
            engine = Engine(
                self._target.model,
                self._target.params,
                *make_drafter([self._draft], vocab_size=tokenizer.vocab_size),
                verifier=rule(name),
                block_size=block_size,
                batch_size=BATCH_SIZE,
                stopping=StopOnEos(tokenizer.eos_ids),
            )
            for i, done in zip(
                asked_N,
                engine.generate([prompts[i] for i in asked_N], distribution, longest, seed),
                strict=True,
            ):
                sums_CN[:, i] += len(done.tokens), done.target_calls
        return Sampled(sums_RCN[:, 0], sums_RCN[:, 1])
