"""Digests of contents, so that results for one model are neither used for another nor recomputed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.shapes import Array, Params


def of_params(params: Params) -> str:
    """Computes a hex digest of every parameter's path, shape and bits.

    The device that holds the bits sums them as integers, which makes the order of addition irrelevant: the
    same parameters give the same digest on any machine, on one device or sharded over many.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    sums = jax.device_get([_mixed_sum(leaf) for _, leaf in leaves])
    described = [
        (jax.tree_util.keystr(path), list(np.shape(leaf)), int(total))
        for (path, leaf), total in zip(leaves, sums, strict=True)
    ]
    return of_json(described)


def of_json(value: Any) -> str:
    """Computes a hex digest of JSON values; the order of an object's keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def of_tokens(tokens: Sequence[int]) -> str:
    """Computes a hex digest of one output: equal digests mean equal outputs."""
    return hashlib.sha256(np.asarray(tokens, np.int32).tobytes()).hexdigest()[:12]


@jax.jit
def _mixed_sum(leaf: Array) -> Array:
    bits = jax.lax.bitcast_convert_type(jnp.asarray(leaf, jnp.float32), jnp.uint32).reshape(-1)
    place = jnp.arange(bits.size, dtype=jnp.uint32)
    return jnp.sum((bits ^ (bits >> 15)) * (2 * place + 1), dtype=jnp.uint32)


def of_file(path: Path) -> str:
    """Computes a hex digest of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
