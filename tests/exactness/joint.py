"""Exact joint distributions of whole outputs, by enumeration, and the sampler's counts to compare them
with."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.decoding import Loop, PairParams, RowSettings, SamplingParams, State, randomness
from distillspec_jax.models.cpu_forms import compiler_options
from distillspec_jax.shapes import Array
from distillspec_jax.vocabulary import Vocabulary
from tests import tiny
from tests.decoding.reference_distribution import reference_probs
from tests.exactness.families import PROMPTS, VOCAB, Family
from tests.exactness.goodness import Cell

EOS = 1
WORDS = tuple(range(2, VOCAB))
LIMITS = (4, 3, 4)
"""Most tokens of each prompt's row: one of them is cut earlier than its neighbours."""

EVERY_ROUND = 1000
"""More rounds than any text takes."""


@dataclasses.dataclass(frozen=True)
class Distribution:
    """The numbers of a sampling distribution."""

    temperature: float
    top_k: int = 0
    top_p: float = 1.0


def next_distributions(
    logits: Callable[[tuple[int, ...], np.ndarray], np.ndarray],
    prompt: tuple[int, ...],
    limit: int,
    distribution: Distribution,
) -> dict[Cell, np.ndarray]:
    """The distribution of the next token after every text of fewer than `limit` words."""
    width = max(LIMITS) - 1
    full = list(itertools.product(WORDS, repeat=width))
    distributions: dict[Cell, np.ndarray] = {}
    for words, logits_TV in zip(full, logits(prompt, np.array(full)), strict=True):
        for t in range(limit):
            if words[:t] not in distributions:
                distributions[words[:t]] = reference_probs(
                    logits_TV[t], **dataclasses.asdict(distribution), vocab_size=VOCAB
                )
    return distributions


def exact_joint(
    family: Family,
    prompt: tuple[int, ...],
    limit: int,
    distribution: Distribution,
    stopped: Callable[[Cell], bool] = lambda _: False,
) -> dict[Cell, float]:
    """Every possible output and its probability: it ends with EOS, has `limit` tokens or is `stopped`."""
    next_distribution = next_distributions(family.target_logits, prompt, limit, distribution)
    joint: dict[Cell, float] = {}
    alive: dict[Cell, float] = {(): 1.0}
    for _ in range(limit):
        grown: dict[Cell, float] = {}
        for prefix, probability in alive.items():
            p_V = next_distribution[prefix]
            joint[(*prefix, EOS)] = probability * p_V[EOS]
            grown |= {(*prefix, word): probability * p_V[word] for word in WORDS}
        joint |= {text: p for text, p in grown.items() if stopped(text)}
        alive = {text: p for text, p in grown.items() if not stopped(text)}
    return joint | alive


def exact_first_round(
    family: Family, prompt: tuple[int, ...], limit: int, distribution: Distribution, block_size: int
) -> dict[Cell, float]:
    """Every outcome `(accepted drafts, *emitted tokens)` of one round from the prompt, and its probability.

    A token y is drafted and accepted with probability min(p(y), q(y)), or is the correction of a rejected
    draft with probability max(0, p(y) - q(y)); together p(y). An accepted EOS or a full row ends the round.
    """
    p_distribution = next_distributions(family.target_logits, prompt, limit, distribution)
    q_distribution = next_distributions(family.draft_logits, prompt, limit, distribution)
    outcomes: dict[Cell, float] = {}
    alive: dict[Cell, float] = {(): 1.0}
    for place in range(min(block_size, limit)):
        grown: dict[Cell, float] = {}
        for prefix, probability in alive.items():
            p_V, q_V = p_distribution[prefix], q_distribution[prefix]
            for token in (EOS, *WORDS):
                excess = max(0.0, p_V[token] - q_V[token])
                outcomes[(place, *prefix, token)] = probability * excess
            outcomes[(place + 1, *prefix, EOS)] = probability * min(p_V[EOS], q_V[EOS])
            grown |= {(*prefix, word): probability * min(p_V[word], q_V[word]) for word in WORDS}
        alive = grown
    for prefix, probability in alive.items():
        if len(prefix) == limit:
            outcomes[(limit, *prefix)] = probability
        else:
            for token in (EOS, *WORDS):
                outcomes[(block_size, *prefix, token)] = probability * p_distribution[prefix][token]
    return outcomes


def batch(
    cells: Sequence[tuple[int, Distribution]], repeats: int, seed: int
) -> tuple[np.ndarray, RowSettings]:
    """Prompts and settings of `repeats` rows for each (prompt number, distribution), interleaved."""
    prompt_of_B = np.tile([prompt for prompt, _ in cells], repeats)
    distributions = [distribution for _, distribution in cells] * repeats
    prompt_PT = np.zeros((len(PROMPTS), max(map(len, PROMPTS))), np.int32)
    for row_T, prompt in zip(prompt_PT, PROMPTS, strict=True):
        row_T[: len(prompt)] = prompt
    settings = RowSettings(
        keys_B=randomness.row_keys(jax.random.key(seed), jnp.arange(len(distributions))),
        limit_B=jnp.asarray(np.array(LIMITS)[prompt_of_B]),
        distribution=SamplingParams(
            [distribution.temperature for distribution in distributions],
            [distribution.top_k for distribution in distributions],
            [distribution.top_p for distribution in distributions],
        ).distribution(Vocabulary(VOCAB, (1,), (0,))),
    )
    return prompt_PT[prompt_of_B], settings


def _run(loop: Loop, params: PairParams, prompt_BT: Array, settings: RowSettings, max_rounds: int) -> State:
    """Decodes a batch from its prompts on."""
    state = loop.init(params, prompt_BT, settings, max(LIMITS))
    return loop.run(params, state, max_rounds)


_OPTIONS = compiler_options() or {}

run = jax.jit(_run, static_argnums=0, compiler_options={**_OPTIONS, **tiny.OPTIMISED})
"""For many rows: optimised."""

run_few = jax.jit(_run, static_argnums=0, compiler_options=_OPTIONS)
"""For few rows: quickly compiled."""


def decode(
    loop: Loop, params: PairParams, cells: Sequence[tuple[int, Distribution]], repeats: int, seed: int
) -> State:
    """Decodes `batch(cells, repeats, seed)`."""
    return run(loop, params, *batch(cells, repeats, seed), EVERY_ROUND)


def outputs(state: State, first: int = 0, step: int = 1) -> list[Cell]:
    """What each row emitted, or every `step`th row from the `first` on."""
    tokens_BT, emitted_B = (np.asarray(x)[first::step] for x in (state.rows.output_BT, state.rows.emitted_B))
    return [tuple(row[:n].tolist()) for row, n in zip(tokens_BT, emitted_B, strict=True)]


def counts_of_cell(state: State, cell: int, cells: int) -> Counter[Cell]:
    """How often each output came, among the rows of one cell of `decode`."""
    return Counter(outputs(state, cell, cells))
