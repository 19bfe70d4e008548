"""The sampling distribution: the only code that turns logits into probabilities, in drafting and verifying.

Tokens are always drawn from its output (`randomness.draw`), never from logits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.decoding.truncation import heaviest_prefix
from distillspec_jax.errors import UsageError
from distillspec_jax.shapes import Array
from distillspec_jax.vocabulary import Vocabulary

_EVERY_ID = 2**30
"""A top-k that keeps every id of any vocabulary and still fits in int32."""


@flax.struct.dataclass
class SamplingDistribution:
    """Temperature, then top-k, then top-p, over the ids that may be drawn.

    `SamplingParams.distribution` builds it. The three numbers are traced, so new values do not cause
    recompilation; the other fields are static.

    Attributes:
      temperature: float32, `[]` or `[B]`; 0 is the one-hot distribution of the largest logit.
      top_k: int32, `[]` or `[B]`; 0 is off.
      top_p: float32, `[]` or `[B]`; 1 is off.
      vocab_size: number of real ids; the embedding's padded rows beyond it are cut off, so that a target
        and a draft with different padding have the same V. None: all ids are real.
      excluded_ids: real ids that are never drawn (padding).
      truncates: False promises that no row uses top-k or top-p, and avoids their cost.
    """

    temperature: Array | np.ndarray
    top_k: Array | np.ndarray
    top_p: Array | np.ndarray
    vocab_size: int | None = flax.struct.field(pytree_node=False)
    excluded_ids: tuple[int, ...] = flax.struct.field(pytree_node=False)
    truncates: bool = flax.struct.field(pytree_node=False)

    def log_probs(self, logits: Array, ids_V: Sequence[int] | None = None) -> Array:
        """Computes the log-probabilities.

        Excludes ids, divides by T, keeps top-k, renormalises, keeps the smallest set of mass >= top_p,
        renormalises. Ties go to the lowest id.

        Args:
          logits: `[..., V]`, raw; the leading axis is B if the distribution's fields are `[B]`.
          ids_V: the ids that the logits belong to, ascending; None: ids from 0.

        Returns:
          float32 `[..., V]`, cut to `vocab_size` if `ids_V` is None; -inf where the probability is zero. If
          the largest logit is not finite (NaN anywhere, or +inf), the whole vector is NaN.
        """
        logits = (logits if ids_V is not None else logits[..., : self.vocab_size]).astype(jnp.float32)
        ids = jnp.arange(logits.shape[-1]) if ids_V is None else jnp.array(ids_V)
        ids = ids.reshape((1,) * (logits.ndim - 1) + (-1,))
        allowed = jnp.ones_like(ids, bool) if self.vocab_size is None else ids < self.vocab_size
        for excluded in self.excluded_ids:
            allowed &= ids != excluded
        logits = jnp.where(allowed, logits, -jnp.inf)
        peak = jnp.max(logits, axis=-1, keepdims=True)
        first_peak = jnp.min(jnp.where(logits == peak, ids, _EVERY_ID), axis=-1, keepdims=True)
        one_hot = jnp.where(ids == first_peak, 0.0, -jnp.inf)
        temperature = _per_row(self.temperature, logits.ndim)
        greedy = temperature == 0.0
        # Subtracting the peak first prevents overflow at any temperature.
        scaled = (logits - peak) / jnp.where(greedy, 1.0, temperature)
        if self.truncates:
            scaled = self._truncate(scaled)
        log_p = scaled - jnp.log(jnp.sum(jnp.exp(scaled), axis=-1, keepdims=True))
        return jnp.where(jnp.isfinite(peak), jnp.where(greedy, one_hot, log_p), jnp.nan)

    def _truncate(self, scaled: Array) -> Array:
        top_k, top_p = _per_row(self.top_k, scaled.ndim), _per_row(self.top_p, scaled.ndim)
        count = jnp.where(top_k > 0, top_k.astype(jnp.float32), jnp.inf)
        scaled = jnp.where(heaviest_prefix(scaled, jnp.ones_like(scaled), count), scaled, -jnp.inf)
        mass = jnp.where(top_p < 1.0, top_p, jnp.inf)
        kept = heaviest_prefix(scaled, jax.nn.softmax(scaled, axis=-1), mass)
        return jnp.where(kept, scaled, -jnp.inf)

    def for_rows(self, rows: int) -> SamplingDistribution:
        """Broadcasts every field to `[rows]`."""
        return jax.tree.map(lambda field: jnp.broadcast_to(field, (rows,)), self)

    def select(self, rows: Array | np.ndarray) -> SamplingDistribution:
        """Gathers the distributions of some rows; scalar fields stay scalar."""
        return jax.tree.map(lambda field: field[rows] if field.ndim else field, self)


@dataclasses.dataclass(frozen=True)
class SamplingParams:
    """The user's sampling settings: temperature, then top-k, then top-p; each one number, or one per row.

    The constructor checks the values on the host, so it needs no device. Sequences become tuples, so that
    the object is hashable.

    Attributes:
      temperature: 0 is greedy.
      top_k: 0 is off.
      top_p: 1 is off.

    Raises:
      UsageError: temperature is below 0 or infinite, top_k is below 0, top_p is outside (0, 1], or a value
        is not a number.
    """

    temperature: float | Sequence[float] | np.ndarray = 1.0
    top_k: int | Sequence[int] | np.ndarray = 0
    top_p: float | Sequence[float] | np.ndarray = 1.0

    def __post_init__(self) -> None:
        self._checked()
        for name in ("temperature", "top_k", "top_p"):
            value = np.asarray(getattr(self, name), object)
            if value.ndim:
                object.__setattr__(self, name, tuple(value.tolist()))

    def distribution(self, vocabulary: Vocabulary) -> SamplingDistribution:
        """Builds the distribution over the real ids of a vocabulary, without its padding."""
        return jax.tree.map(jnp.asarray, self.host_distribution(vocabulary))

    def host_distribution(self, vocabulary: Vocabulary) -> SamplingDistribution:
        """Builds `distribution` with fields on the host, without waiting for a device."""
        temperature_B, top_k_B, top_p_B = self._checked()
        return SamplingDistribution(
            temperature=temperature_B,
            top_k=top_k_B,
            top_p=top_p_B,
            vocab_size=vocabulary.size,
            excluded_ids=tuple(vocabulary.padding_ids),
            truncates=bool(np.any(top_k_B > 0) or np.any(top_p_B < 1)),
        )

    def _checked(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Checks the three values and returns them as host arrays in the device's dtypes."""
        for name in ("temperature", "top_k", "top_p"):
            if np.asarray(value := getattr(self, name)).dtype.kind not in "buif" and not _is_huge(value):
                raise UsageError(f"{name} is {value!r}, must be a number or one a row")
        temperature_B, top_k_B, top_p_B = (
            _float32(self.temperature),
            np.asarray(self.top_k),
            _float32(self.top_p),
        )
        finite_B = np.isfinite(temperature_B)
        _require("temperature", temperature_B, (temperature_B >= 0) & finite_B, "0 or more and finite")
        whole_B = (top_k_B >= 0) & (top_k_B == np.floor(top_k_B))
        _require("top_k", top_k_B, whole_B, "0 (off) or a whole number")
        _require("top_p", top_p_B, (top_p_B > 0) & (top_p_B <= 1), "in (0, 1]; 1 is off")
        # If the temperature is a compile-time constant, XLA flushes a subnormal to zero and divides by it.
        temperature_B = np.where(temperature_B < np.finfo(np.float32).tiny, np.float32(0), temperature_B)
        return temperature_B, np.asarray(np.minimum(top_k_B, _EVERY_ID), np.int32), top_p_B


def _is_huge(value: object) -> bool:
    """Tells of numbers of which one is an integer beyond 64 bits, which NumPy holds as objects."""
    return all(isinstance(one, (int, float)) for one in np.asarray(value, object).ravel())


def _float32(value: float | Sequence[float] | np.ndarray) -> np.ndarray:
    """Casts to float32; overflow becomes infinite."""
    with np.errstate(over="ignore"):
        try:
            return np.asarray(value, np.float32)
        except OverflowError:  # an int too large even for float64
            return np.asarray(np.asarray(value, object).clip(-1e300, 1e300), np.float32)


def _require(name: str, value: np.ndarray, valid: np.ndarray, must_be: str) -> None:
    if value.ndim > 1:
        raise UsageError(f"{name} has shape {value.shape}, must be one number or one a row")
    if not np.all(valid):
        raise UsageError(f"{name} is {value[~valid][0] if value.ndim else value}, must be {must_be}")


def _per_row(field: Array | np.ndarray, ndim: int) -> Array:
    """Reshapes `[]` or `[B]` to broadcast against logits of `ndim` axes."""
    return jnp.reshape(field, field.shape + (1,) * (ndim - field.ndim))
