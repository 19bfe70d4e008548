"""Upper bounds on numbers whose larger values only cost time or are typing errors.

Settings that cost memory are bounded by bytes, where those are known. The bounds here are on counts, and on
numbers that each multiply the compiled program.
"""

from __future__ import annotations

from distillspec_jax.errors import UsageError

SEED = 2**32 - 1
"""JAX would silently keep only the lower 32 bits of a larger seed."""

COUNT = 2**31 - 1
"""The largest int32; for prompts, steps and similar counts."""

ROWS = 1 << 20
"""Rows of a batch."""

SAMPLES = 1 << 16
"""Outputs per prompt; each is a separate request."""

TOKENS = 1 << 20
"""Tokens of a row; the longest existing contexts have a million."""

REPEATS = 1000
"""Repetitions of a timed run; the fastest counts."""

DEVICES = 1 << 14
"""Virtual devices per process; the largest slices have fewer."""

BLOCK_SIZE = 128
"""Each draft of a block is a step of the compiled program; blocks beyond a dozen do not pay."""

CANDIDATES = 64
"""Blocks per row, over all drafters."""

CANDIDATE_TOKENS = 128
"""Tokens in a row's candidates; the verifier of several blocks is unrolled token by token."""

CELLS = 1000
"""Cells of a sweep; each decodes all prompts."""

DRAFTERS = 8
"""Drafters of one target; all their networks are in one program."""


SHARDS = 99_999
"""Shards of a run; their folders are numbered in five digits."""


def check_most(name: str, value: float | None, most: float) -> None:
    """Rejects a number above the bound; None always passes.

    Raises:
      UsageError: gives name, value and bound.
    """
    if value is not None and value > most:
        raise UsageError(f"{name} is {value}, must be at most {most}")


def check_seed(seed: int) -> None:
    """Rejects a seed that JAX would truncate.

    Raises:
      UsageError: the seed is outside 0 to `SEED`.
    """
    if not 0 <= seed <= SEED:
        raise UsageError(f"seed is {seed}, must be a whole number from 0 to {SEED}")
