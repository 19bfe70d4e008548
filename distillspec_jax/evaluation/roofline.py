"""A roofline model of decoding on a hypothetical device: memory, products, interconnect and launches.

A call of a network reads its weights and its live caches once, multiplies every token with every matrix, and
sums activations over the chips that share it. A round adds the cost of launching its operations and drawing
from its logits, if the device's figures have them (`devices.py`). Data sheets do not. With these, rates are
upper bounds, and only the ratio of two rates is reliable.
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
"""All-reduces per layer: after attention, cross-attention if there is any, and feed-forward."""


@dataclasses.dataclass(frozen=True)
class Work:
    """The minimum work of one call of a network.

    Attributes:
      rows: of the batch.
      tokens: in all rows.
      queries: per row and head of keys.
      weights: bytes of the weights without the readout.
      readout: bytes of the matrix that computes logits.
      caches: live bytes.
      flops: of its products with weights, including the readout.
      attended: FLOPs of attention.
      width: of the network.
      wire_bytes: sent and received by each chip, if several share the network.
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
        """All bytes read."""
        return self.weights + self.readout + self.caches

    def seconds(
        self, device: Device, chips: int = 1, reuse: float | None = None, first: bool = False
    ) -> float:
        """Computes the minimum time on chips that share bytes and products.

        Args:
          reuse: bytes that a chip reads from one call to the next, including this call's own; a cache helps
            only if it holds these. Default: this call's own.
          first: whether it is a draft's first call of a round, see `Device.first_products`.
        """
        reuse = self.bytes / chips if reuse is None else reuse
        share = self.readout / max(self.weights + self.readout, 1)
        alone = device.product_seconds(
            self.weights / chips, (1 - share) * self.flops / chips, self.width, self.tokens, reuse, first
        )
        alone += device.readout_seconds(
            self.readout / chips, share * self.flops / chips, self.width, self.tokens, reuse, first
        )
        alone += device.attention_seconds(self.caches / chips, self.attended / chips, self.rows, self.queries)
        return alone + self.wire_bytes / device.interconnect


@dataclasses.dataclass(frozen=True)
class NetworkSizes:
    """The sizes of a network that determine a call's work.

    Attributes:
      read: entries of the weights that every call reads: decoder and readout.
      readout: entries of the matrix that computes logits.
      all: entries of all weights.
      cached: entries of keys and values of a row at a given context.
      attended: FLOPs of a token's attention over that context, counting multiplications and additions.
      layers, width: of the decoder.
      crosses: whether it attends to an encoder.
      logits: per token.
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
        """Computes the sizes at a context of `prompt_tokens` and `text_tokens`.

        Args:
          listed: number of ids that a draft proposes, if not all.

        Raises:
          UsageError: the model has too few positions.
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
        # There may be more query heads than key heads.
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
        """Computes the work of a call of `extend` with `tokens` tokens per row."""
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
            wire_bytes=2.0 * sums * activations * (chips - 1) / chips,  # for a ring all-reduce
        )


def _is_read(name: str, tied: bool) -> bool:
    """Tells whether decoding a token reads a parameter; those for the prompt's keys are not read again."""
    if name.startswith("['encoder']"):
        return False
    if "embedder" in name:
        return tied
    return "['encoder_decoder_attention']['key']" not in name and (
        "['encoder_decoder_attention']['value']" not in name
    )


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Predicted decoding with a pair on a device at a batch size.

    Attributes:
      batch_size: rows decoded together.
      cost_ratio: c, cost of a draft call over a one-token target call.
      verify_ratio: cost of a call on the largest block over a one-token call.
      plain_tokens_per_s: without a draft, over all rows.
      best: block size with the largest speed-up.
      speedup: at that size, over decoding without a draft.
      tokens_per_s: at that size, over all rows.
      break_even: minimum acceptance rate at which some block size pays; None: none does.
      memory: bytes per chip for all weights and caches.
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
    """Computes minimum seconds of a round per block size, including 0; the draft is replicated on all chips.

    A round's first draft call reads the last two committed tokens (`ModelDrafter`), and reads its weights
    after the target's. The other draft calls find their weights where the previous call left them.

    Args:
      launches: operations of a round at each block size (`launches.py`); None: launches cost nothing.
    """
    one, two = (draft.call(batch_size, tokens, itemsize) for tokens in (1, 2))
    alone = target.call(batch_size, 1, itemsize, chips).bytes / chips

    def seconds(size: int) -> float:
        work = target.call(batch_size, size + 1, itemsize, chips)
        both = alone + (one.bytes if size else 0)
        took = work.seconds(device, chips, both)
        logits = batch_size * (size + 1) * target.logits
        if size:
            took += two.seconds(device, reuse=both, first=True) + (size - 1) * one.seconds(device)
            logits += batch_size * size * draft.logits
        took += device.draw_seconds(batch_size, target.logits, logits, drafted=size > 0)
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
      UsageError: weights and caches do not fit on the device; says how many bytes are missing.
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
