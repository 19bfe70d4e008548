"""Single steps of the target: what more tokens a row cost, and how near a step is to the memory's limit."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import time
from collections.abc import Callable

import jax
import numpy as np

from benchmarks.autoregressive import T5_1_1_SMALL
from benchmarks.measurement import Measurement, median_interval
from distillspec_jax.evaluation.advice import extend_seconds
from distillspec_jax.models import pretrained
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.models.t5 import EncoderDecoder, T5Config, init_params
from distillspec_jax.training.flops import peak

TURNS = 9
PROMPT_WIDTH = 96


def _ratio(
    id: str, top: Callable[[], float], bottom: Callable[[], float], what: str, flop: float = 0.0
) -> Measurement:
    """The median of top over bottom, turn by turn; beside it, what it were if `top` did its `flop` alone."""
    pairs = [(top(), bottom()) for _ in range(TURNS)]
    ratios = [a / b for a, b in pairs]
    over, under = np.median(pairs, axis=0)
    what += f": {1e3 * over:.3f} ms over {1e3 * under:.3f} ms, median of {TURNS} turns"
    if flop:
        least = flop / peak()
        what += (
            f"; its compute bound at {peak() / 1e9:.0f} GFLOP/s: {1e3 * least:.3f} ms, ×{least / under:.2f}"
        )
    return Measurement(id, *median_interval(ratios), what)


def verify_cost(rows: int, tokens: int = 6) -> Measurement:
    """A pass of the zoo's target over a block against a pass over one token."""
    target = pretrained.load("zoo:wiki_leads/target")
    weights = _decoder_weights(target)
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
    """Eight rows of one token against one row of eight tokens: the same products, other attention."""
    target = pretrained.load("zoo:wiki_leads/target")
    return _ratio(
        "batch8_step_vs_batch1_of_8",
        lambda: extend_seconds(target, 8, PROMPT_WIDTH, 1),
        lambda: extend_seconds(target, 1, PROMPT_WIDTH, 8),
        "zoo target, batch 8 of one token over batch 1 of 8 tokens",
    )


def _decoder_weights(model: Pretrained) -> int:
    """Entries of the matrices that a token passes through; not cross-attention's keys and values."""
    config = model.model.config
    assert isinstance(config, T5Config)
    m, inner, heads = config.emb_dim, config.mlp_dim, config.num_heads * config.head_dim
    layer = 6 * m * heads + (len(config.mlp_activations) + 1) * m * inner
    return int(config.num_decoder_layers * layer + m * config.vocab_size)


def roofline_share() -> Measurement:
    """Bytes that one autoregressive step of T5 1.1-small must read, a second, as a share of bandwidth."""
    network = EncoderDecoder(T5_1_1_SMALL)
    zoo = pretrained.load("zoo:wiki_leads/target")
    model = dataclasses.replace(zoo, model=network, params=init_params(network, jax.random.key(0)))
    config = T5_1_1_SMALL
    cached = 2 * config.num_decoder_layers * config.num_heads * config.head_dim * (30 + PROMPT_WIDTH)
    moved = 4 * (_decoder_weights(model) + cached)
    shares, speeds, steps = [], [], []
    for _ in range(TURNS):
        speeds.append(bandwidth())
        steps.append(extend_seconds(model, 1, PROMPT_WIDTH, 1))
        shares.append(moved / steps[-1] / speeds[-1])
    what = (
        f"T5 1.1-small, batch 1, one token: {moved / 1e6:.0f} MB of weights and live cache in "
        f"{1e3 * np.median(steps):.2f} ms, over a two-thread read at {np.median(speeds) / 1e9:.1f} GB/s"
    )
    return Measurement("roofline_share_ar", *median_interval(shares), what)


def bandwidth(megabytes: int = 256, threads: int = 2, repeats: int = 10) -> float:
    """Bytes a second of reading an array that no cache holds, in so many threads; the best of some."""
    halves = np.array_split(np.ones(megabytes * 2**18, np.float32), threads)
    best = 0.0
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for _ in range(repeats):
            began = time.perf_counter()
            list(pool.map(np.max, halves))  # numpy releases the interpreter and vectorises it
            best = max(best, megabytes * 2**20 / (time.perf_counter() - began))
    return best
