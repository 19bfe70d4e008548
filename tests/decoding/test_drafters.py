"""The draft contract: every recorded log q is the draft's own law on the row's true prefix.

A draft with a wrong cache or a wrong law still samples from what it records, so the output stays exact and no
test of the output can see it; only acceptance drops.
"""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from distillspec_jax.decoding import Draft, PairParams, SpeculativeLoop, State, randomness, sampling_law
from tests.decoding.batches import merged, padded, start
from tests.decoding.reference_law import reference_probs
from tests.exactness.families import FAMILIES, PROMPTS, VOCAB, family

BLOCK, NEW_TOKENS = 3, 9
LAWS = [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.5, 3, 1.0), (1.0, 0, 0.8), (0.0, 0, 1.0)]


@functools.partial(jax.jit, static_argnums=0)
def drafted_round(loop: SpeculativeLoop, params: PairParams, state: State) -> tuple[Draft, State]:
    """What the round drafts, and the state after it."""
    rows = state.rows
    keys_B = randomness.round_keys(rows.requests.keys_B, rows.emitted_B)
    draft = loop.drafter.draft(
        params.draft, state.draft, keys_B, rows.pending_B, rows.requests.law, loop.block_size
    )
    return draft._replace(state=None), loop.round(params, state)


@pytest.mark.parametrize("name", FAMILIES)
def test_recorded_laws_are_the_drafts_own_on_the_true_prefix(name: str) -> None:
    pair = family(name)
    loop = SpeculativeLoop(pair.target, pair.drafter, block_size=BLOCK)
    cells = [(prompt, law) for prompt in PROMPTS for law in LAWS] * 2
    law = sampling_law(*zip(*[law for _, law in cells], strict=True), vocab_size=VOCAB)
    prompt_BT = padded([prompt for prompt, _ in cells])
    rows = np.arange(len(cells))
    state = start(loop, pair.params, prompt_BT, law, np.full(len(rows), NEW_TOKENS), rows, NEW_TOKENS)

    # Every second row enters a round late, as a refilled slot would: rows that have committed
    # nothing share a batch with rows that have.
    state = merged(state, drafted_round(loop, pair.params, state)[1], rows % 2 == 0)
    accepted_before = np.zeros(len(rows), int)
    seen: set[int] = set()
    while np.asarray(state.rows.running_B).any():
        draft, after = drafted_round(loop, pair.params, state)
        tokens_BG, log_q_BGV = np.asarray(draft.tokens_BNG)[:, 0], np.asarray(draft.log_q_BNGV)[:, 0]
        rows_before = jax.device_get((state.rows.output_BT, state.rows.emitted_B, state.rows.running_B))
        for b, (prompt, numbers) in enumerate(cells):
            output_T, emitted, running = (x[b] for x in rows_before)
            if not running:
                continue
            true_prefix = np.zeros(NEW_TOKENS + BLOCK, np.int32)
            true_prefix[: emitted + BLOCK] = [*output_T[:emitted], *tokens_BG[b]]
            logits_TV = pair.draft_logits(prompt, true_prefix[None])[0]
            expected = [reference_probs(logits_TV[emitted + i], *numbers, VOCAB) for i in range(BLOCK)]
            np.testing.assert_allclose(np.exp(log_q_BGV[b]), expected, atol=2e-5, err_msg=f"row {b}")
            seen.add(int(accepted_before[b]) if emitted else -1)
        accepted_now = np.asarray(after.counts.accepted_BG - state.counts.accepted_BG).sum(1)
        accepted_before, state = accepted_now, after
    # First rounds, and rounds after every number of accepted drafts, have been looked at.
    assert seen == set(range(-1, BLOCK + 1))
