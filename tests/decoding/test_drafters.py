"""The draft contract: every recorded log q is the draft's own distribution on the row's true prefix.

A draft with a wrong cache or a wrong distribution still samples from what it records, so the output stays
exact and no test of the output can see it; only acceptance drops.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax.decoding import (
    Draft,
    Drafter,
    ModelDrafter,
    OnePassDrafter,
    PairParams,
    RowSettings,
    SamplingParams,
    SpeculativeLoop,
    State,
    drafter_registry,
    named_drafters,
    randomness,
)
from distillspec_jax.shapes import Array, Params
from distillspec_jax.vocabulary import Vocabulary
from tests.decoding.batches import merged, padded, start
from tests.decoding.reference_distribution import reference_probs
from tests.exactness.families import FAMILIES, MIXED, PROMPTS, VOCAB, family
from tests.exactness.goodness import g_test
from tests.exactness.grid import CELLS, FALSE_ALARM, REPEATS, SEED
from tests.exactness.joint import EOS, batch, exact_joint

BLOCK, NEW_TOKENS = 3, 9
DISTRIBUTIONS = [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.5, 3, 1.0), (1.0, 0, 0.8), (0.0, 0, 1.0)]


@dataclasses.dataclass(frozen=True)
class Recorder:
    """A drafter that keeps its last proposal in its memory."""

    drafter: Drafter

    def init(self, params: Params, prompt_BT: Array, max_length: int, pending_B: Array) -> Any:
        tokens_BNG = jnp.zeros((len(prompt_BT), 1, BLOCK), jnp.int32)
        log_q_BNGV = jnp.zeros((len(prompt_BT), 1, BLOCK, VOCAB))
        return self.drafter.init(params, prompt_BT, max_length, pending_B), (tokens_BNG, log_q_BNGV)

    def draft(self, params: Params, state: Any, *args: Any) -> Draft:
        draft = self.drafter.draft(params, state[0], *args)
        return draft._replace(state=(draft.state, (draft.tokens_BNG, draft.log_q_BNGV)))

    def commit(self, state: Any, branch_B: Array, accepted_B: Array) -> Any:
        return self.drafter.commit(state[0], branch_B, accepted_B), state[1]


@functools.partial(jax.jit, static_argnums=0)
def one_round(loop: SpeculativeLoop, params: PairParams, state: State) -> State:
    return loop.round(params, state)


MASK = VOCAB
"""The first of an embedding's padded rows."""


@pytest.mark.parametrize(
    "name, one_pass",
    [*((name, False) for name in (*FAMILIES, *MIXED)), *((name, True) for name in ("t5", *MIXED))],
)
def test_recorded_distributions_are_the_drafts_own_on_the_true_prefix(name: str, one_pass: bool) -> None:
    pair = family(name)
    drafter = OnePassDrafter(pair.draft, MASK, BLOCK) if one_pass else pair.drafter
    loop = SpeculativeLoop(pair.target, Recorder(drafter), block_size=BLOCK)
    cells = [(prompt, distribution) for prompt in PROMPTS for distribution in DISTRIBUTIONS]
    cells *= 48 if one_pass else 4  # masks tell less: whole blocks are rarely accepted
    distribution = SamplingParams(
        *zip(*[distribution for _, distribution in cells], strict=True)
    ).distribution(Vocabulary(VOCAB, (1,), (0,)))
    prompt_BT = padded([prompt for prompt, _ in cells])
    rows = np.arange(len(cells))
    state = start(
        loop, pair.params, prompt_BT, distribution, np.full(len(rows), NEW_TOKENS), rows, NEW_TOKENS
    )

    # Every second row enters a round late, as a refilled slot would: rows that have committed
    # nothing share a batch with rows that have.
    state = merged(state, one_round(loop, pair.params, state), rows % 2 == 0)
    accepted_before = np.zeros(len(rows), int)
    seen: set[int] = set()
    while np.asarray(state.rows.running_B).any():
        after = one_round(loop, pair.params, state)
        tokens_BG, log_q_BGV = (np.asarray(recorded)[:, 0] for recorded in after.draft[1])
        rows_before = jax.device_get((state.rows.output_BT, state.rows.emitted_B, state.rows.running_B))
        output_BT, emitted_B, running_B = rows_before
        true_prefix_BT = np.zeros((len(cells), NEW_TOKENS + BLOCK), np.int32)
        for prefix_T, output_T, emitted, tokens_G in zip(
            true_prefix_BT, output_BT, emitted_B, tokens_BG, strict=True
        ):
            read_G = np.full(BLOCK, MASK) if one_pass else tokens_G
            prefix_T[: emitted + BLOCK] = [*output_T[:emitted], *read_G]
        logits_BTV = np.empty((len(cells), NEW_TOKENS + BLOCK + 1, pair.draft.vocab_size))
        for prompt in PROMPTS:  # of unequal length, so each is scored for itself
            own = [prompt == other for other, _ in cells]
            logits_BTV[own] = pair.draft_logits(prompt, true_prefix_BT[own])
        for b in np.flatnonzero(running_B):
            after_prefix = logits_BTV[b, emitted_B[b] :][:BLOCK]
            expected = [reference_probs(logits_V, *cells[b][1], VOCAB) for logits_V in after_prefix]
            np.testing.assert_allclose(np.exp(log_q_BGV[b]), expected, atol=2e-5, err_msg=f"row {b}")
            seen.add(int(accepted_before[b]) if emitted_B[b] else -1)
        accepted_now = np.asarray(after.counts.accepted_BG - state.counts.accepted_BG).sum(1)
        accepted_before, state = accepted_now, after
    # First rounds, and rounds after every number of accepted drafts, have been looked at.
    assert seen == set(range(-1, BLOCK + 1))


