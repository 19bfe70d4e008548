"""Converts rotary position settings from and to transformers' config.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from distillspec_jax import schema
from distillspec_jax.errors import UsageError, shown
from distillspec_jax.models.rotary import RopeScaling
from distillspec_jax.schema import Number


@dataclasses.dataclass(frozen=True)
class _Rope:
    """The kind of rotary positions."""

    rope_theta: Number | None = None
    rope_type: str | None = None
    type: str = "default"  # the older name


@dataclasses.dataclass(frozen=True)
class _Linear:
    """Scaling of all wavelengths by the same factor."""

    factor: Number


@dataclasses.dataclass(frozen=True)
class _Stretched:
    """Llama 3's scaling."""

    factor: Number
    low_freq_factor: Number
    high_freq_factor: Number
    original_max_position_embeddings: int


_ALL_WAVES = 1
"""`RopeScaling.original_positions` for scaling all wavelengths: none is short enough to be exempt."""


def read(kind: str, theta: float, written: Mapping[str, Any], where: str) -> tuple[float, RopeScaling | None]:
    """Reads theta and scaling.

    Args:
      kind: transformers' `model_type`, for errors.
      theta: used if `written` has none; transformers 5 keeps both in `rope_parameters`.
      written: that object, or the older `rope_scaling`.
      where: the file, for errors.

    Raises:
      UsageError: a value has another type, or the scaling is not supported.
    """
    rope = schema.read(_Rope, {k: v for k, v in written.items() if v is not None}, where)
    theta = theta if rope.rope_theta is None else rope.rope_theta
    name = rope.rope_type or rope.type
    if name == "default":
        return theta, None
    if name == "linear":
        factor = schema.read(_Linear, written, where).factor
        return theta, RopeScaling(factor, 1.0, 4.0, original_positions=_ALL_WAVES)
    if name != "llama3":
        raise UsageError(
            f"Hugging Face {kind}: rope_scaling is of type {shown(name)}, "
            "only 'default', 'linear' and 'llama3' are known"
        )
    stretched = schema.read(_Stretched, written, where)
    return theta, RopeScaling(
        factor=stretched.factor,
        low_freq_factor=stretched.low_freq_factor,
        high_freq_factor=stretched.high_freq_factor,
        original_positions=stretched.original_max_position_embeddings,
    )


def write(theta: float, scaling: RopeScaling | None) -> dict[str, Any]:
    """Makes `rope_parameters`; inverse of `read`."""
    rope: dict[str, Any] = {"rope_theta": theta, "rope_type": "default"}
    if scaling is None:
        return rope
    if scaling.original_positions == _ALL_WAVES:
        return rope | {"rope_type": "linear", "factor": scaling.factor}
    return rope | {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_positions,
    }
