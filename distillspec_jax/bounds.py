"""The most that a number may be where a larger one costs nothing but time, or is a slip of the hand.

What costs memory is bounded by bytes, where it is known how many. These are bounds on what is compiled once
for each, and on counts.
"""

from __future__ import annotations

from distillspec_jax.errors import UsageError

SEED = 2**32 - 1
"""JAX would keep the lower half of more, and tell nobody."""

COUNT = 2**31 - 1
"""The largest int32; of prompts, steps and the like."""

ROWS = 1 << 20
"""Rows of a batch."""

SAMPLES = 1 << 16
"""Outputs of a prompt; each is a request of its own."""

TOKENS = 1 << 20
"""Tokens of a row; the longest contexts there are have a million."""

REPEATS = 1000
"""Runs of what is timed; the fastest counts."""

DEVICES = 1 << 14
"""Virtual devices of one process; the largest slices have fewer."""

BLOCK_SIZE = 128
"""Each draft of a block is a step of what is compiled; blocks beyond a dozen do not pay."""

CANDIDATES = 64
"""Blocks a row, of all drafters."""

CANDIDATE_TOKENS = 128
"""Tokens of a row's candidates; the verifier of several blocks is compiled token by token."""

CELLS = 1000
"""Cells of a sweep; each decodes all prompts."""

DRAFTERS = 8
"""Each is a network in one program."""


SHARDS = 99_999
"""Shards of a run; their folders are numbered in five digits."""


def check_most(name: str, value: float | None, most: float) -> None:
    """Refuses a number above the most; None is no number.

    Raises:
      UsageError: gives name, value and the most.
    """
    if value is not None and value > most:
        raise UsageError(f"{name} is {value}, must be at most {most}")


def check_seed(seed: int) -> None:
    """Refuses a seed that would be cut.

    Raises:
      UsageError: outside 0 to `SEED`.
    """
    if not 0 <= seed <= SEED:
        raise UsageError(f"seed is {seed}, must be a whole number from 0 to {SEED}")
