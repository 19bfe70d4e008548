"""Matrix products of few rows on a CPU, and the function that compiles programs that use them.

XLA's CPU matrix products are slow for two to a dozen rows, the typical case in decoding. The products here
run at memory speed. On other backends, `compiled` is `jax.jit` and no product of this module is used, so
readers interested in TPUs or GPUs can skip this file.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.shapes import Array

FEW_ROWS = 12
"""Up to this many rows per call `few_rows` is faster than XLA's matrix product on weights in the cache."""
FEW_ROWS_OF_MEMORY = 8
"""The same for weights that are read from memory."""
CACHED_BYTES = 24 * 2**20
"""Weights beyond this size count as read from memory. `python -m benchmarks.few_rows` measures all three."""


def pays(rows: int | None, size: int) -> bool:
    """Whether calls of `rows` rows are faster with the products of this module.

    Args:
      rows: batch times tokens of a call; None: any number.
      size: bytes of the weights of a call.
    """
    most = FEW_ROWS if size <= CACHED_BYTES else FEW_ROWS_OF_MEMORY
    return rows is not None and rows <= most and jax.default_backend() == "cpu"


class Compiled:
    """A function that is jitted at its first call; see `compiled`."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self._function, self._options = function, options

    @functools.cached_property
    def _program(self) -> Any:
        return jax.jit(self._function, compiler_options=compiler_options(), **self._options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._program(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """See `jax.stages.Wrapped.lower`."""
        return self._program.lower(*args, **kwargs)


def few_rows(x: Array, kernel_NM: Array) -> Array:
    """Computes `x @ kernel.T`, `[..., M]` to `[..., N]`; reads every weight once, in order, for all rows.

    XLA's CPU matrix products read weights at half the memory bandwidth for two to a dozen rows, and on one
    core for one row. As a variadic reduction, with one sum per row and part of the kernel, the product runs
    at full bandwidth on all cores in a program made by `compiled`. In any other program it is correct but
    fifty times slower.

    Args:
      kernel_NM: in the dtype of `x`, or int8, which is converted to that dtype element by element.
    """
    rows, (outputs, width) = math.prod(x.shape[:-1]), kernel_NM.shape
    # The parts share reads of x. For short sums, the overhead per sum exceeds that gain.
    parts = 4 if rows == 1 else 2 if rows == 2 or width >= 256 else 1
    parts = math.gcd(outputs, parts)
    if not 0 < rows <= FEW_ROWS or rows * parts == 1 or x.dtype != jnp.float32:
        return jnp.einsum("...m,nm->...n", x, kernel_NM.astype(x.dtype))
    # The barrier keeps the computation of x outside, which the compiler would repeat for every output. It
    # keeps the int8 conversion inside, which the compiler would hoist out of the token loop: 4x the bytes.
    x_RM, kernel_NM = jax.lax.optimization_barrier((x.reshape(rows, -1), kernel_NM))
    kernel_PNM = kernel_NM.reshape(parts, outputs // parts, width)
    sums = _joint_sums([x_M[None] * part_NM.astype(x.dtype) for x_M in x_RM for part_NM in kernel_PNM])
    return jnp.stack(sums).reshape(*x.shape[:-1], -1)


def few_queries(query_BHQD: Array, key_BHSD: Array) -> Array:
    """Computes `query @ key.T`, `[B, H, Q, S]`; reads every key once for all queries, see `few_rows`."""
    batch, heads, queries, width = query_BHQD.shape
    parts = math.gcd(heads, max(1, 4 // queries))
    if not 1 < queries * parts <= FEW_ROWS or query_BHQD.dtype != jnp.float32:
        return jnp.einsum("bhqd,bhsd->bhqs", query_BHQD, key_BHSD)
    split = (batch, parts, heads // parts)
    query_BPHQD = jax.lax.optimization_barrier(query_BHQD).reshape(*split, queries, width)
    key_BPHSD = key_BHSD.reshape(*split, -1, width)
    sums = _joint_sums(
        [query_BPHQD[:, p, :, q, None] * key_BPHSD[:, p] for p in range(parts) for q in range(queries)]
    )
    scores_PQBHS = jnp.stack(sums).reshape(parts, queries, *sums[0].shape)
    return jnp.transpose(scores_PQBHS, (2, 0, 3, 1, 4)).reshape(batch, heads, queries, -1)


def _joint_sums(terms: Sequence[Array]) -> Sequence[Array]:
    """Sums each term over the last axis, in one loop that shares reads of their common operands."""
    zeros = tuple(np.float32(0) for _ in terms)
    last = (terms[0].ndim - 1,)
    return jax.lax.reduce(tuple(terms), zeros, lambda a, b: tuple(map(jnp.add, a, b)), last)


def compiled(function: Callable[..., Any], **options: Any) -> Compiled:
    """Wraps `jax.jit` for decoding programs, with the compiler options that the backend needs.

    It does not query the backend before the first call, because a query would initialise it.

    Args:
      function: the program.
      options: further arguments of `jax.jit`.
    """
    return Compiled(function, options)


def compiler_options() -> dict[str, str | bool | int] | None:
    """Returns the compiler options that make `few_rows` fast on a CPU; None on any other backend.

    The options allow sums in any order, so that XLA vectorises those of `few_rows`, with vectors as wide
    as the machine supports; NaN, infinities, divisions and functions keep their semantics. They also keep
    optimisation barriers until after fusion, and make each sum one kernel instead of a tree of two.
    """
    if jax.default_backend() != "cpu":
        return None
    kept = {f"xla_cpu_fast_math_honor_{what}": True for what in ("nans", "infs", "division", "functions")}
    return {
        "xla_cpu_enable_fast_math": True,
        "xla_cpu_prefer_vector_width": 512,
        "xla_disable_hlo_passes": "cse_barrier_expander,tree_reduction_rewriter",
        **kept,
    }
