"""Rotary position embedding (RoPE): rotating queries and keys by position makes scores depend on distance.

Entry i of a head's first half is paired with entry i of its second half, as in Hugging Face's Llama.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from distillspec_jax.models.checks import LARGEST_SIZE, require
from distillspec_jax.shapes import Array


class Rotation(NamedTuple):
    """Cosines and sines `[B, 1, T, D/2]` of the tokens' rotation angles."""

    cosine: Array
    sine: Array


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3's scaling of low frequencies, for contexts longer than the original training context.

    Attributes:
      factor: multiplies wavelengths above `original_positions / low_freq_factor`; those below
        `original_positions / high_freq_factor` are unchanged; in between, the change is gradual.
      original_positions: context length of the original training.

    Raises:
      UsageError: a value is invalid; the error names the field.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_positions: int

    def __post_init__(self) -> None:
        for field in ("factor", "low_freq_factor", "original_positions"):
            require(self, field, getattr(self, field) > 0, "be above 0")
        most = f"be at most {LARGEST_SIZE:,}"
        require(self, "original_positions", self.original_positions <= LARGEST_SIZE, most)
        above = f"be above low_freq_factor = {self.low_freq_factor}"
        require(self, "high_freq_factor", self.high_freq_factor > self.low_freq_factor, above)


def frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> np.ndarray:
    """Computes the frequencies in radians per position, `[D/2]` float32, highest first."""
    plain = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim))
    if scaling is None:
        return plain.astype(np.float32)
    waves = scaling.original_positions * plain / (2 * np.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = np.clip((waves - low) / (high - low), 0.0, 1.0)
    return ((1 - kept) * plain / scaling.factor + kept * plain).astype(np.float32)


def rotation(position_BT: Array, frequencies_D: np.ndarray) -> Rotation:
    """Computes every token's rotation from its position."""
    angle = position_BT[:, None, :, None].astype(jnp.float32) * frequencies_D[None, None, None]
    return Rotation(jnp.cos(angle), jnp.sin(angle))


def rotate(x_BHTD: Array, by: Rotation) -> Array:
    """Rotates every head of every token, in float32."""
    first, second = jnp.split(x_BHTD.astype(jnp.float32), 2, axis=-1)
    turned = first * by.cosine - second * by.sine, second * by.cosine + first * by.sine
    return jnp.concatenate(turned, axis=-1).astype(x_BHTD.dtype)
