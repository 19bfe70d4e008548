"""The figures of the machine that this runs on, measured, as `advise --device=FILE.json` takes them.

What is timed are the decoder's own parts: its products for so many rows, its attention over a cache, its
draws, and rounds of networks so small that launching operations is all they do. Nothing is fitted to a pair.
"""

from __future__ import annotations

import functools
import math
import os
import platform
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.probe import Probe
from benchmarks.tiny_rounds import tiny_rounds
from distillspec_jax.decoding import SamplingParams, randomness
from distillspec_jax.decoding.randomness import Purpose
from distillspec_jax.decoding.verifiers import TOKEN_RULE
from distillspec_jax.evaluation.devices import Device, Product
from distillspec_jax.models import cpu_forms, registry
from distillspec_jax.models.attention import Attention
from distillspec_jax.models.dense import Form
from distillspec_jax.shapes import Array
from distillspec_jax.training.flops import product_peak
from distillspec_jax.vocabulary import Vocabulary

ROWS = (1, 2, 4, 8, 16, 32, 64)
"""Of a call: batch times tokens."""
REUSE = tuple(mebi * 2**20 for mebi in (4, 16, 48, 160, 480))
"""Bytes between two readings of a weight."""
BATCHES, QUERIES, BLOCKS = (1, 8), (1, 2, 4, 8), (1, 4)
"""Of attention; and of rounds that are nothing but launches, the tokens that the target reads."""
VOCABULARIES, BLOCK_SIZE = (4096, 32128), 3
"""Of verdicts."""
WIDTHS = (128, 256, 768)
"""Of networks."""
SLOTS, HEADS, HEAD_DIM = 160, 8, 64


