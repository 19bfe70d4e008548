from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax.decoding import (
    PromptLookup,
    RowSettings,
    SamplingParams,
    SpeculativeLoop,
    randomness,
)
from distillspec_jax.decoding.drafters import Draft
from distillspec_jax.errors import UsageError
from distillspec_jax.vocabulary import T5_IDS
from tests.decoding.batches import padded
from tests.exactness.families import PROMPTS, VOCAB, family
from tests.exactness.goodness import g_test
from tests.exactness.grid import CELLS, FALSE_ALARM, exact
from tests.exactness.joint import EVERY_ROUND, batch, counts_of_cell, run


@functools.partial(jax.jit, static_argnums=(0, 3))
def _draft(lookup, state, pending_B, block_size):
    keys = randomness.row_keys(jax.random.key(0), jnp.arange(len(pending_B)))
    return lookup.draft(
        None,
        state,
        keys,
        pending_B,
        SamplingParams().distribution(T5_IDS).for_rows(len(pending_B)),
        block_size,
    )


def offers(lookup: PromptLookup, texts: list[list[int]], block_size: int = 3) -> list[list[int]]:
    """What is proposed after texts whose last token is pending."""
    pending_B = jnp.asarray([text[-1] for text in texts])
    state = lookup.init(None, jnp.asarray(padded(texts)), 8, pending_B)
    return offered(_draft(lookup, state, pending_B, block_size))


def offered(draft: Draft) -> list[list[int]]:
    """The block of every row."""
    hot = np.asarray(draft.log_q_BNGV).argmax(-1)
    assert (hot[np.asarray(draft.tokens_BNG) < VOCAB] >= 0).all()
    blocks = zip(draft.tokens_BNG[:, 0].tolist(), draft.length_BN[:, 0].tolist(), strict=True)
    return [block[:length] for block, length in blocks]


def test_the_latest_of_the_longest_matches_is_continued() -> None:
    texts = [
        [2, 3, 4, 5, 9, 3, 4],  # (3, 4) occurred: 5, 9, 3 follow
        [2, 3, 7, 2, 3, 8, 2, 3],  # twice: the later one counts, and reaches up to the pending token
        [5, 3, 4, 6, 4, 9, 3, 4],  # the longer match, though the shorter one is later
        [2, 3, 4, 5],  # nothing
        [6, 6],  # a match of one token that overlaps what it is matched with
        [9],  # a prompt of nothing but the pending token
    ]
    assert offers(PromptLookup(10), texts) == [[5, 9, 3], [8, 2, 3], [6, 4, 9], [], [6], []]


def test_matches_shorter_than_the_shortest_are_none() -> None:
    assert offers(PromptLookup(10, longest=3, shortest=2), [[2, 3, 4, 3], [2, 3, 4, 2, 3]]) == [[], [4, 2, 3]]


def test_what_no_distribution_draws_ends_a_block() -> None:
    """Padding, which may stand in a prompt and begins a T5's output; a lenient rule could keep it."""
    assert offers(PromptLookup(10), [[2, 3, 0, 4, 5, 2], [2, 0, 4, 5, 6, 2]]) == [[3], []]


def test_committed_tokens_are_looked_up_and_rejected_ones_forgotten() -> None:
    lookup = PromptLookup(10)
    pending_B = jnp.asarray([2, 2, 2])
    state = lookup.init(None, jnp.asarray(padded([[2, 3, 4, 5]] * 3)), 8, pending_B)
    drafted = _draft(lookup, state, pending_B, 3)
    assert drafted.tokens_BNG[:, 0].tolist() == [[3, 4, 5]] * 3
    # Accepted: two and then an 8 instead of the 5; none and then a 7; the third row idles.
    state = lookup.commit(drafted.state, jnp.zeros(3, jnp.int32), jnp.asarray([2, 0, -1]))
    assert state.length_B.tolist() == [7, 5, 4]
    texts = [state.tokens_BS[b, :n].tolist() for b, n in enumerate(state.length_B.tolist())]
    assert texts == [[2, 3, 4, 5, 2, 3, 4], [2, 3, 4, 5, 2], [2, 3, 4, 5]]
    again = _draft(lookup, state, jnp.asarray([8, 2, 2]), 3)
    # 8 is new; (2, 2) is, too, but 2 was followed by the 2 now pending; the idle row is as it was.
    assert offered(again) == [[], [2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("name", "known", "first"),
    [
        ("decoder_only", [[2, 3, 4, 5, 2], [4]], [[4, 5, 2], [4]]),
        ("t5", [[2, 3, 4, 5, 2, 3], [4, 4]], [[], []]),
    ],
)
def test_the_prompts_last_token_is_known_once(name: str, known: list, first: list) -> None:
    """Pending it is for one family and not for the other, whose output begins with a token of its own."""
    pair, prompts = family(name), [[2, 3, 4, 5, 2, 3], [4, 4]]
    loop = SpeculativeLoop(pair.target, lookup := PromptLookup(VOCAB), block_size=3)
    settings = RowSettings(
        randomness.row_keys(jax.random.key(0), jnp.arange(2)),
        jnp.full(2, 4),
        SamplingParams().distribution(T5_IDS),
    )
    params = pair.params._replace(draft=None)
    state = jax.jit(loop.init, static_argnums=3)(params, jnp.asarray(padded(prompts)), settings, 4)
    texts = zip(state.draft.tokens_BS.tolist(), state.draft.length_B.tolist(), strict=True)
    assert [tokens[:length] for tokens, length in texts] == known
    assert offered(_draft(lookup, state.draft, state.rows.pending_B, 3)) == first


@pytest.mark.parametrize("name", ["prefix", pytest.param("t5", marks=pytest.mark.slow)])
def test_outputs_follow_the_exact_joint_distribution(name: str) -> None:
    """Blocks of every length, none at all included; false alarm 1e-4."""
    pair = family(name)
    loop = SpeculativeLoop(pair.target, PromptLookup(VOCAB, longest=2), block_size=3)
    prompt_BT, settings = batch(CELLS, 3000, seed=2)
    state = run(loop, pair.params._replace(draft=None), prompt_BT, settings, EVERY_ROUND)
    for i, (prompt, distribution) in enumerate(CELLS):
        counts = counts_of_cell(state, i, len(CELLS))
        assert g_test(counts, exact(name, prompt, distribution)) > FALSE_ALARM / len(CELLS), (
            f"{PROMPTS[prompt]}, {distribution}"
        )
    accepted, tested = (np.asarray(x) for x in (state.counts.accepted_BG, state.counts.tested_BG))
    assert 0 < accepted.sum() < tested.sum()
    emitted = np.asarray(state.rows.emitted_B)
    rounds, cut = np.asarray(state.counts.rounds_B), np.asarray(state.counts.cut_B)
    assert np.array_equal(emitted, accepted.sum(1) + rounds - cut)
    drafted = np.asarray(state.counts.drafted_B)
    assert (tested.sum(1) <= drafted).all()
    assert (drafted <= 3 * rounds).all()
    assert tested.sum() < drafted.sum() < 3 * rounds.sum(), "some rounds find no match"


@pytest.mark.parametrize("longest, shortest", [(2, 3), (0, 0), (2, 0)])
def test_impossible_lengths_are_refused(longest: int, shortest: int) -> None:
    with pytest.raises(UsageError, match="need 1 <= shortest <= longest"):
        PromptLookup(10, longest, shortest)
