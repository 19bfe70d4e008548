"""How near decoding is to what memory and cores allow: bytes a step, bytes and products a second."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.autoregressive import T5_1_1_SMALL
from benchmarks.measurement import THREADS, Measurement, median_interval
from benchmarks.steps import PROMPT_WIDTH, TEXT_TOKENS, TURNS, work
from distillspec_jax.decoding import Engine, SamplingParams, StopOnEos
from distillspec_jax.decoding.drafter_registry import make_drafter
from distillspec_jax.evaluation.advice import extend_seconds
from distillspec_jax.models import pretrained
from distillspec_jax.models.t5 import EncoderDecoder, init_params
from distillspec_jax.training.flops import product_peak
from distillspec_jax.vocabulary import T5_IDS

SIZES = (1, 3, 5, 7)


def roofline_share() -> Measurement:
    """Bytes that one autoregressive step of T5 1.1-small must read, a second, as a share of bandwidth."""
    network = EncoderDecoder(T5_1_1_SMALL)
    zoo = pretrained.load("zoo:wiki_leads/target")
    model = dataclasses.replace(zoo, model=network, params=init_params(network, jax.random.key(0)))
    moved = work(model, 1, 1).bytes
    shares, speeds, steps = [], [], []
    for _ in range(TURNS):
        speeds.append(bandwidth())
        steps.append(extend_seconds(model, 1, PROMPT_WIDTH, 1))
        shares.append(moved / steps[-1] / speeds[-1])
    what = (
        f"T5 1.1-small, batch 1, one token: {moved / 1e6:.0f} MB of weights and live cache in "
        f"{1e3 * np.median(steps):.2f} ms, over a read of 256 MB at {np.median(speeds) / 1e9:.1f} GB/s"
    )
    return Measurement("roofline_share_ar", *median_interval(shares), what)


def round_limit(rows: int) -> Measurement:
    """What a speculative round of the zoo's pair costs in plain tokens, and what it must cost at least.

    Bytes over the speed of reading as many again and again (a cache may hold them), or products over the
    cores' peak. A round's tokens over its cost in plain tokens is the speed-up.
    """
    target, draft = (pretrained.load(f"zoo:wiki_leads/{role}") for role in ("target", "shortlisted"))
    engine = Engine(
        target.model,
        target.params,
        *make_drafter([draft], vocab_size=target.model.vocab_size),
        block_size=(0, *SIZES),
        batch_size=rows,
        stopping=StopOnEos(()),
    )
    prompts = np.random.default_rng(0).integers(3, 4000, (rows, PROMPT_WIDTH)).tolist()
    plain, one_draft = work(target, rows, 1), work(draft, rows, 1)
    both = plain.bytes + one_draft.bytes
    costs, alone_speeds, pair_speeds = [], [], []
    greedy = SamplingParams(0.0).distribution(T5_IDS)
    for _ in range(TURNS):
        costs.append(engine.round_costs(prompts, greedy, 2 * TEXT_TOKENS).seconds)
        alone_speeds.append(bandwidth(plain.bytes / 2**20))
        pair_speeds.append(bandwidth(both / 2**20))
    alone, pair = float(np.median(alone_speeds)), float(np.median(pair_speeds))
    least = {
        size: size * one_draft.seconds(pair) + work(target, rows, size + 1).seconds(pair) for size in SIZES
    }
    least_plain = plain.seconds(alone)
    took = {size: float(np.median([seconds[size] for seconds in costs])) for size in (0, *SIZES)}
    what = (
        f"zoo target and distilled draft with its shortlist, batch {rows}: a round of γ = 5 in plain tokens, "
        "measured; "
        + "; ".join(
            f"γ = {size}: {took[size] / took[0]:.2f}, at the limits {least[size] / least_plain:.2f}"
            for size in SIZES
        )
        + f"; a plain token {1e3 * took[0]:.3f} ms, at its limit {1e3 * least_plain:.3f} ms "
        f"({plain.bytes / 1e6:.1f} MB at {alone / 1e9:.0f} GB/s, {plain.flop / 1e9:.3f} GFLOP at "
        f"{product_peak() / 1e9:.0f} GFLOP/s); a round of γ = 5 {1e3 * took[5]:.3f} ms, at its limit "
        f"{1e3 * least[5]:.3f} ms (the pair's {both / 1e6:.1f} MB are read at {pair / 1e9:.0f} GB/s)"
    )
    return Measurement(
        f"round_in_plain_tokens_bs{rows}", *median_interval([s[5] / s[0] for s in costs]), what
    )


def bandwidth(megabytes: float = 256, threads: int = THREADS, repeats: int = 10) -> float:
    """Bytes a second of reading one array over and over; the best of some.

    By default an array that no cache holds; a small one is read from the cache that holds it.

    Args:
      threads: of a CPU; an accelerator reads with all it has.
    """
    if jax.default_backend() != "cpu":
        return _device_bandwidth(megabytes, repeats)
    halves = np.array_split(np.ones(int(megabytes * 2**18), np.float32), threads)
    passes = max(1, round(256 / megabytes))  # threads take a while to wake

    def read(half: np.ndarray) -> None:
        for _ in range(passes):
            np.max(half)  # numpy releases the interpreter and vectorises it

    best = 0.0
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for _ in range(repeats):
            began = time.perf_counter()
            list(pool.map(read, halves))
            best = max(best, passes * megabytes * 2**20 / (time.perf_counter() - began))
    return best


def _device_bandwidth(megabytes: float, repeats: int) -> float:
    array, passes = jnp.ones(int(megabytes * 2**18)), max(16, round(16 * 256 / megabytes))

    @jax.jit
    def read(array: jax.Array) -> jax.Array:
        # Every pass needs the one before it; the sum never leaves the reading loop.
        return jax.lax.fori_loop(0, passes, lambda _, last: jnp.max(array + 1e-9 * last), jnp.float32(0))

    read(array).block_until_ready()
    best = 0.0
    for _ in range(repeats):
        began = time.perf_counter()
        read(array).block_until_ready()
        best = max(best, passes * array.nbytes / (time.perf_counter() - began))
    return best