class Machine:
    """All probes of this machine.

    Args:
      largest: bytes beyond which no working set is tried.
    """

    def __init__(self, largest: float = math.inf) -> None:
        self._reuse = [size for size in REUSE if size <= 1.5 * largest]
        self._tiny = {(b, k): tiny_rounds(b, k - 1) for b in BATCHES for k in BLOCKS}
        self._products = _chains(self._reuse, MOST_LAYERS)
        self._readouts = _chains([size for size in self._reuse if size <= LARGEST_READOUT], 0)
        self._attention = {(b, k): _attention(b, k) for b in BATCHES for k in QUERIES}
        self._draws = _draws()
        self._verdicts = {(b, v): _verdict(b, v) for b in BATCHES for v in VOCABULARIES}

    def _probes(self) -> Iterator[Probe]:
        yield from (probe for probes in self._tiny.values() for probe in probes)
        yield from self._products.values()
        yield from self._readouts.values()
        yield from self._attention.values()
        yield self._draws
        yield from self._verdicts.values()

    def measure(self) -> None:
        """Runs every probe once."""
        for probe in self._probes():
            probe.run()

    def device(self) -> Device:
        """The figures, from the medians of all runs so far."""
        # The median of two families' rounds: what an operation costs, whatever it is.
        launch = tuple(
            (rows, tokens, float(np.median([probe.whole / probe.launches for probe in probes])))
            for (rows, tokens), probes in self._tiny.items()
        )
        known = Device(1, 1, 1, 1, "", launch=launch)

        def seconds(probe: Probe, rows: int, tokens: int) -> float:
            return probe.seconds(known.launch_seconds(rows, tokens))

        def speeds(probes: Chains, layers: int, first: bool) -> tuple[Product, ...]:
            return tuple(
                (width, rows, size, _bytes(width, size, layers) / seconds(probe, min(rows, 8), -(-rows // 8)))
                for (width, rows, size, form), probe in probes.items()
                if form == cpu_forms.pays(rows // 2 if first else rows, size)
            )

        products = speeds(self._products, MOST_LAYERS, False)
        attention = tuple(
            (rows, queries, _cache_bytes(rows) / seconds(probe, rows, queries))
            for (rows, queries), probe in self._attention.items()
        )
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Device(
            bandwidth=max(row[-1] for row in products if row[2] == self._reuse[-1]),
            flops=product_peak(),
            memory=float(memory),
            interconnect=1.0,
            source=f"python -m benchmarks.prediction, on {os.cpu_count()} cores, {platform.machine()}",
            dtype="float32",
            products=products,
            readouts=speeds(self._readouts, 0, False),
            first_products=speeds(self._products, MOST_LAYERS, True),
            first_readouts=speeds(self._readouts, 0, True),
            attention=attention,
            launch=launch,
            logits=_LOGITS.size / seconds(self._draws, len(_LOGITS), 1),
            verdicts=tuple(
                (rows, size, rows * size * (2 * BLOCK_SIZE + 1) / seconds(probe, rows, BLOCK_SIZE + 1))
                for (rows, size), probe in self._verdicts.items()
            ),
        )


Chains = dict[tuple[int, int, int, bool], Probe]
"""By width, rows, bytes, and whether kernels are stored for few rows."""
MOST_LAYERS = 16
"""Layers of a chain; 0 stands for a readout, one kernel."""
LARGEST_READOUT = 160 * 2**20


def _chains(sizes: Sequence[int], layers: int) -> Chains:
    """Chains in the form for so many rows, and in the one for half as many where that is another."""
    return {
        (width, rows, size, form): products(width, rows, size, form, layers)
        for width in WIDTHS
        for size in sizes
        for rows in ROWS
        for form in {cpu_forms.pays(rows, size), cpu_forms.pays(rows // 2, size)}
    }


def _bytes(width: int, size: int, layers: int) -> int:
    return sum(4 * math.prod(shape) for shape in _shapes(width, size, layers))


def _shapes(width: int, size: int, layers: int) -> list[tuple[int, int]]:
    """The kernels `[in, out]` that make up so many bytes: a gated feed-forward's, or one readout's."""
    if not layers:
        return [(width, max(3 * width, size // (4 * width) // 128 * 128))]
    # As wide as networks have them, wider where so many bytes would need more layers.
    inner = max(min(2 * width, size // (12 * width)), size // (12 * width * layers)) // 128 * 128
    return max(1, round(size / (12 * width * inner))) * [(width, 2 * inner), (inner, width)]


@functools.cache  # all rows read the same ones: they are most of a gigabyte
def kernels_of(width: int, size: int, layers: int, transposed: bool) -> list[Array]:
    """Kernels of so many bytes together, all of one value."""
    shapes = _shapes(width, size, layers)
    return [jnp.full(shape[::-1] if transposed else shape, 0.01) + 0 for shape in shapes]


def products(width: int, rows: int, size: int, few: bool, layers: int = MOST_LAYERS) -> Probe:
    """A chain of products with weights of so many bytes, each waiting for the one before.

    Args:
      few: by `few_rows`, on transposed kernels, or by XLA.
      layers: see `MOST_LAYERS`.
    """
    kernels = kernels_of(width, size, layers, few)

    def step(kernels: list[Array], x_RM: Array) -> Array:
        y = x_RM
        for i, kernel in enumerate(kernels):
            y = cpu_forms.few_rows(y, kernel) if few else y @ kernel
            if i % 2:  # of a layer, the second
                x_RM = y = x_RM + 1e-9 * y
            elif layers:
                y = y[:, : y.shape[1] // 2] + y[:, y.shape[1] // 2 :]
        return x_RM if layers else x_RM + 1e-9 * (y[:, :width] + y[:, -width:])

    return Probe(step, kernels, jnp.ones((rows, width)), max(size / 40e9, 2 * rows * size / 4 / 200e9))


_LAYERS = 4


def _cache_bytes(rows: int) -> int:
    return 4 * _LAYERS * 2 * rows * HEADS * SLOTS * HEAD_DIM


def _attention(rows: int, queries: int) -> Probe:
    """Some layers' attention over their caches, and the writing of new keys and values; of narrow inputs."""
    form: Form = "few_rows" if cpu_forms.pays(rows * queries, 0) else "stacked"
    module = Attention(HEADS, HEAD_DIM, 32, 0.0, jnp.float32, form, fused=True)
    x, length_B = jnp.ones((rows, queries, 32)), jnp.full(rows, SLOTS - 16)
    bias = jnp.zeros((rows, 1, queries, SLOTS))

    def cache() -> tuple[Array, Array]:
        return jnp.zeros((rows, HEADS, SLOTS, HEAD_DIM)), jnp.ones((rows, HEADS, SLOTS, HEAD_DIM))

    def init() -> Any:
        return registry.unboxed(module.init(jax.random.key(0), x, cache(), length_B, bias, method="extend"))

    def step(variables: Any, carry: Any) -> Any:
        x, caches = carry
        written: list[Any] = []
        for kv in caches:
            y, kv = module.apply(variables, x, kv, length_B, bias, method="extend")
            x, written = x + 1e-6 * y, [*written, kv]
        return x, written

    variables = jax.jit(init)()
    return Probe(step, variables, (x, [cache() for _ in range(_LAYERS)]), rows * queries * 2e-5)


_LOGITS = np.empty((8, 32128))


def _draws() -> Probe:
    """Logits to a distribution and a token of every row."""
    rows, vocabulary = _LOGITS.shape
    distribution = SamplingParams(1.0).distribution(Vocabulary(vocabulary, (1,), (0,))).for_rows(rows)
    keys_B = randomness.row_keys(randomness.seed_key(0), jnp.arange(rows))
    logits_BV = jax.random.normal(jax.random.key(0), (rows, vocabulary))

    def step(logits_BV: Array, token_B: Array) -> Array:
        log_p_BV = distribution.log_probs(logits_BV + 1e-6 * token_B[:, None])
        return randomness.draw(randomness.draw_keys(keys_B, token_B, Purpose.BONUS), log_p_BV)

    return Probe(step, logits_BV, jnp.zeros(rows, jnp.int32), 1e-3)


def _verdict(rows: int, vocabulary: int) -> Probe:
    """A round's logits to distributions, drafts, and what the target makes of them."""
    distribution = SamplingParams(1.0).distribution(Vocabulary(vocabulary, (1,), (0,))).for_rows(rows)
    keys_B = randomness.row_keys(randomness.seed_key(0), jnp.arange(rows))
    length_B1 = jnp.full((rows, 1), BLOCK_SIZE)

    def step(logits: tuple[Array, Array], token_B: Array) -> Array:
        draft_BGV, target_BKV = logits
        drafts, log_qs = [], []
        for i in range(BLOCK_SIZE):
            log_qs.append(distribution.log_probs(draft_BGV[:, i] + 1e-6 * token_B[:, None]))
            token_B = randomness.draw(randomness.draw_keys(keys_B, token_B + i, Purpose.DRAFT), log_qs[-1])
            drafts.append(token_B)
        log_p_BKV = distribution.log_probs(target_BKV + 1e-6 * token_B[:, None, None])
        tokens_BG, log_q_BGV = jnp.stack(drafts, 1), jnp.stack(log_qs, 1)
        return TOKEN_RULE(
            keys_B, tokens_BG[:, None], log_q_BGV[:, None], log_p_BKV[:, None], length_B1
        ).next_token_B

    logits = tuple(
        jax.random.normal(jax.random.key(k), (rows, k, vocabulary)) for k in (BLOCK_SIZE, BLOCK_SIZE + 1)
    )
    return Probe(step, logits, jnp.zeros(rows, jnp.int32), rows * vocabulary * 1e-8)
