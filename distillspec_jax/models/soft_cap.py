"""Soft caps, which Gemma 2 applies to attention scores and logits (arXiv 2408.00118)."""

from __future__ import annotations

import jax.numpy as jnp

from distillspec_jax.shapes import Array


def soft_capped(x: Array, cap: float) -> Array:
    """Computes `cap * tanh(x / cap)`: close to x if x is small, and within ±`cap`; cap 0: x."""
    return cap * jnp.tanh(x / cap) if cap else x