@functools.partial(jax.jit, static_argnums=0)
def drafted_twice(
    loop: SpeculativeLoop,
    params: PairParams,
    prompt_BT: Array,
    accepted_B: Array,
    text_BT: Array,
    count_B: Array,
) -> tuple[Draft, Draft]:
    """Two blocks; between them, a row commits drafts and a token of the target's, and follows a text.

    Args:
      accepted_B: drafts that are committed; -1: nothing is, not even the target's token.
      text_BT: the target's token, and the text.
      count_B: tokens of the text.
    """
    rows, drafter = len(prompt_BT), loop.drafter
    first_B = loop.target.prefill(params.target, prompt_BT, 1)[1]
    keys_B = randomness.row_keys(jax.random.key(0), jnp.arange(rows))
    distribution = SamplingParams().distribution(Vocabulary(VOCAB, (1,), (0,))).for_rows(rows)

    memory = drafter.init(params.draft, prompt_BT, 4 * BLOCK + text_BT.shape[1], first_B)
    first = drafter.draft(params.draft, memory, keys_B, first_B, distribution, BLOCK)
    memory = drafter.commit(first.state, jnp.zeros(rows, jnp.int32), accepted_B)
    pending_B = jnp.where(accepted_B < 0, first_B, text_BT[:, 0])
    memory = drafter.follow(params.draft, memory, pending_B, text_BT[:, 1:], count_B)
    pending_B = jnp.where(count_B > 0, text_BT[jnp.arange(rows), count_B], pending_B)
    return first, drafter.draft(params.draft, memory, keys_B, pending_B, distribution, BLOCK)


@pytest.mark.parametrize("name, one_pass", [("t5 by decoder_only", False), ("decoder_only by t5", True)])
def test_a_draft_that_follows_drafts_on_the_true_prefix(name: str, one_pass: bool) -> None:
    """After every number of accepted drafts and none, which a round of masks has yet to read.

    The draft is of another family than the target: its outputs begin with a token of its own.
    """
    pair, prompt, most = family(name), PROMPTS[1], 3
    drafter = OnePassDrafter(pair.draft, MASK, BLOCK) if one_pass else pair.drafter
    accepted_B, count_B = np.array([*itertools.product(range(-1, BLOCK + 1), range(most + 1))], np.int32).T
    rows = len(count_B)
    text_BT = np.random.default_rng(3).integers(2, VOCAB, (rows, 1 + most)).astype(np.int32)
    loop = SpeculativeLoop(pair.target, drafter, block_size=BLOCK)
    first, second = drafted_twice(loop, pair.params, padded([prompt] * rows), accepted_B, text_BT, count_B)
    first_BG, second_BG = (np.asarray(draft.tokens_BNG)[:, 0] for draft in (first, second))
    read_BG = np.full_like(second_BG, MASK) if one_pass else second_BG
    line_BT = np.zeros((rows, 2 * BLOCK + 1 + most), np.int32)
    for b, (accepted, count) in enumerate(zip(accepted_B, count_B, strict=True)):
        committed = [*first_BG[b, :accepted], text_BT[b, 0]] if accepted >= 0 else []
        line = [*committed, *text_BT[b, 1 : 1 + count], *read_BG[b]]
        line_BT[b, : len(line)] = line
    logits_BTV = pair.draft_logits(prompt, line_BT)
    for b, length in enumerate(accepted_B + 1 + count_B):
        after_text = logits_BTV[b, length : length + BLOCK]
        expected = [reference_probs(logits_V, *DISTRIBUTIONS[0], VOCAB) for logits_V in after_text]
        np.testing.assert_allclose(
            np.exp(second.log_q_BNGV[b, 0]), expected, atol=2e-5, err_msg=f"{accepted_B[b]}, {count_B[b]}"
        )


