from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax.decoding import (
    AutoregressiveLoop,
    Draft,
    PairParams,
    SamplingParams,
    SpeculativeLoop,
    Status,
    TokenRule,
    Verdict,
    randomness,
)
from distillspec_jax.decoding.randomness import Purpose
from distillspec_jax.errors import UsageError
from distillspec_jax.shapes import Array, Params
from distillspec_jax.vocabulary import Vocabulary
from tests.decoding.batches import merged, padded, run, start, texts
from tests.exactness.families import PROMPTS, VOCAB, family
from tests.exactness.goodness import g_test
from tests.exactness.grid import FALSE_ALARM, exact
from tests.exactness.joint import Distribution, counts_of_cell, decode

PAIR = family("prefix")


def _wordy(params: Params) -> Params:
    """EOS is less likely, so that texts are long."""
    out_DV = params["out_DV"].copy()
    out_DV[:, 1] *= 0.3
    return {**params, "out_DV": out_DV}


PARAMS = PairParams(_wordy(PAIR.params.target), _wordy(PAIR.params.draft))
BLOCK, NEW_TOKENS = 4, 20
LOOP = SpeculativeLoop(PAIR.target, PAIR.drafter, block_size=BLOCK, measure_overlap=True)
PROMPT_BT = padded([PROMPTS[i % 3] for i in range(12)])
LIMITS = np.array([20, 20, 7, 20, 1, 20, 20, 2, 20, 13, 20, 0])
INDEX = np.arange(12)
DISTRIBUTION = (
    SamplingParams(np.tile([1.0, 0.0, 0.6], 4), np.tile([0, 0, 4, 0], 3))
    .distribution(Vocabulary(VOCAB, (1,), (0,)))
    .for_rows(12)
)


@pytest.fixture(scope="module")
def fresh() -> Any:
    return start(LOOP, PARAMS, PROMPT_BT, DISTRIBUTION, LIMITS, INDEX, NEW_TOKENS)


@pytest.fixture(scope="module")
def done(fresh: Any) -> Any:
    return run(LOOP, PARAMS, fresh)


def test_greedy_rows_emit_the_autoregressive_text(done: Any) -> None:
    plain = AutoregressiveLoop(PAIR.target)
    reference = run(plain, PARAMS, start(plain, PARAMS, PROMPT_BT, DISTRIBUTION, LIMITS, INDEX, NEW_TOKENS))
    greedy = np.flatnonzero(np.asarray(DISTRIBUTION.temperature) == 0)
    assert max(len(texts(reference)[b]) for b in greedy) > 2 * BLOCK
    for b in greedy:
        assert texts(done)[b] == texts(reference)[b]


def test_a_text_does_not_depend_on_neighbours_or_place(done: Any) -> None:
    turned = np.roll(INDEX, 5)
    distribution = DISTRIBUTION.select(turned)
    state = start(LOOP, PARAMS, PROMPT_BT[turned], distribution, LIMITS[turned], turned, NEW_TOKENS)
    assert texts(run(LOOP, PARAMS, state)) == [texts(done)[i] for i in turned]


def test_host_visits_change_nothing(fresh: Any, done: Any) -> None:
    state = fresh
    for _ in range(3):
        state = run(LOOP, PARAMS, state, 1)
        assert texts(state) != texts(done)
    state = run(LOOP, PARAMS, state)
    for found, expected in [(state.rows, done.rows), (state.counts, done.counts)]:
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), found, expected)))


def test_rows_that_start_late_emit_the_same(fresh: Any, done: Any) -> None:
    """A slot given to another prompt in the middle of a run: all leaves of its row replaced."""
    later = merged(run(LOOP, PARAMS, fresh, 3), fresh, INDEX % 2 == 0)
    assert texts(run(LOOP, PARAMS, later)) == texts(done)


