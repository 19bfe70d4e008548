"""Single steps of the target: what they must do at least, and what more tokens a row cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from benchmarks.measurement import Measurement, median_interval
from distillspec_jax.evaluation.advice import extend_seconds
from distillspec_jax.models import pretrained
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.models.t5 import T5Config
from distillspec_jax.training.flops import product_peak

TURNS = 9
PROMPT_WIDTH = 96
TEXT_TOKENS = 30
"""Of every row, when its step is reckoned and timed."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What one call of a decoder must do at least.

    Attributes:
      bytes: of weights and live caches, each read once.
      flop: of its dense products.
    """

    bytes: float
    flop: float

    def seconds(self, bytes_per_second: float) -> float:
        """The least time: the memory's or the cores', whichever is longer."""
        return max(self.bytes / bytes_per_second, self.flop / product_peak())


def work(model: Pretrained, rows: int, tokens: int) -> Work:
    """Of so many tokens of every row."""
    config = model.model.config
    assert isinstance(config, T5Config)
    weights = decoder_weights(config)
    if listed := model.as_draft.listed_ids:
        weights -= config.emb_dim * (config.vocab_size - len(listed))
    slots = TEXT_TOKENS + PROMPT_WIDTH
    cached = 2 * config.num_decoder_layers * config.num_heads * config.head_dim * slots * rows
    return Work(4.0 * (weights + cached), 2.0 * weights * rows * tokens)


def _ratio(
    id: str, top: Callable[[], float], bottom: Callable[[], float], what: str, flop: float = 0.0
) -> Measurement:
    """The median of top over bottom, turn by turn; beside it, what it were if `top` did its `flop` alone."""
    pairs = [(top(), bottom()) for _ in range(TURNS)]
    ratios = [a / b for a, b in pairs]
    over, under = np.median(pairs, axis=0)
    what += f": {1e3 * over:.3f} ms over {1e3 * under:.3f} ms, median of {TURNS} turns"
    if flop:
        least = flop / product_peak()
        what += f"; its compute bound at {product_peak() / 1e9:.0f} GFLOP/s: {1e3 * least:.3f} ms"
        what += f", ×{least / under:.2f}"
    return Measurement(id, *median_interval(ratios), what)


def verify_cost(rows: int, tokens: int = 6) -> Measurement:
    """A pass of the zoo's target over a block against a pass over one token."""
    target = pretrained.load("zoo:wiki_leads/target")
    config = target.model.config
    assert isinstance(config, T5Config)
    weights = decoder_weights(config)
    flop = 2.0 * weights * rows * tokens
    return _ratio(
        f"verify_cost_{tokens}_bs{rows}",
        lambda: extend_seconds(target, rows, PROMPT_WIDTH, tokens),
        lambda: extend_seconds(target, rows, PROMPT_WIDTH, 1),
        f"zoo target, batch {rows}, {tokens} tokens a row over 1 "
        f"({flop / 1e9:.3f} GFLOP and {4 * weights / 1e6:.1f} MB of weights a pass)",
        flop,
    )


def batch8_step() -> Measurement:
    """Eight rows of one token against one row of eight tokens: the same products, eight times the cache."""
    target = pretrained.load("zoo:wiki_leads/target")
    many, one = work(target, 8, 1).bytes, work(target, 1, 8).bytes
    return _ratio(
        "batch8_step_vs_batch1_of_8",
        lambda: extend_seconds(target, 8, PROMPT_WIDTH, 1),
        lambda: extend_seconds(target, 1, PROMPT_WIDTH, 8),
        f"zoo target, batch 8 of one token over batch 1 of 8 tokens ({many / 1e6:.1f} MB of weights and live "
        f"caches over {one / 1e6:.1f} MB, ×{many / one:.2f})",
    )


def decoder_weights(config: T5Config) -> int:
    """Entries of the matrices that a token passes through; not cross-attention's keys and values."""
    m, inner, heads = config.emb_dim, config.mlp_dim, config.num_heads * config.head_dim
    layer = 6 * m * heads + (len(config.mlp_activations) + 1) * m * inner
    return int(config.num_decoder_layers * layer + m * config.vocab_size)
