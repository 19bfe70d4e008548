"""What one call asks for: prompts, limits, distributions and noise, checked on the host and cut into
batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from distillspec_jax.decoding import randomness
from distillspec_jax.decoding.sampling import SamplingDistribution
from distillspec_jax.decoding.state import Requests, check_limit
from distillspec_jax.errors import UsageError
from distillspec_jax.models.interface import padded_prompts
from distillspec_jax.shapes import Array


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked of all N prompts, on the host; see `Requests`.

    Attributes:
      prompts: token ids.
      key: of the seed.
      number_N: what tells the prompts' noise apart.
      limit_N: most tokens.
      distribution: its fields `[N]`, numpy's.
    """

    prompts: Sequence[Sequence[int]]
    key: Array
    number_N: np.ndarray
    limit_N: np.ndarray
    distribution: SamplingDistribution

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        distribution: SamplingDistribution,
        max_new_tokens: int | Sequence[int],
        seed: int,
        numbers: Sequence[int] | None = None,
    ) -> Asked:
        """As in `Engine.stream`.

        Raises:
          UsageError: a prompt, a limit or a distribution of the wrong form, named by its index; an impossible
            seed.
        """
        limit_N = _limits(max_new_tokens, len(prompts))
        _check_prompts(prompts)
        for field in (distribution.temperature, distribution.top_k, distribution.top_p):
            if field.ndim and field.shape != (len(prompts),):
                raise UsageError(f"the distribution has {field.shape[0]} rows for {len(prompts)} prompts")
        number_N = np.asarray(range(len(prompts)) if numbers is None else numbers, np.uint32)
        rows = jax.tree.map(lambda field: np.broadcast_to(field, len(prompts)), jax.device_get(distribution))
        return cls(prompts, randomness.seed_key(seed), number_N, limit_N, rows)

    @property
    def longest(self) -> int:
        """Most tokens of any output."""
        return int(self.limit_N.max(initial=0))

    def batch(self, indices: Sequence[int], rows: int, width: int) -> tuple[np.ndarray, Requests]:
        """Some prompts, `[rows, width]`, and their requests; what fills the rows up repeats the last.

        Those have no tokens to decode.
        """
        index_B = np.resize([*indices, *[indices[-1]] * rows], rows)
        limit_B = np.where(np.arange(rows) < len(indices), self.limit_N[index_B], 0)
        requests = _requests(self.key, self.number_N[index_B], limit_B, self.distribution.select(index_B))
        return self.padded(index_B, width), requests

    def padded(self, indices: Sequence[int] | np.ndarray, width: int) -> np.ndarray:
        """Some prompts, int32 `[B, width]`."""
        return padded_prompts([self.prompts[i] for i in indices], width)


@jax.jit
def _requests(key: Array, number_B: Array, limit_B: Array, distribution: SamplingDistribution) -> Requests:
    """In one call of the device: one by one these small steps took milliseconds a batch."""
    return Requests(randomness.row_keys(key, number_B), limit_B, distribution)


def _limits(max_new_tokens: int | Sequence[int], prompts: int) -> np.ndarray:
    limits = np.asarray(max_new_tokens)
    if limits.ndim and limits.shape != (prompts,):
        raise UsageError(f"max_new_tokens has {limits.size} values for {prompts} prompts")
    limits = np.broadcast_to(limits, (prompts,))
    for i, limit in enumerate(limits.tolist()):
        check_limit(limit, f" for prompt {i}")
    return limits.astype(np.int32)


def _check_prompts(prompts: Sequence[Sequence[int]]) -> None:
    for i, prompt in enumerate(prompts):
        if not len(prompt):
            raise UsageError(f"prompt {i} is empty, must hold at least one token")
        if min(prompt) < 0:
            raise UsageError(f"prompt {i} holds the id {min(prompt)}, must be 0 or more")
