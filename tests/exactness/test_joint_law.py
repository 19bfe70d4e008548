"""The joint law of whole outputs, against enumeration.

Every test compares one batch of all `CELLS` (prompts of unequal length x laws, interleaved row by row) with
the exact law of each cell. A sound sampler fails a test with probability at most `FALSE_ALARM` over seeds;
the seeds are fixed, so it fails never. What the tests can see is stated, and checked, at the end.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax.decoding import (
    AutoregressiveLoop,
    Loop,
    ModelDrafter,
    SpeculativeLoop,
    State,
    TokenRule,
    Verdict,
    randomness,
)
from distillspec_jax.decoding.randomness import Purpose
from tests.exactness.families import FAMILIES, PROMPTS, VOCAB, Family, family
from tests.exactness.goodness import Cell, g_test, power
from tests.exactness.joint import EOS, LIMITS, Law, counts_of_cell, decode, exact_joint, outputs

FALSE_ALARM = 1e-4
REPEATS = 3000
LAWS = (Law(1.0), Law(0.7), Law(1.5, top_k=3), Law(1.0, top_p=0.8), Law(0.7, top_k=4, top_p=0.9), Law(0.0))
CELLS = [(prompt, law) for prompt in range(len(PROMPTS)) for law in LAWS]

slow = pytest.mark.slow
GRID = [
    pytest.param("prefix", 0),
    pytest.param("prefix", 1),
    pytest.param("prefix", 2),
    pytest.param("prefix", 5),
    pytest.param("t5", 0, marks=slow),
    pytest.param("t5", 1, marks=slow),
    pytest.param("t5", 2),
    pytest.param("t5", 5, marks=slow),
]


def make_loop(pair: Family, block_size: int) -> Loop:
    """The loop of a block size; 0 is autoregressive decoding."""
    if block_size == 0:
        return AutoregressiveLoop(pair.target)
    return SpeculativeLoop(pair.target, pair.drafter, block_size=block_size)


@functools.cache
def decoded(name: str, block_size: int) -> State:
    return decode(make_loop(family(name), block_size), family(name).params, CELLS, REPEATS, seed=1)


@functools.cache
def exact(name: str, prompt: int, law: Law) -> dict[Cell, float]:
    return exact_joint(family(name), PROMPTS[prompt], LIMITS[prompt], law)


def test_every_family_is_in_the_grid() -> None:
    assert {param.values[0] for param in GRID} == set(FAMILIES)


@pytest.mark.parametrize("name, block_size", GRID)
def test_every_row_of_the_batch_follows_its_own_exact_law(name: str, block_size: int) -> None:
    state = decoded(name, block_size)
    for i, (prompt, law) in enumerate(CELLS):
        counts = counts_of_cell(state, i, len(CELLS))
        p_value = g_test(counts, exact(name, prompt, law))
        assert p_value > FALSE_ALARM / len(CELLS), f"prompt {prompt}, {law}: p = {p_value:.2g}"


@pytest.mark.parametrize("name, block_size", GRID)
def test_rows_with_equal_prompts_are_independent(name: str, block_size: int) -> None:
    """First two tokens of two rows of one cell: their joint law is the product of their laws."""
    heads = [tuple(output[:2]) for output in outputs(decoded(name, block_size))]
    for i, (prompt, law) in enumerate(CELLS):
        head_law: Counter[Cell] = Counter()
        for output, probability in exact(name, prompt, law).items():
            head_law[output[:2]] += probability  # type: ignore[assignment]
        product = {(*a, 0, *b): p * q for a, p in head_law.items() for b, q in head_law.items()}
        rows = heads[i :: len(CELLS)]
        pairs = Counter((*a, 0, *b) for a, b in zip(rows[::2], rows[1::2], strict=True))
        assert g_test(pairs, product) > FALSE_ALARM / len(CELLS), f"prompt {prompt}, {law}"


@pytest.mark.parametrize("name, block_size", GRID)
def test_emitted_tokens_are_accounted_for(name: str, block_size: int) -> None:
    state = decoded(name, block_size)
    counts, rows = state.counts, state.rows
    tested, accepted = np.asarray(counts.tested_BG), np.asarray(counts.accepted_BG)
    rounds, cut = np.asarray(counts.rounds_B), np.asarray(counts.cut_B)
    emitted, limit = np.asarray(rows.emitted_B), np.asarray(rows.requests.limit_B)
    ended_by_eos = np.array([output[-1] == EOS for output in outputs(state)])
    assert np.array_equal(emitted, accepted.sum(1) + rounds - cut)
    assert (cut <= 1).all()
    assert ((emitted == limit) | ended_by_eos).all()
    assert (emitted <= limit).all()
    assert (accepted <= tested).all()
    assert (np.diff(accepted, axis=1) <= 0).all()
    # A position is tested only if the one before it was accepted, and only if room was left for it.
    assert (tested[:, 1:] <= accepted[:, :-1]).all()
    assert (tested.sum(1) <= emitted).all()
    if block_size == 0:
        assert np.array_equal(rounds, emitted)


@pytest.mark.parametrize("name, block_size", [p for p in GRID if p.values[1] > 0])
def test_at_temperature_0_the_output_is_the_autoregressive_one(name: str, block_size: int) -> None:
    for i, (prompt, law) in enumerate(CELLS):
        if law.temperature == 0:
            (expected,) = (output for output, p in exact(name, prompt, law).items() if p == 1)
            assert counts_of_cell(decoded(name, block_size), i, len(CELLS)) == {expected: REPEATS}


# What the law test can see.


@dataclasses.dataclass(frozen=True)
class ResidualFromTarget(TokenRule):
    """Mutant 3: after a rejection draws from p instead of norm(max(0, p - q))."""

    def __call__(self, keys_B, tokens_BNG, log_q_BNGV, log_p_BNKV, length_BN, **_):  # type: ignore[no-untyped-def, override]
        verdict = super().__call__(keys_B, tokens_BNG, log_q_BNGV, log_p_BNKV, length_BN)
        log_p_BV = log_p_BNKV[jnp.arange(len(keys_B)), 0, verdict.accepted_B]
        keys = randomness.draw_keys(keys_B, verdict.accepted_B, Purpose.RESIDUAL)
        return Verdict(verdict.branch_B, verdict.accepted_B, randomness.draw(keys, log_p_BV))


@dataclasses.dataclass(frozen=True)
class BonusFromLastPosition(TokenRule):
    """Mutant 4: the bonus token follows the law before the last draft."""

    def __call__(self, keys_B, tokens_BNG, log_q_BNGV, log_p_BNKV, length_BN, **_):  # type: ignore[no-untyped-def, override]
        stale = log_p_BNKV.at[:, :, -1].set(log_p_BNKV[:, :, -2])
        return super().__call__(keys_B, tokens_BNG, log_q_BNGV, stale, length_BN)


@dataclasses.dataclass(frozen=True)
class OneKey(TokenRule):
    """Mutant 7a: the number that rejected the draft draws its replacement, too."""

    def __call__(self, keys_B, tokens_BNG, log_q_BNGV, log_p_BNKV, length_BN, **_):  # type: ignore[no-untyped-def, override]
        verdict = super().__call__(keys_B, tokens_BNG, log_q_BNGV, log_p_BNKV, length_BN)
        rows, at = jnp.arange(len(keys_B)), jnp.minimum(verdict.accepted_B, tokens_BNG.shape[2] - 1)
        p, q = jnp.exp(log_p_BNKV[rows, 0, at]), jnp.exp(log_q_BNGV[rows, 0, at])
        keys = randomness.draw_keys(keys_B, verdict.accepted_B, Purpose.ACCEPT)
        redrawn = randomness.draw(keys, jnp.log(jnp.maximum(p - q, 0)))
        rejected = verdict.accepted_B < length_BN[:, 0]
        return verdict._replace(next_token_B=jnp.where(rejected, redrawn, verdict.next_token_B))


@dataclasses.dataclass(frozen=True)
class GreedyDrafter(ModelDrafter):
    """Mutant 1: drafts the likeliest token and records the soft law."""

    def draft(self, params, state, keys_B, pending_B, law, block_size):  # type: ignore[no-untyped-def]
        greedy = dataclasses.replace(law, temperature=jnp.zeros_like(law.temperature))
        draft = super().draft(params, state, keys_B, pending_B, greedy, block_size)
        soft = super().draft(params, state, keys_B, pending_B, law, block_size)
        return draft._replace(log_q_BNGV=soft.log_q_BNGV)


@pytest.mark.parametrize(
    "mutant", [None, ResidualFromTarget(), BonusFromLastPosition(), OneKey(), GreedyDrafter]
)
def test_wrong_samplers_are_seen(mutant: object) -> None:
    """Also that the unmutated sampler passes the same, smaller test."""
    pair = family("prefix")
    if mutant is GreedyDrafter:
        loop = SpeculativeLoop(pair.target, GreedyDrafter(pair.draft), block_size=2)
    else:
        loop = SpeculativeLoop(pair.target, pair.drafter, mutant or TokenRule(), block_size=2)  # type: ignore[arg-type]
    cells = [(prompt, Law(1.0)) for prompt in range(len(PROMPTS))]
    state = decode(loop, pair.params, cells, REPEATS, seed=2)
    p_values = [
        g_test(counts_of_cell(state, i, len(cells)), exact("prefix", prompt, law))
        for i, (prompt, law) in enumerate(cells)
    ]
    assert (min(p_values) > FALSE_ALARM / len(CELLS)) == (mutant is None), p_values


def test_power_against_a_small_leak_of_the_draft_law() -> None:
    """If 6 % of all outputs came straight from the draft, some cell would tell, with probability 0.99."""
    pair = family("prefix")
    swapped = dataclasses.replace(
        pair, target=pair.draft, params=pair.params._replace(target=pair.params.draft)
    )
    missed = 1.0
    for prompt, law in CELLS:
        if law.temperature == 0:
            continue
        right, leak = exact("prefix", prompt, law), exact_joint(swapped, PROMPTS[prompt], LIMITS[prompt], law)
        mixed = {output: 0.94 * p + 0.06 * leak[output] for output, p in right.items()}
        missed *= 1 - power(right, mixed, REPEATS, FALSE_ALARM / len(CELLS))
    assert missed < 0.01


def test_vocabulary_of_the_suite() -> None:
    """Padded rows of the embedding exist, and differ between target and draft."""
    pair = family("t5")
    assert VOCAB < pair.draft.vocab_size < pair.target.vocab_size
