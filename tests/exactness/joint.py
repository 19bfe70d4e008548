"""Exact joint laws of whole outputs, by enumeration, and the sampler's counts to compare them with."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.decoding import Loop, PairParams, Requests, State, randomness, sampling_law
from distillspec_jax.shapes import Array
from tests.decoding.reference_law import reference_probs
from tests.exactness.families import PROMPTS, VOCAB, Family
from tests.exactness.goodness import Cell

EOS = 1
WORDS = tuple(range(2, VOCAB))
LIMITS = (4, 3, 4)
"""Most tokens of each prompt's row: one of them is cut earlier than its neighbours."""


@dataclasses.dataclass(frozen=True)
class Law:
    """The numbers of a sampling law."""

    temperature: float
    top_k: int = 0
    top_p: float = 1.0


def exact_joint(family: Family, prompt: tuple[int, ...], limit: int, law: Law) -> dict[Cell, float]:
    """Every possible output and its probability: it ends with EOS or has `limit` tokens."""
    width = max(LIMITS) - 1
    full = list(itertools.product(WORDS, repeat=width))
    logits = family.target_logits(prompt, np.array(full))
    next_law: dict[Cell, np.ndarray] = {}
    for words, logits_TV in zip(full, logits, strict=True):
        for t in range(limit):
            if words[:t] not in next_law:
                next_law[words[:t]] = reference_probs(
                    logits_TV[t], **dataclasses.asdict(law), vocab_size=VOCAB
                )
    joint: dict[Cell, float] = {}
    alive: dict[Cell, float] = {(): 1.0}
    for _ in range(limit):
        grown: dict[Cell, float] = {}
        for prefix, probability in alive.items():
            p_V = next_law[prefix]
            joint[(*prefix, EOS)] = probability * p_V[EOS]
            grown |= {(*prefix, word): probability * p_V[word] for word in WORDS}
        alive = grown
    return joint | alive


def decode(
    loop: Loop, params: PairParams, cells: Sequence[tuple[int, Law]], repeats: int, seed: int
) -> State:
    """Decodes `repeats` rows for each (prompt number, law), interleaved, in one batch."""
    prompt_of_B = np.tile([prompt for prompt, _ in cells], repeats)
    laws = [law for _, law in cells] * repeats
    prompt_PT = np.zeros((len(PROMPTS), max(map(len, PROMPTS))), np.int32)
    for row_T, prompt in zip(prompt_PT, PROMPTS, strict=True):
        row_T[: len(prompt)] = prompt
    requests = Requests(
        keys_B=randomness.row_keys(jax.random.key(seed), jnp.arange(len(laws))),
        limit_B=jnp.asarray(np.array(LIMITS)[prompt_of_B]),
        law=sampling_law(
            [law.temperature for law in laws],
            [law.top_k for law in laws],
            [law.top_p for law in laws],
            vocab_size=VOCAB,
        ),
    )
    return _decode(loop, params, jnp.asarray(prompt_PT[prompt_of_B]), requests)


@functools.partial(jax.jit, static_argnums=0)
def _decode(loop: Loop, params: PairParams, prompt_BT: Array, requests: Requests) -> State:
    state = loop.init(params, prompt_BT, requests, max(LIMITS))
    return loop.run(params, state, 1000)


def outputs(state: State) -> list[Cell]:
    """What each row emitted."""
    tokens_BT, emitted_B = np.asarray(state.rows.output_BT), np.asarray(state.rows.emitted_B)
    return [tuple(row[:n].tolist()) for row, n in zip(tokens_BT, emitted_B, strict=True)]


def counts_of_cell(state: State, cell: int, cells: int) -> Counter[Cell]:
    """How often each output came, among the rows of one cell of `decode`."""
    return Counter(outputs(state)[cell::cells])
