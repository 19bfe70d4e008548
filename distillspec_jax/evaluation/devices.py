"""Devices as a roofline needs to know them: by their makers' data sheets, or as somebody measured one."""

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
"""Two coordinates of a measurement, and what was measured there."""

Product = tuple[Amount, Amount, Amount, Amount]
"""Three of them, likewise."""


@dataclasses.dataclass(frozen=True)
class Device:
    """One chip, card or machine.

    The first four figures are what data sheets have. The others are measured, and stand in a file for
    `advise --device=FILE.json`; `python -m benchmarks.prediction` writes one of the machine that it runs on.

    Attributes:
      bandwidth: bytes a second from its memory.
      flops: dense products, multiplications and additions, a second; in data sheets those of bfloat16.
      memory: bytes.
      interconnect: bytes a second that it sends and receives, over all links; with one chip it is not read.
      source: where the figures stand.
      dtype: of weights and activations, that the figures were measured with; None: any.
      products: `[width, tokens, bytes, bytes a second]`: speed at which weights of a network of this width
        are multiplied with so many tokens, where so many bytes are read between two readings of one of them;
        a cache may hold those. Empty: bandwidth or flops, whichever is slower.
      readouts: likewise of the one matrix that gives logits. Empty: as products.
      attention: `[rows, queries, bytes a second]`: speed at which caches are attended to, in a batch of so
        many rows with so many queries a head of keys. Empty: as products.
      launch: seconds of an operation that hardly computes anything: a kernel's launch, or what the waking of
        threads costs; or `[rows, tokens, seconds]`, in a batch of so many rows with so many tokens each.
      logits: of which a second become a distribution and a drawn token; 0: they cost nothing.
    """

    bandwidth: Amount
    flops: Amount
    memory: Amount
    interconnect: Amount
    source: str
    dtype: str | None = None
    products: tuple[Product, ...] = ()
    readouts: tuple[Product, ...] = ()
    attention: tuple[Row, ...] = ()
    launch: Amount | tuple[Row, ...] = 0.0
    logits: Amount = 0.0

    def __post_init__(self) -> None:
        for name in ("bandwidth", "flops", "memory", "interconnect"):
            if getattr(self, name) <= 0:
                raise UsageError(f"field {name}: must be above 0")
        for name in ("products", "readouts", "attention", "launch"):
            table = getattr(self, name)
            if isinstance(table, tuple) and any(min(row) <= 0 for row in table):
                raise UsageError(f"field {name}: every number in it must be above 0")

    def product_seconds(
        self, weight_bytes: float, flops: float, width: int, tokens: int, reuse: float
    ) -> float:
        """The time of products with weights of so many bytes, read again after `reuse` bytes."""
        if self.products:
            return weight_bytes / _between(self.products, width, tokens, reuse)
        return max(weight_bytes / self.bandwidth, flops / self.flops)

    def readout_seconds(
        self, weight_bytes: float, flops: float, width: int, tokens: int, reuse: float
    ) -> float:
        """The time of the product that gives logits; see `product_seconds`."""
        if self.readouts:
            return weight_bytes / _between(self.readouts, width, tokens, reuse)
        return self.product_seconds(weight_bytes, flops, width, tokens, reuse)

    def attention_seconds(self, cache_bytes: float, flops: float, rows: int, queries: float) -> float:
        """The time of attention over caches of so many bytes."""
        if self.attention:
            return cache_bytes / _between(self.attention, rows, queries)
        return max(cache_bytes / self.bandwidth, flops / self.flops)

    def launch_seconds(self, rows: int, tokens: int) -> float:
        """The time of launching one operation."""
        return self.launch if isinstance(self.launch, (int, float)) else _between(self.launch, rows, tokens)


def read(path: str | Path) -> Device:
    """Reads a device that somebody measured.

    Raises:
      UsageError: no such file, or not such an object; names the field.
    """
    return schema.read_file(Device, path, "a device's figures")


def find(name: str) -> Device:
    """Finds a device by its name, or by the path of a file that describes it.

    Raises:
      UsageError: neither; gives the nearest name.
    """
    if name in DEVICES:
        return DEVICES[name]
    if name.endswith(".json"):
        return read(name)
    raise UsageError(f"unknown device {name!r}: {nearest(name, DEVICES)}, or a file NAME.json")


def _between(table: Sequence[Sequence[float]], first: float, *others: float) -> float:
    """Interpolates a table in the logarithms of all its numbers; beyond its ends it stays the same."""
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
"""By name; products without sparsity. Bits a second of interconnect are an eighth as many bytes."""
