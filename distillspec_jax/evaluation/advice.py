"""Tells whether speculation pays on this machine, from measured costs and measured acceptance rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from distillspec_jax import bounds
from distillspec_jax.acceptance import Record
from distillspec_jax.decoding import Drafter, Engine, SamplingDistribution
from distillspec_jax.decoding.drafter_registry import NamedDraft, make_drafter
from distillspec_jax.decoding.round_costs import tokens_per_round
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation.measured import failures
from distillspec_jax.evaluation.timing import step_seconds
from distillspec_jax.models.pretrained import Pretrained

PAYS_FROM = 1.03
"""Predicted speed-ups below this are within measurement error."""
_ROOM = 70
"""Maximum length, in tokens, of the text that a call is timed in."""


@dataclasses.dataclass(frozen=True)
class SizeAdvice:
    """The prediction for one block size.

    Attributes:
      block_size: drafts per round.
      round_ms: a whole round of the batch, as served.
      verify_ms: the target's pass over the block alone.
      draft_ms: drafting the block alone.
      tokens: expected tokens per row and round, from the measured acceptance and the texts' length.
      speedup: predicted, over autoregressive decoding, including prefill.
      break_even: minimum acceptance rate at which the size pays; None: it does not pay at any rate.
    """

    block_size: int
    round_ms: float
    verify_ms: float
    draft_ms: float
    tokens: float
    speedup: float
    break_even: float | None


@dataclasses.dataclass(frozen=True)
class Advice:
    """The measurements of a pair at a batch size and a distribution, and the conclusion.

    Attributes:
      plain_ms: an autoregressive round of the batch.
      start_ms: prefilling and starting a prompt for every slot of the batch, one by one, with the target
        alone and with both networks.
      acceptance: accepted / tested drafts at the largest block size.
      prompts, tokens: amount of text that the acceptance was measured on.
      sizes: ascending.
    """

    target: str
    draft: str
    batch_size: int
    temperature: float
    device: str
    plain_ms: float
    start_ms: tuple[float, float]
    acceptance: float
    prompts: int
    tokens: int
    sizes: tuple[SizeAdvice, ...]

    @property
    def best(self) -> SizeAdvice:
        """The block size with the largest predicted speed-up."""
        return max(self.sizes, key=lambda size: size.speedup)

    @property
    def pays(self) -> bool:
        """Tells whether to speculate at all."""
        return self.best.speedup >= PAYS_FROM

    @property
    def sentence(self) -> str:
        """The conclusion."""
        best = self.best
        rates = {size.block_size: size.break_even for size in self.sizes if size.break_even is not None}
        if not rates:
            need = "No acceptance rate makes it pay: a round costs more than the tokens that it can yield."
        else:
            size = min(rates, key=lambda size: rates[size])
            need = f"Break-even acceptance: {rates[size]:.2f} (block size {size})"
            need += f"; measured: {self.acceptance:.2f}."
        if not self.pays:
            at_best = f"at best ×{best.speedup:.2f} (block size {best.block_size})"
            return f"speculation does not pay here: {at_best}. {need}"
        return f"best block size: {best.block_size}, predicted speed-up ×{best.speedup:.2f}. {need}"


def advise(
    target: Pretrained,
    draft: NamedDraft,
    prompts: Sequence[Sequence[int]],
    distribution: SamplingDistribution,
    *,
    max_new_tokens: int,
    block_sizes: Sequence[int] = (1, 3, 5, 7),
    batch_size: int = 1,
    engine_options: dict[str, Any] | None = None,
) -> Advice:
    """Measures a pair on this machine and predicts the speed-up of every block size.

    Acceptance comes from decoding the prompts once at the largest block size. Costs come from separately
    timed rounds.

    Args:
      draft: a loaded model, or the name of a drafter without a model.

    Raises:
      UsageError: there are no prompts, a block size is out of range, or the target's logits are never finite.
    """
    if not prompts:
        raise UsageError("there are no prompts to measure acceptance on")
    sizes = sorted(set(block_sizes))
    if not sizes or sizes[0] < 1:
        raise UsageError(f"block_sizes is {list(block_sizes)}: each must be at least 1")
    bounds.check_most("block_size", sizes[-1], bounds.BLOCK_SIZE)

    vocab_size = distribution.vocab_size or target.model.vocab_size
    drafter, params = make_drafter([draft], vocab_size=vocab_size, block_size=sizes[-1])

    def engine(block_size: int | tuple[int, ...]) -> Engine:
        return Engine(
            target.model,
            target.params,
            drafter,
            params,
            block_size=block_size,
            batch_size=batch_size,
            **(engine_options or {}),
        )

    completions = engine(sizes[-1]).generate(prompts, distribution, max_new_tokens, seed=0)
    failures(target.name, completions)
    record = Record.total(done.record for done in completions)
    length = record.emitted_tokens / record.texts
    room = min(_ROOM, max_new_tokens + sizes[-1] + 1)  # no more than decoding took
    costs = engine((0, *sizes)).round_costs(prompts, distribution, max_new_tokens)
    width = max(map(len, prompts))
    rows: list[SizeAdvice] = []
    for size in sizes:
        tokens = tokens_per_round(record.reach or (), size, length)
        rows.append(
            SizeAdvice(
                block_size=size,
                round_ms=costs.seconds[size] * 1e3,
                verify_ms=extend_seconds(target, batch_size, width, size + 1, room) * 1e3,
                draft_ms=draft_seconds(drafter, params, distribution, batch_size, width, size, room) * 1e3,
                tokens=tokens,
                speedup=costs.speedup(size, tokens, length),
                break_even=costs.break_even(size, length),
            )
        )
    return Advice(
        target=target.name,
        draft=draft.name if isinstance(draft, Pretrained) else draft,
        batch_size=batch_size,
        temperature=float(distribution.temperature),
        device=f"{jax.devices()[0].device_kind}, {jax.device_count()} device(s)",
        plain_ms=costs.seconds[0] * 1e3,
        start_ms=(costs.start[0] * 1e3, costs.start[sizes[-1]] * 1e3),
        acceptance=record.accepted / max(record.tested, 1),
        prompts=len(prompts),
        tokens=record.emitted_tokens,
        sizes=tuple(rows),
    )


def extend_seconds(model: Pretrained, rows: int, prompt_width: int, tokens: int, room: int = _ROOM) -> float:
    """Times one call of `extend` with `tokens` per row, 30 tokens into a text of capacity `room`."""
    network = model.model
    params = jax.jit(network.prepare, static_argnums=1)(model.params, rows * tokens)
    prompt_BT = jnp.full((rows, prompt_width), 2, jnp.int32)
    state, _ = jax.jit(network.prefill, static_argnums=2)(params, prompt_BT, room)
    block_BK = jnp.ones((rows, tokens), jnp.int32)

    def step(carry: Any) -> Any:
        params, state, block_BK = carry
        logits, state = network.extend(params, state.rewind(jnp.full(rows, min(30, room - tokens))), block_BK)
        return params, state, jnp.clip(logits[..., 0].astype(jnp.int32), 1, 1)

    return step_seconds(step, (params, state, block_BK))


def draft_seconds(
    drafter: Drafter,
    params: Any,
    distribution: SamplingDistribution,
    rows: int,
    prompt_width: int,
    block_size: int,
    room: int = _ROOM,
) -> float:
    """Times drafting one block for every row, 30 tokens into a text of capacity `room`."""
    prompt_BT = jnp.full((rows, prompt_width), 2, jnp.int32)
    two_B, zero_B = jnp.full(rows, 2, jnp.int32), jnp.zeros(rows, jnp.int32)
    text_BT = jnp.ones((rows, min(30, room - block_size - 1)), jnp.int32)
    keys_B = jax.random.split(jax.random.key(0, impl="threefry2x32"), rows)
    distribution = distribution.for_rows(rows)

    def read(params: Any) -> Any:
        memory = drafter.init(params, prompt_BT, room, two_B)
        return drafter.follow(params, memory, two_B, text_BT, zero_B + text_BT.shape[1])

    def step(carry: Any) -> Any:
        params, memory, pending_B = carry
        block = drafter.draft(params, memory, keys_B, pending_B, distribution, block_size)
        # Commit nothing, so every step runs at the same position of the text.
        return params, drafter.commit(block.state, zero_B, zero_B - 1), block.tokens_BNG[:, 0, -1]

    formed = jax.jit(drafter.prepare, static_argnums=1)(params, rows)
    return step_seconds(step, (formed, jax.jit(read)(params), two_B))