def test_finished_rows_idle(fresh: Any) -> None:
    before = run(LOOP, PARAMS, fresh, 4)
    after = run(LOOP, PARAMS, before, 2)
    idle = np.flatnonzero(np.asarray(before.rows.status_B) != Status.RUNNING)
    assert 0 < len(idle) < len(INDEX)
    assert (np.asarray(after.rows.emitted_B)[~np.isin(INDEX, idle)] > 0).all()
    for state_before, state_after in [
        (before.rows, after.rows),
        (before.counts, after.counts),
        (before.target.length_B, after.target.length_B),
        (before.draft.cache.length_B, after.draft.cache.length_B),
    ]:
        for a, b in zip(jax.tree.leaves(state_before), jax.tree.leaves(state_after), strict=True):
            assert (a[idle] == b[idle]).all()
    for b in idle:
        kept = int(before.target.length_B[b])
        np.testing.assert_array_equal(after.target.cache[b, :kept], before.target.cache[b, :kept])


def test_caches_hold_every_committed_token_but_the_last(done: Any, fresh: Any) -> None:
    state = run(LOOP, PARAMS, fresh, 2)
    running = np.asarray(state.rows.running_B)
    emitted = np.asarray(state.rows.emitted_B)[running]
    held = np.asarray(state.target.length_B - fresh.target.length_B)[running]
    assert np.array_equal(held, emitted)
    # The draft's lacks one more: both are fed to it at once.
    held = np.asarray(state.draft.cache.length_B - fresh.draft.cache.length_B)[running]
    assert np.array_equal(held, emitted - 1)


def test_accounting(done: Any) -> None:
    counts = jax.device_get(done.counts)
    emitted = np.asarray(done.rows.emitted_B)
    assert np.array_equal(emitted, counts.accepted_BG.sum(1) + counts.rounds_B - counts.cut_B)
    assert (emitted <= LIMITS).all()
    records = counts.records(emitted)
    assert not [said for record in records for said in record.violations(BLOCK)]
    assert [record.cuts for record in records] == counts.cut_B.tolist()
    assert counts.rounds_B[-1] == 0
    # A limit of one token: one round, in which one draft is tested, whatever comes of it.
    assert counts.tested_BG[4].tolist() == [1, 0, 0, 0]
    # Expected acceptance lies near the observed one, and is 0 or 1 a position at temperature 0.
    assert ((counts.overlap_B >= 0) & (counts.overlap_B <= counts.tested_BG.sum(1) + 1e-4)).all()
    greedy = np.asarray(DISTRIBUTION.temperature) == 0
    np.testing.assert_allclose(counts.overlap_B[greedy], counts.accepted_BG.sum(1)[greedy])
    assert 0 < counts.overlap_B[~greedy].sum() < counts.tested_BG[~greedy].sum()


FAULT_V = np.where(np.arange(8) == 5, np.nan, 0).astype(np.float32)


def test_rows_whose_logits_are_nan_fail_alone(done: Any) -> None:
    """The target fails after id 5: rows that have to go on from it fail, the others never notice."""
    params = PARAMS._replace(target={**PARAMS.target, "fault_V": FAULT_V})
    state = run(LOOP, params, start(LOOP, params, PROMPT_BT, DISTRIBUTION, LIMITS, INDEX, NEW_TOKENS))
    status = np.asarray(state.rows.status_B)
    failed_late = 0
    for b, (text, sound) in enumerate(zip(texts(state), texts(done), strict=True)):
        read = [PROMPTS[b % 3][-1], *sound[:-1]] if LIMITS[b] else []
        assert (status[b] == Status.FAILED) == (5 in read)
        if 5 in read:
            # What was emitted before the failing round stays.
            assert text == sound[: len(text)]
            assert len(text) <= read.index(5)
            failed_late += len(text) > 0
        else:
            assert text == sound
    assert failed_late
    counts = jax.device_get(state.counts)
    accounted = counts.accepted_BG.sum(1) + counts.rounds_B - counts.cut_B
    assert np.array_equal(np.asarray(state.rows.emitted_B), accounted)


