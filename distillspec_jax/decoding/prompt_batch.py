"""Prompts with limits and sampling distributions, checked on the host and cut into device batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from distillspec_jax import bounds
from distillspec_jax.decoding import randomness
from distillspec_jax.decoding.sampling import SamplingDistribution
from distillspec_jax.decoding.state import RowSettings
from distillspec_jax.errors import UsageError
from distillspec_jax.models.interface import padded_prompts
from distillspec_jax.shapes import Array

_MOST_TOKENS = 2**31 - 1
"""The largest int32."""


@dataclasses.dataclass(frozen=True)
class PromptBatch:
    """All N prompts of one call and their settings, on the host; `rows` makes the `RowSettings` of some.

    Attributes:
      prompts: token ids.
      key: PRNG key of the seed; or uint32 `[N]`, each prompt's own seed.
      number_N: uint32 `[N]`; prompts with different numbers have independent noise.
      limit_N: int32 `[N]`, maximum tokens of each output, EOS included.
      distribution: fields `[N]`, NumPy arrays.
    """

    prompts: Sequence[Sequence[int]]
    key: Array | np.ndarray
    number_N: np.ndarray
    limit_N: np.ndarray
    distribution: SamplingDistribution

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        distribution: SamplingDistribution,
        max_new_tokens: int | Sequence[int],
        seed: int | Sequence[int],
        numbers: Sequence[int] | None = None,
    ) -> PromptBatch:
        """Checks the arguments of `Engine.stream`.

        Raises:
          UsageError: a malformed prompt, limit or distribution, named by its index; or an invalid seed.
        """
        limit_N = _limits(max_new_tokens, len(prompts))
        _check_prompts(prompts)
        for field in (distribution.temperature, distribution.top_k, distribution.top_p):
            if field.ndim and field.shape != (len(prompts),):
                raise UsageError(f"the distribution has {field.shape[0]} rows for {len(prompts)} prompts")
        number_N = np.asarray(range(len(prompts)) if numbers is None else numbers, np.uint32)
        rows = jax.tree.map(lambda field: np.broadcast_to(field, len(prompts)), jax.device_get(distribution))
        if isinstance(seed, Sequence):
            for one in seed:
                bounds.check_seed(one)
        key = np.asarray(seed, np.uint32) if isinstance(seed, Sequence) else randomness.seed_key(seed)
        return cls(prompts, key, number_N, limit_N, rows)

    @property
    def longest(self) -> int:
        """The largest limit of any output."""
        return int(self.limit_N.max(initial=0))

    def rows(self, indices: Sequence[int], rows: int, width: int) -> tuple[np.ndarray, RowSettings]:
        """Returns some prompts, int32 `[rows, width]`, and their settings.

        Rows beyond the indices repeat the last prompt with a limit of 0, so they never run.
        """
        index_B = np.resize([*indices, *[indices[-1]] * rows], rows)
        limit_B = np.where(np.arange(rows) < len(indices), self.limit_N[index_B], 0)
        key = self.key[index_B] if self.key.ndim else self.key
        settings = _row_settings(key, self.number_N[index_B], limit_B, self.distribution.select(index_B))
        return self.padded(index_B, width), settings

    def described(self, rows: int, width: int) -> tuple[jax.ShapeDtypeStruct, RowSettings]:
        """Returns the shapes and dtypes of the result of `rows`, without allocating anything."""

        def column(dtype: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((rows,), dtype)

        distribution = jax.tree.map(lambda field: column(field.dtype), self.distribution)
        key = column(np.uint32) if self.key.ndim else self.key
        settings = _row_settings.eval_shape(key, column(np.uint32), column(np.int32), distribution)
        return jax.ShapeDtypeStruct((rows, width), np.int32), settings

    def padded(self, indices: Sequence[int] | np.ndarray, width: int) -> np.ndarray:
        """Returns some prompts, int32 `[B, width]`, padded on the right."""
        return padded_prompts([self.prompts[i] for i in indices], width)


@jax.jit
def _row_settings(
    key: Array, number_B: Array, limit_B: Array, distribution: SamplingDistribution
) -> RowSettings:
    # Jitted as one function, because separate dispatches of these small steps took milliseconds per batch.
    keys = randomness.seed_keys(key) if key.ndim else key
    return RowSettings(randomness.row_keys(keys, number_B), limit_B, distribution)


def check_max_new_tokens(limit: float, whose: str = "") -> None:
    """Rejects a limit that `RowSettings.limit_B` cannot hold.

    Args:
      limit: maximum tokens of an output.
      whose: names the prompt in the message.

    Raises:
      UsageError: the limit is below 1, too large, or not an integer.
    """
    if not (1 <= limit <= _MOST_TOKENS and limit == int(limit)):
        whole = f"must be at least 1, at most {_MOST_TOKENS} and whole"
        raise UsageError(f"max_new_tokens is {limit}{whose}, {whole}")


def _limits(max_new_tokens: int | Sequence[int], prompts: int) -> np.ndarray:
    limits = np.asarray(max_new_tokens)
    if limits.ndim and limits.shape != (prompts,):
        raise UsageError(f"max_new_tokens has {limits.size} values for {prompts} prompts")
    limits = np.broadcast_to(limits, (prompts,))
    for i, limit in enumerate(limits.tolist()):
        check_max_new_tokens(limit, f" for prompt {i}")
    return limits.astype(np.int32)


def _check_prompts(prompts: Sequence[Sequence[int]]) -> None:
    for i, prompt in enumerate(prompts):
        if not len(prompt):
            raise UsageError(f"prompt {i} is empty, must hold at least one token")
        if min(prompt) < 0:
            raise UsageError(f"prompt {i} holds the id {min(prompt)}, must be 0 or more")


def reading_widths(width: int, step: int) -> Iterator[int]:
    """Yields the prefill widths: `width`, then repeated halves rounded up to the step, down to the step."""
    while True:
        yield width
        half = -(-(width // 2) // step) * step
        if half >= width:
            return
        width = half
