"""Products of few rows on a CPU, and the one way to compile the programs that use them.

XLA's CPU matrix products are slow for two to a dozen rows, which is what decoding consists of. The products
here are as fast as memory allows. On other backends `compiled` is `jax.jit` and no product of this module is
used: whoever reads for a TPU or a GPU can leave this file out.
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
"""Up to so many rows a call `few_rows` beats the compiler's matrix product (`benchmarks.decode_profile`)."""


def pays(rows: int | None) -> bool:
    """Whether calls of so many rows are faster with the products of this module; None: any number."""
    return rows is not None and rows <= FEW_ROWS and jax.default_backend() == "cpu"


class Compiled:
    """A jitted function that is made at its first call; see `compiled`."""

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
    """`x @ kernel.T`, `[..., M]` to `[..., N]`, with every weight read once, in order, for all rows.

    XLA's CPU matrix products read weights at half the memory's speed when there are two to a dozen rows, and
    on one core when there is one. As a sum of several numbers at a time, one for every row and part of the
    kernel, the product runs at full speed on all cores, in a program made by `compiled`; in any
    other it is right, but fifty times slower.

    Args:
      kernel_NM: in the dtype of `x` or in int8, which becomes numbers of that dtype one by one.
    """
    rows, (outputs, width) = math.prod(x.shape[:-1]), kernel_NM.shape
    # Parts share their reading of x. Of short sums the ends cost more than that.
    parts = 4 if rows == 1 else 2 if rows == 2 or width >= 256 else 1
    parts = math.gcd(outputs, parts)
    if not 0 < rows <= FEW_ROWS or rows * parts == 1 or x.dtype != jnp.float32:
        return jnp.einsum("...m,nm->...n", x, kernel_NM.astype(x.dtype))
    # What makes x stays outside: the compiler would repeat it for every output. What makes int8 a number
    # stays inside: out of a loop over tokens the compiler would move it, and four times as much is read.
    x_RM, kernel_NM = jax.lax.optimization_barrier((x.reshape(rows, -1), kernel_NM))
    kernel_PNM = kernel_NM.reshape(parts, outputs // parts, width)
    sums = _joint_sums([x_M[None] * part_NM.astype(x.dtype) for x_M in x_RM for part_NM in kernel_PNM])
    return jnp.stack(sums).reshape(*x.shape[:-1], -1)


def few_queries(query_BHQD: Array, key_BHSD: Array) -> Array:
    """`query @ key.T`, `[B, H, Q, S]`, with every key read once for all queries, see `few_rows`."""
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
    """Sums over the last axis, in one loop over what the terms have in common."""
    zeros = tuple(np.float32(0) for _ in terms)
    last = (terms[0].ndim - 1,)
    return jax.lax.reduce(tuple(terms), zeros, lambda a, b: tuple(map(jnp.add, a, b)), last)


def compiled(function: Callable[..., Any], **options: Any) -> Compiled:
    """`jax.jit` for programs that decode, with the compiler options that the backend needs.

    Nothing is asked of the backend before the first call, since that would initialise it.

    Args:
      function: the program.
      options: further arguments of `jax.jit`.
    """
    return Compiled(function, options)


def compiler_options() -> dict[str, str | bool | int] | None:
    """Compiler options under which `few_rows` is fast on a CPU; None on any other backend.

    Sums may be taken in any order, so that those of `few_rows` are vectorised, and vectors may be
    as wide as the machine has them, while NaN, infinities, divisions and functions stay what they are;
    barriers hold until everything is fused; and a sum is one kernel, not a tree of two.
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