def test_a_nan_in_the_draft_fails_nothing(done: Any) -> None:
    """After id 5 it offers nothing: greedy rows, and rows that never read a 5, emit what they ever do."""
    params = PARAMS._replace(draft={**PARAMS.draft, "fault_V": FAULT_V[:7]})
    state = run(LOOP, params, start(LOOP, params, PROMPT_BT, DISTRIBUTION, LIMITS, INDEX, NEW_TOKENS))
    assert not (np.asarray(state.rows.status_B) == Status.FAILED).any()
    greedy, met = np.asarray(DISTRIBUTION.temperature) == 0, 0
    for b, text in enumerate(texts(done)):
        read_5 = LIMITS[b] > 0 and 5 in [PROMPTS[b % 3][-1], *text[:-1]]
        met += read_5
        assert texts(state)[b] == text or (read_5 and not greedy[b])
    assert 0 < met < len(INDEX)
    counts = jax.device_get(state.counts)
    accounted = counts.accepted_BG.sum(1) + counts.rounds_B - counts.cut_B
    assert np.array_equal(np.asarray(state.rows.emitted_B), accounted)
    whole = BLOCK * np.asarray(jax.device_get(done.counts).rounds_B)
    assert np.array_equal(jax.device_get(done.counts).drafted_B, whole)
    fewer_B = counts.drafted_B < BLOCK * counts.rounds_B  # it may draft a 5 that the text has not
    assert met <= fewer_B.sum() < len(INDEX), "a draft of no distribution is none"
    assert (counts.tested_BG.sum(1) <= counts.drafted_B).all()
    assert np.isfinite(counts.overlap_B).all()


def test_block_size_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="block_size is 0"):
        dataclasses.replace(LOOP, block_size=0)


# Several candidate blocks, one of them shorter: the seams, with the least that fills them.


@dataclasses.dataclass(frozen=True)
class UniformDrafter:
    """Two independent blocks of uniform words; the second offers one token less."""

    def init(self, params: None, prompt_BT: Array, max_length: int, pending_B: Array) -> tuple[()]:
        return ()

    def draft(
        self, params: None, state: tuple[()], keys_B: Array, pending_B: Array, distribution: Any, size: int
    ) -> Draft:
        rows = len(pending_B)
        branch_offset = jnp.arange(2 * size)[None]
        keys = randomness.draw_keys(keys_B[:, None], branch_offset, Purpose.DRAFT)
        tokens_BNG = 1 + (randomness.uniform(keys) * (VOCAB - 1)).astype(jnp.int32).reshape(rows, 2, size)
        log_q_V = jnp.where(jnp.arange(VOCAB) > 0, -jnp.log(VOCAB - 1.0), -jnp.inf)
        log_q = jnp.broadcast_to(log_q_V, (rows, 2, size, VOCAB))
        length_BN = jnp.broadcast_to(jnp.array([[size, size - 1]]), (rows, 2))
        return Draft(tokens_BNG, log_q, length_BN, ())

    def commit(self, state: tuple[()], branch_B: Array, accepted_B: Array) -> tuple[()]:
        return ()


@dataclasses.dataclass(frozen=True)
class CoinThenTokenRule:
    """Verifies the branch that a coin chooses without looking: lossless if the loop keeps that branch."""

    depends_on_whole_block = False

    def __call__(
        self, keys_B: Array, tokens: Array, log_q: Array, log_p: Array, length: Array, *, logits_BNKV: Any
    ) -> Verdict:
        coin = randomness.draw_keys(keys_B, 99, Purpose.ACCEPT)
        branch_B = (randomness.uniform(coin) < 0.5).astype(jnp.int32)
        one = [x[jnp.arange(len(branch_B)), branch_B][:, None] for x in (tokens, log_q, log_p, length)]
        return TokenRule()(keys_B, *one)._replace(branch_B=branch_B)


def test_several_blocks_of_unequal_length_keep_the_exact_distribution() -> None:
    loop = SpeculativeLoop(PAIR.target, UniformDrafter(), CoinThenTokenRule(), block_size=2)
    cells = [(prompt, Distribution(1.0)) for prompt in range(len(PROMPTS))]
    state = decode(loop, PAIR.params, cells, 4000, seed=5)
    for i, (prompt, distribution) in enumerate(cells):
        counts: Counter[tuple[int, ...]] = counts_of_cell(state, i, len(cells))
        assert g_test(counts, exact("prefix", prompt, distribution)) > FALSE_ALARM / len(cells)
    assert 0 < int(state.counts.accepted_BG[:, 1].sum()) < int(state.counts.accepted_BG[:, 0].sum())
