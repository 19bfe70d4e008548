"""Predicted costs of decoding on a device that is not there: bytes, products, wires and launches.

A call of a network reads its weights and its live caches once, multiplies every token with every matrix, and
sums activations over the chips that share it. A round adds what its operations cost to launch and its logits
to draw from, where the device's figures have those (`devices.py`). Data sheets do not: by them, rates are the
most that a device can do, and the ratio of two of them is what to trust.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from distillspec_jax.decoding.round_costs import RoundCosts, tokens_per_round
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation.devices import Device
from distillspec_jax.models import layer_subset, registry
from distillspec_jax.models.network import Network

_SUMS_A_LAYER = {True: 3, False: 2}
"""All-reduces: after attention, after cross-attention where there is one, after the feed-forward."""


@dataclasses.dataclass(frozen=True)
class Work:
    """The least that one call of a network does.

    Attributes:
      rows: of the batch.
      tokens: of all of them.
      queries: of a row and a head of keys.
      weights: bytes of them, the readout's left out.
      readout: bytes of the matrix that gives logits.
      caches: live bytes.
      flops: of its products with weights, the readout among them.
      attended: FLOPs of attention.
      width: of the network.
      wire_bytes: that each chip sends and receives, where several share the network.
    """

    rows: int
    tokens: int
    queries: float
    weights: float
    readout: float
    caches: float
    flops: float
    attended: float
    width: int
    wire_bytes: float = 0.0

    @property
    def bytes(self) -> float:
        """All that it reads."""
        return self.weights + self.readout + self.caches

    def seconds(self, device: Device, chips: int = 1, reuse: float | None = None) -> float:
        """The least time on chips that share bytes and products.

        Args:
          reuse: bytes that a chip reads from one call to the next, this call's own among them: what a cache
            must hold, to help. By default its own alone.
        """
        reuse = self.bytes / chips if reuse is None else reuse
        share = self.readout / max(self.weights + self.readout, 1)
        alone = device.product_seconds(
            self.weights / chips, (1 - share) * self.flops / chips, self.width, self.tokens, reuse
        )
        alone += device.readout_seconds(
            self.readout / chips, share * self.flops / chips, self.width, self.tokens, reuse
        )
        alone += device.attention_seconds(self.caches / chips, self.attended / chips, self.rows, self.queries)
        return alone + self.wire_bytes / device.interconnect


@dataclasses.dataclass(frozen=True)
class NetworkSizes:
    """The sizes of a network that a call's work follows from.

    Attributes:
      read: entries of the weights that every call reads: decoder and readout.
      readout: of the matrix that gives logits.
      all: entries of all weights.
      cached: entries of keys and values of a row at a given context.
      attended: multiplications and additions of a token's attention over that context.
      layers, width: of the decoder.
      crosses: whether it attends to an encoder.
      logits: of a token.
    """

    read: int
    readout: int
    all: int
    cached: int
    attended: float
    layers: int
    width: int
    crosses: bool
    logits: int

    @classmethod
    def of(
        cls, model: Network, prompt_tokens: int, text_tokens: int, listed: int | None = None
    ) -> NetworkSizes:
        """The sizes at a context of so many tokens of prompt and of text.

        Args:
          listed: ids that a draft proposes, if not all.

        Raises:
          UsageError: the model has positions for fewer.
        """
        shapes = registry.shapes(model)
        leaves = [
            (jax.tree_util.keystr(path), math.prod(leaf.shape))
            for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
        ]
        tied = model.config.logits_via_embedding
        prompt = jax.ShapeDtypeStruct((1, prompt_tokens), jnp.int32)
        state, _ = jax.eval_shape(lambda p, t: model.prefill(p, t, text_tokens), shapes, prompt)
        kept = [leaf for leaf in jax.tree.leaves((state.cache, state.context)) if leaf.ndim == 4]
        # Heads of queries may be more than those of keys.
        groups = model.config.num_heads / kept[0].shape[1]
        config: Any = model.config
        logits = listed or config.vocab_size
        narrow = config.embedding_rank or config.emb_dim
        return cls(
            read=sum(size for name, size in leaves if _is_read(name, tied))
            - narrow * (config.vocab_size - logits),
            readout=narrow * logits,
            all=sum(size for _, size in leaves),
            cached=sum(math.prod(leaf.shape) for leaf in kept),
            attended=2.0 * groups * sum(math.prod(leaf.shape) for leaf in kept),
            layers=layer_subset.num_layers(model),
            width=config.emb_dim,
            crosses="encoder" in shapes,
            logits=logits,
        )

    def call(self, rows: int, tokens: int, itemsize: int, chips: int = 1) -> Work:
        """The work of a call of `extend` with so many tokens of every row."""
        sums = _SUMS_A_LAYER[self.crosses] * self.layers
        activations = rows * tokens * self.width * itemsize
        return Work(
            rows=rows,
            tokens=rows * tokens,
            queries=tokens * self.attended / (2.0 * self.cached),
            weights=float(itemsize) * (self.read - self.readout),
            readout=float(itemsize) * self.readout,
            caches=float(itemsize) * rows * self.cached,
            flops=2.0 * rows * tokens * self.read,
            attended=rows * tokens * self.attended,
            width=self.width,
            wire_bytes=2.0 * sums * activations * (chips - 1) / chips,  # of a ring's all-reduce
        )


def _is_read(name: str, tied: bool) -> bool:
    """Whether decoding a token multiplies with a parameter: not with those that made the prompt's keys."""
    if name.startswith("['encoder']"):
        return False
    if "embedder" in name:
        return tied
    return "['encoder_decoder_attention']['key']" not in name and (
        "['encoder_decoder_attention']['value']" not in name
    )


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Decoding with a pair on a device at a batch size.

    Attributes:
      batch_size: rows together.
      cost_ratio: c, a draft call over a target call of one token.
      verify_ratio: a call over the largest block, over one of one token.
      plain_tokens_per_s: without a draft, of all rows.
      best: block size of the largest speed-up.
      speedup: at that size, over decoding without a draft.
      tokens_per_s: at that size, of all rows.
      break_even: acceptance rate from which on some block size pays; None: none does.
      memory: bytes a chip, of all weights and caches.
    """

    batch_size: int
    cost_ratio: float
    verify_ratio: float
    plain_tokens_per_s: float
    best: int
    speedup: float
    tokens_per_s: float
    break_even: float | None
    memory: float


def round_costs(
    target: NetworkSizes,
    draft: NetworkSizes,
    device: Device,
    *,
    batch_size: int,
    block_sizes: Sequence[int],
    itemsize: int = 2,
    chips: int = 1,
    launches: Mapping[int, float] | None = None,
) -> RoundCosts:
    """Least seconds of a round at each block size, 0 among them; the draft is whole on every chip.

    A round's first call of the draft reads the last two committed tokens (`ModelDrafter`), and its weights
    after the target's; the others find them where the call before has left them.

    Args:
      launches: operations of a round at each block size (`launches.py`); None: they cost nothing.
    """
    one, two = (draft.call(batch_size, tokens, itemsize) for tokens in (1, 2))
    alone = target.call(batch_size, 1, itemsize, chips).bytes / chips

    def seconds(size: int) -> float:
        work = target.call(batch_size, size + 1, itemsize, chips)
        both = alone + (one.bytes if size else 0)
        took = work.seconds(device, chips, both)
        logits = batch_size * (size + 1) * target.logits
        if size:
            took += two.seconds(device, reuse=both) + (size - 1) * one.seconds(device)
            logits += batch_size * size * draft.logits
        if device.logits:
            took += logits / device.logits
        return took + (launches[size] * device.launch_seconds(batch_size, size + 1) if launches else 0.0)

    return RoundCosts({size: seconds(size) for size in (0, *block_sizes)})


def predict(
    target: NetworkSizes,
    draft: NetworkSizes,
    device: Device,
    reach: Sequence[float],
    *,
    batch_size: int,
    block_sizes: Sequence[int] = (1, 2, 3, 4, 5, 6, 7),
    itemsize: int = 2,
    chips: int = 1,
    launches: Mapping[int, float] | None = None,
) -> Prediction:
    """Predicts a pair's rates on a device.

    Args:
      launches: see `round_costs`.
      reach: probability that at least i + 1 drafts of a round are accepted; see `tokens_per_round`.

    Raises:
      UsageError: weights and caches do not fit the device; says how many bytes are missing.
    """
    memory = itemsize * (
        (target.all + batch_size * target.cached) / chips + draft.all + batch_size * draft.cached
    )
    if memory > device.memory:
        missing = (memory - device.memory) / 1e9
        raise UsageError(
            f"weights and caches need {memory / 1e9:,.1f} GB a chip at batch {batch_size}, which has "
            f"{device.memory / 1e9:,.0f}: {missing:,.1f} GB are missing; use more --chips, or a smaller batch"
        )
    sizes = sorted(set(block_sizes))
    costs = round_costs(
        target,
        draft,
        device,
        batch_size=batch_size,
        block_sizes=sizes,
        itemsize=itemsize,
        chips=chips,
        launches=launches,
    )
    speedups: Mapping[int, float] = {
        size: costs.speedup(size, tokens_per_round(reach, size)) for size in sizes
    }
    best = max(speedups, key=lambda size: speedups[size])
    rates = [rate for size in sizes if (rate := costs.break_even(size)) is not None]
    plain = costs.seconds[0]
    one = target.call(batch_size, 1, itemsize, chips).seconds(device, chips)
    return Prediction(
        batch_size=batch_size,
        cost_ratio=draft.call(batch_size, 1, itemsize).seconds(device) / one,
        verify_ratio=target.call(batch_size, sizes[-1] + 1, itemsize, chips).seconds(device, chips) / one,
        plain_tokens_per_s=batch_size / plain,
        best=best,
        speedup=speedups[best],
        tokens_per_s=batch_size / plain * speedups[best],
        break_even=min(rates, default=None),
        memory=memory,
    )