@functools.partial(jax.jit, static_argnums=0)
def first_blocks(drafter: ModelDrafter, params: Params, prompt_BT: Array, settings: RowSettings) -> Draft:
    keys_B = randomness.round_keys(settings.keys_B, jnp.zeros(len(prompt_BT), jnp.int32))
    pending_B = drafter.model.prefill(params, prompt_BT, 1)[1]
    memory = drafter.init(params, prompt_BT, 1 + BLOCK, pending_B)
    return drafter.draft(params, memory, keys_B, pending_B, settings.distribution, BLOCK)


def test_drafted_blocks_are_drawn_from_the_drafts_distribution() -> None:
    """The joint distribution of whole blocks (up to EOS), for temperatures, top-k and top-p, by
    enumeration."""
    pair = family("prefix")
    tokens_BNG = first_blocks(pair.drafter, pair.params.draft, *batch(CELLS, REPEATS, SEED)).tokens_BNG
    blocks = [tuple(block[: (*block, EOS).index(EOS) + 1]) for block in np.asarray(tokens_BNG)[:, 0].tolist()]
    drafting = dataclasses.replace(pair, target=pair.draft, params=PairParams(pair.params.draft))
    for i, (prompt, distribution) in enumerate(CELLS):
        expected = exact_joint(drafting, PROMPTS[prompt], BLOCK, distribution)
        p_value = g_test(Counter(blocks[i :: len(CELLS)]), expected)
        assert p_value > FALSE_ALARM / len(CELLS), f"prompt {prompt}, {distribution}: p = {p_value:.2g}"


@pytest.mark.parametrize("name", named_drafters.names())
def test_a_registered_drafter_keeps_the_contract(name: str) -> None:
    """What it offers is drawn from what it records; a memory that committed equals one that followed."""
    drafter, params = drafter_registry.make_drafter([name], vocab_size=VOCAB)
    prompt_BT, rows = padded([[2, 3, 4, 2, 3], [5, 4, 5, 4, 5], [3]]), 3
    distribution = SamplingParams().distribution(Vocabulary(VOCAB, (1,), (0,))).for_rows(rows)
    first_B = jnp.array([3, 5, 3])

    def drafted(memory: Any, pending_B: Array, noise: int) -> Draft:
        keys_B = randomness.row_keys(jax.random.key(noise), jnp.arange(rows))
        return drafter.draft(params, memory, keys_B, pending_B, distribution, BLOCK)

    def same(left: Draft, right: Draft) -> bool:
        return all(np.array_equal(a, b) for a, b in zip(left[:3], right[:3], strict=True))

    memory = drafter.init(params, prompt_BT, 4 * BLOCK, first_B)
    block = drafted(memory, first_B, 0)
    offered_BNG = np.arange(BLOCK) < np.asarray(block.length_BN)[..., None]
    assert block.tokens_BNG.shape == (rows, drafter.candidates, BLOCK)
    assert offered_BNG.any()
    q_BNGV = np.exp(block.log_q_BNGV)
    np.testing.assert_allclose(q_BNGV.sum(-1)[offered_BNG], 1, atol=1e-5)
    q_BNG = np.take_along_axis(q_BNGV, np.asarray(block.tokens_BNG)[..., None], axis=-1)[..., 0]
    assert (q_BNG[offered_BNG] > 0).all()

    # Every row keeps what it may, up to one token, and the target adds the id 2; or the row idles.
    accepted_B = jnp.minimum(block.length_BN[:, 0], 1)
    kept_B = jnp.where(accepted_B > 0, block.tokens_BNG[:, 0, 0], 2)
    text_BT = jnp.stack([kept_B, jnp.full(rows, 2)], axis=1).astype(jnp.int32)
    committed = drafter.commit(block.state, jnp.zeros(rows, jnp.int32), accepted_B)
    followed = drafter.follow(params, memory, first_B, text_BT, accepted_B + 1)
    assert same(drafted(committed, jnp.full(rows, 2), 1), drafted(followed, jnp.full(rows, 2), 1))
    idle = drafter.commit(block.state, jnp.zeros(rows, jnp.int32), jnp.full(rows, -1))
    assert same(drafted(idle, first_B, 0), block)
