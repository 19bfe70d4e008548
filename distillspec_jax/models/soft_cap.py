"""Soft caps, as a Gemma 2 puts on attention's scores and on logits (arXiv 2408.00118)."""

from __future__ import annotations

import jax.numpy as jnp

from distillspec_jax.shapes import Array


def soft_capped(x: Array, cap: float) -> Array:
    """`cap * tanh(x / cap)`: nearly x where it is small, and never beyond `cap` either way; cap 0: x."""
    return cap * jnp.tanh(x / cap) if cap else x
