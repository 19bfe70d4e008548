"""Whether speculative decoding at temperature 0 gives the target's own greedy tokens, prompt by prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.measurement import Measurement
from distillspec_jax.data import catalog
from distillspec_jax.data.examples import examples
from distillspec_jax.decoding import Engine, SamplingParams, StopOnEos
from distillspec_jax.decoding.drafter_registry import make_drafter
from distillspec_jax.generation.prompt_format import tokenizer_of
from distillspec_jax.models import pretrained
from distillspec_jax.models.interface import padded_prompts, width_of
from distillspec_jax.models.pretrained import Pretrained

BATCH_SIZES = (1, 8)
TIE = 1e-4
"""Two logits this close are one value to float32: the order of adding decides, and both texts are greedy."""


def greedy_identity(task: str = "wiki_leads", block_size: int = 5) -> Measurement:
    """The share of prompts whose two outputs are equal up to a float tie; must be 1."""
    target, draft = (pretrained.load(f"zoo:{task}/{role}") for role in ("target", "draft"))
    prompts = [row.prompt for row in examples(task, split="test")]
    longest = catalog.find_task(task).feature_lengths["targets"]
    found = [
        (size, difference)
        for size in BATCH_SIZES
        for difference in greedy_differences(
            target, draft, prompts, block_size=block_size, max_new_tokens=longest, batch_size=size
        )
    ]
    unexplained = sum(not difference.is_tie for _, difference in found)
    ties = [f"batch {size}, row {d.prompt}, token {d.position}: {d.gap:.1e}" for size, d in found if d.is_tie]
    share = 1 - unexplained / len(prompts) / len(BATCH_SIZES)
    what = (
        f"share of the {len(prompts)} test prompts of {task} with equal tokens at T = 0 with and without the "
        f"zoo's draft, block size {block_size}, batches of {BATCH_SIZES}; float ties (top two logits within "
        f"{TIE:.0e}): {'; '.join(ties) or 'none'}"
    )
    return Measurement("greedy_identity", share, share, share, what)


@dataclasses.dataclass(frozen=True)
class Difference:
    """Where two outputs of one prompt part; what follows is not compared.

    Attributes:
      prompt: index among the prompts.
      position: of the first unequal token in the output.
      gap: between the target's two largest logits there, teacher-forced on the common tokens.
    """

    prompt: int
    position: int
    gap: float

    @property
    def is_tie(self) -> bool:
        """Rounding explains it."""
        return self.gap <= TIE


def greedy_differences(
    target: Pretrained,
    draft: Pretrained,
    prompts: Sequence[Sequence[int]],
    *,
    block_size: int,
    max_new_tokens: int,
    batch_size: int = 8,
) -> list[Difference]:
    """Decodes every prompt with and without the draft at temperature 0.

    Args:
      target, draft: a pair of one vocabulary.
      prompts: token ids.
      block_size, max_new_tokens, batch_size: see `Engine`.

    Returns:
      One entry for each prompt whose two outputs differ; empty where all are equal.
    """
    pretrained.check_pair(target, draft)
    tokenizer = tokenizer_of(target)
    distribution = SamplingParams(0.0).distribution(tokenizer.vocabulary)
    shared: dict[str, Any] = {"batch_size": batch_size, "stopping": StopOnEos(tokenizer.eos_ids)}
    alone = Engine(target.model, target.params, **shared)
    pair = Engine(
        target.model,
        target.params,
        *make_drafter([draft], vocab_size=tokenizer.vocab_size),
        block_size=block_size,
        **shared,
    )
    outputs, others = (
        [done.tokens for done in engine.generate(prompts, distribution, max_new_tokens, seed=0)]
        for engine in (alone, pair)
    )
    return differences(target, prompts, outputs, others)


def differences(
    target: Pretrained,
    prompts: Sequence[Sequence[int]],
    outputs: Sequence[Sequence[int]],
    others: Sequence[Sequence[int]],
) -> list[Difference]:
    """Lists the prompts whose two outputs differ, with the place and its gap."""
    found = []
    for index, (reference, other) in enumerate(zip(outputs, others, strict=True)):
        if tuple(reference) != tuple(other):
            common = first_difference(reference, other)
            found.append(Difference(index, common, _gap(target, prompts[index], reference[:common])))
    return found


def first_difference(reference: Sequence[int], other: Sequence[int]) -> int:
    """Counts the leading tokens that agree; the shorter length where one begins the other."""
    length = min(len(reference), len(other))
    unequal = np.flatnonzero(np.asarray(reference[:length]) != np.asarray(other[:length]))
    return int(unequal[0]) if unequal.size else length


def _gap(target: Pretrained, prompt: Sequence[int], common: Sequence[int]) -> float:
    tokenizer = tokenizer_of(target)
    prompt_BT = jnp.asarray(padded_prompts([prompt], width_of([prompt])))
    state, pending_B = target.model.prefill(target.params, prompt_BT, len(common) + 1)
    fed_BK = jnp.asarray([[int(pending_B[0]), *common]], jnp.int32)
    logits_BKV, _ = target.model.extend(target.params, state, fed_BK)
    logits_V = np.array(logits_BKV[0, -1, : tokenizer.vocab_size], np.float64)
    logits_V[list(tokenizer.padding_ids)] = -np.inf
    second, first = np.sort(logits_V)[-2:]
    return float(first - second)
