"""Autoregressive decoding: the reference, the baseline, and the source of on-policy samples.

It shares the sampling distribution and the bookkeeping with the speculative loop, but no control flow.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from distillspec_jax.decoding import randomness
from distillspec_jax.decoding.randomness import Purpose
from distillspec_jax.decoding.sampling import SamplingDistribution
from distillspec_jax.decoding.state import Counts, PairParams, Rows, RowSettings, State, run_rounds
from distillspec_jax.decoding.stopping import STOP_ON_EOS, Stopping
from distillspec_jax.models.interface import LanguageModel
from distillspec_jax.shapes import Array, Params


@dataclasses.dataclass(frozen=True)
class AutoregressiveLoop:
    """Runs one `extend` of the pending token and one draw per round.

    It can also run a state of a speculative loop; the drafter's memory then falls behind.

    Attributes:
      target: the network.
      stopping: decides from a row's content when it ends.
    """

    target: LanguageModel
    stopping: Stopping = STOP_ON_EOS

    def init(self, params: PairParams, prompt_BT: Array, settings: RowSettings, max_new_tokens: int) -> State:
        """See `Loop.init`."""
        target, pending_B = self.target.prefill(params.target, prompt_BT, max_new_tokens)
        rows = Rows.start(settings, pending_B, max_new_tokens)
        return State(rows=rows, target=target, draft=None, counts=Counts.zeros(len(pending_B), 0))

    def run(
        self, params: PairParams, state: State, max_rounds: Array | int, enough: Array | int = 1
    ) -> State:
        """See `Loop.run`."""
        return run_rounds(functools.partial(self.round, params), state, max_rounds, enough)

    def round(self, params: PairParams, state: State) -> State:
        """Decodes one token for every running row."""
        rows, settings = state.rows, state.rows.settings
        logits_BKV, target = self.target.extend(params.target, state.target, rows.pending_B[:, None])
        log_p_BV = settings.distribution.log_probs(logits_BKV[:, 0])
        keys_B = randomness.round_keys(settings.keys_B, rows.emitted_B)
        token_B1 = randomness.draw(randomness.draw_keys(keys_B, 0, Purpose.BONUS), log_p_BV)[:, None]
        failed_B = rows.running_B & jnp.isnan(log_p_BV[:, 0])
        count_B = (rows.running_B & ~failed_B).astype(jnp.int32)
        ends_B1 = self.stopping.ends(rows.output_BT, rows.emitted_B, token_B1)
        return State(
            rows=rows.append(token_B1, count_B, ends_B1).fail(failed_B),
            target=target.rewind(state.target.length_B + count_B),
            draft=state.draft,
            counts=dataclasses.replace(state.counts, rounds_B=state.counts.rounds_B + count_B),
        )


def sample(
    model: LanguageModel,
    params: Params,
    distribution: SamplingDistribution,
    prompt_BT: Array,
    keys_B: Array,
    max_new_tokens: int,
    stopping: Stopping = STOP_ON_EOS,
) -> tuple[Array, Array]:
    """Samples continuations inside a caller's jitted function, such as an on-policy train step.

    The tokens are data: no gradient flows into `params` (arXiv 2310.08461, section 4). Sampling stops as
    soon as every row has ended.

    Args:
      model: the network to sample from, with its current `params`.
      distribution: the sampling distribution.
      prompt_BT: int32, padded on the right, see `prompt_lengths`.
      keys_B: one PRNG key per row.
      max_new_tokens: static; the width of the result.
      stopping: decides from a row's content when it ends.

    Returns:
      int32 `[B, max_new_tokens]`, 0 after the end, and int32 `[B]` lengths, EOS included. A row whose
      logits become non-finite ends there.
    """
    loop = AutoregressiveLoop(model, stopping)
    limit_B = jnp.full(prompt_BT.shape[0], max_new_tokens, jnp.int32)
    # Integers carry no gradient anyway; this keeps tangents of the caller's params out of the loop.
    frozen = PairParams(jax.lax.stop_gradient(params))
    state = loop.init(frozen, prompt_BT, RowSettings(keys_B, limit_B, distribution), max_new_tokens)
    rows = loop.run(frozen, state, max_new_tokens).rows
    return rows.output_BT, rows.emitted_B


def resume(
    model: LanguageModel,
    params: Params,
    distribution: SamplingDistribution,
    prompt_BT: Array,
    begun_BT: Array,
    begun_B: Array,
    keys_B: Array,
    limit_B: Array,
    stopping: Stopping = STOP_ON_EOS,
) -> tuple[Array, Array]:
    """Like `sample`, but continues texts from the middle: each row keeps a prefix of its own length.

    One call reads the whole texts; the cache is then rewound to the prefixes.

    Args:
      begun_BT: int32, the texts.
      begun_B: int32, length of each prefix; less than the width of `begun_BT`.
      limit_B: int32, maximum tokens to add; 0 leaves a row unchanged. `begun_B + limit_B` is at most the
        width.

    Returns:
      int32 of `begun_BT`'s shape, only the added tokens, 0 after the end, and int32 `[B]` lengths.
    """
    loop, width = AutoregressiveLoop(model, stopping), begun_BT.shape[1]
    frozen = PairParams(jax.lax.stop_gradient(params))
    state = loop.init(frozen, prompt_BT, RowSettings(keys_B, limit_B, distribution), width)
    inputs_BT = jnp.concatenate([state.rows.pending_B[:, None], begun_BT[:, :-1]], axis=1)
    _, read = model.extend(frozen.target, state.target, inputs_BT)
    pending_B = jnp.take_along_axis(inputs_BT, begun_B[:, None], axis=1)[:, 0]
    begun = dataclasses.replace(
        state,
        rows=dataclasses.replace(state.rows, pending_B=pending_B),
        target=read.rewind(state.target.length_B + begun_B),
    )
    rows = loop.run(frozen, begun, width).rows
    return rows.output_BT, rows.emitted_B
