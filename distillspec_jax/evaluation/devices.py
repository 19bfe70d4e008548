"""Accelerators by their makers' data sheets: what a roofline needs to know of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Device:
    """One chip or card.

    Attributes:
      bandwidth: bytes a second from its memory.
      flops: dense bfloat16 products, multiplications and additions, a second.
      memory: bytes.
      interconnect: bytes a second that it sends and receives, over all links.
      source: where the figures stand.
    """

    bandwidth: float
    flops: float
    memory: float
    interconnect: float
    source: str


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
