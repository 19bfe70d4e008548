"""Device figures for a roofline model: from the vendors' data sheets, or measured."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from distillspec_jax import schema
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.schema import Amount

Row = tuple[Amount, Amount, Amount]
"""Two coordinates of a measurement, and the measured value."""

Product = tuple[Amount, Amount, Amount, Amount]
"""Three coordinates of a measurement, and the measured value."""


@dataclasses.dataclass(frozen=True)
class Device:
    """One chip, card or machine.

    The first four figures are on data sheets. The others are measured and come from a file for
    `advise --device=FILE.json`; `python -m benchmarks.prediction` writes one for the machine it runs on.

    Attributes:
      bandwidth: memory bandwidth, bytes per second.
      flops: FLOP/s of dense products, counting multiplications and additions; in data sheets for bfloat16.
      memory: bytes.
      interconnect: bytes sent and received per second, over all links; unused with one chip.
      source: reference for the figures.
      dtype: of weights and activations in the measurements; None: any.
      products: `[width, tokens, bytes, bytes per second]`: speed of multiplying weights of a network of this
        width with this many tokens, where `bytes` are read between two reads of the same weight and may
        remain in a cache. Empty: bandwidth or flops, whichever is slower.
      readouts: the same for the matrix that computes logits. Empty: as products.
      first_products, first_readouts: the same where weights are stored for calls of half as many tokens, as
        in a draft's first call of a round. Empty: as products and readouts.
      attention: `[rows, queries, bytes per second]`: speed of attending to caches, in a batch of this many
        rows with this many queries per head of keys. Empty: as products.
      launch: seconds of an operation with negligible computation: a kernel launch or the waking of threads;
        or `[rows, tokens, seconds]`, in a batch of this many rows with this many tokens each.
      logits: logits per second turned into a distribution and a drawn token; 0: they cost nothing.
      verdicts: `[rows, vocabulary, logits per second]`: the same in a round with a draft, for the logits of
        both networks, with the draft tokens' verification. Empty: as logits.
    """

    bandwidth: Amount
    flops: Amount
    memory: Amount
    interconnect: Amount
    source: str
    dtype: str | None = None
    products: tuple[Product, ...] = ()
    readouts: tuple[Product, ...] = ()
    first_products: tuple[Product, ...] = ()
    first_readouts: tuple[Product, ...] = ()
    attention: tuple[Row, ...] = ()
    launch: Amount | tuple[Row, ...] = 0.0
    logits: Amount = 0.0
    verdicts: tuple[Row, ...] = ()

    def __post_init__(self) -> None:
        for name in ("bandwidth", "flops", "memory", "interconnect"):
            if getattr(self, name) <= 0:
                raise UsageError(f"field {name}: must be above 0")
        for field in dataclasses.fields(self):
            name, table = field.name, getattr(self, field.name)
            if isinstance(table, tuple) and any(min(row) <= 0 for row in table):
                raise UsageError(f"field {name}: every number in it must be above 0")

    def product_seconds(
        self, weight_bytes: float, flops: float, width: int, tokens: int, reuse: float, first: bool = False
    ) -> float:
        """Computes the time of products with `weight_bytes`, which are read again after `reuse` bytes.

        Args:
          first: see `first_products`.
        """
        table = (self.first_products if first else ()) or self.products
        if table:
            return weight_bytes / _between(table, width, tokens, reuse)
        return max(weight_bytes / self.bandwidth, flops / self.flops)

    def readout_seconds(
        self, weight_bytes: float, flops: float, width: int, tokens: int, reuse: float, first: bool = False
    ) -> float:
        """Computes the time of the product that gives logits; see `product_seconds`."""
        table = (self.first_readouts if first else ()) or self.readouts
        if table:
            return weight_bytes / _between(table, width, tokens, reuse)
        return self.product_seconds(weight_bytes, flops, width, tokens, reuse, first)

    def attention_seconds(self, cache_bytes: float, flops: float, rows: int, queries: float) -> float:
        """Computes the time of attention over caches of `cache_bytes`."""
        if self.attention:
            return cache_bytes / _between(self.attention, rows, queries)
        return max(cache_bytes / self.bandwidth, flops / self.flops)

    def draw_seconds(self, rows: int, vocabulary: int, logits: int, drafted: bool) -> float:
        """Computes the time to turn all logits of a round, `logits`, into the tokens that it commits."""
        if drafted and self.verdicts:
            return logits / _between(self.verdicts, rows, vocabulary)
        return logits / self.logits if self.logits else 0.0

    def launch_seconds(self, rows: int, tokens: int) -> float:
        """Returns the time to launch one operation."""
        return self.launch if isinstance(self.launch, (int, float)) else _between(self.launch, rows, tokens)


def read(path: str | Path) -> Device:
    """Reads a file with a measured device.

    Raises:
      UsageError: there is no such file, or its content is invalid; names the field.
    """
    return schema.read_file(Device, path, "a device's figures")


def find(name: str) -> Device:
    """Finds a device by name, or by the path of a file that describes it.

    Raises:
      UsageError: it is neither; gives the nearest name.
    """
    if name in DEVICES:
        return DEVICES[name]
    if name.endswith(".json"):
        return read(name)
    raise UsageError(f"unknown device {name!r}: {nearest(name, DEVICES)}, or a file NAME.json")


def _between(table: Sequence[Sequence[float]], first: float, *others: float) -> float:
    """Interpolates a table in the logarithms of all its numbers; constant beyond its ends."""
    parts: dict[float, list[Sequence[float]]] = {}
    for x, *rest in sorted(table, key=tuple):
        parts.setdefault(x, []).append(rest)
    return _along(
        [(x, _between(part, *others) if others else part[0][0]) for x, part in parts.items()], first
    )


def _along(points: Sequence[tuple[float, float]], x: float) -> float:
    after = bisect.bisect([at for at, _ in points], x)
    if after in (0, len(points)):
        return points[min(after, len(points) - 1)][1]
    (left, low), (right, high) = points[after - 1 : after + 1]
    share = math.log(x / left) / math.log(right / left)
    return math.exp((1 - share) * math.log(low) + share * math.log(high))


_TPU = "cloud.google.com/tpu/docs"
DEVICES: Mapping[str, Device] = {
    "v5e": Device(819e9, 197e12, 16e9, 200e9, f"{_TPU}/v5e: 819 GBps, 197 TFLOPs, 16 GB, 1,600 Gbps"),
    "v5p": Device(2765e9, 459e12, 95e9, 600e9, f"{_TPU}/v5p: 2,765 GBps, 459 TFLOPs, 95 GB, 4,800 Gbps"),
    "v6e": Device(1640e9, 918e12, 32e9, 448e9, f"{_TPU}/v6e: 1,640 GBps, 918 TFLOPs, 32 GB, 3,584 Gbps"),
    "a100": Device(
        2039e9,
        312e12,
        80e9,
        600e9,
        "NVIDIA A100 80GB SXM data sheet: 2,039 GB/s, 312 TFLOPS, NVLink 600 GB/s",
    ),
    "h100": Device(
        3350e9, 989e12, 80e9, 900e9, "NVIDIA H100 SXM data sheet: 3.35 TB/s, 989 TFLOPS, NVLink 900 GB/s"
    ),
    "h200": Device(
        4800e9, 989e12, 141e9, 900e9, "NVIDIA H200 SXM data sheet: 4.8 TB/s, 989 TFLOPS, NVLink 900 GB/s"
    ),
}
"""Devices by name; products without sparsity. Interconnect bits per second are divided by 8 to give bytes."""
