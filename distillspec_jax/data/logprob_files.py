"""A target's distributions, stored next to its texts: arrays in files of `ROWS_A_SHARD` texts each."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from distillspec_jax.errors import UsageError

LOGPROBS = "logprobs"
_LOGPROBS_0_1 = "laws"
"""The folder's name in sets written by release 0.1."""
ROWS_A_SHARD = 256

_HEADERS = 4096
"""Upper bound on the bytes that NumPy writes before an array."""
_MASS_ERROR = 0.02
"""Ten times the half-precision rounding error of a sum of probabilities."""
_ROUNDING = 1e-3
"""The most that rounding may raise a log-probability above 0."""


@dataclasses.dataclass(frozen=True)
class TopLogprobs:
    """The target's distribution (at temperature 1) at each of N tokens, as k + 1 log-probabilities.

    Attributes:
      ids_NK: the k most likely ids, most likely first.
      log_p_NK: float16, of these ids.
      log_tail_N: float32, of all other ids together.
    """

    ids_NK: np.ndarray
    log_p_NK: np.ndarray
    log_tail_N: np.ndarray


def logprobs_file(directory: str | Path, shard: int) -> Path:
    """Returns the path of the log-probabilities of the texts from `shard * ROWS_A_SHARD` on."""
    old = Path(directory) / _LOGPROBS_0_1
    return (old if old.is_dir() else Path(directory) / LOGPROBS) / f"{shard:05}.npz"


def write(distributions: TopLogprobs, path: Path) -> None:
    """Writes distributions to a file."""
    np.savez(path, ids=distributions.ids_NK, log_p=distributions.log_p_NK, log_tail=distributions.log_tail_N)


def read(path: Path, tokens: int, count: int, vocab_size: int, token_bytes: int) -> TopLogprobs:
    """Reads distributions from a file.

    Args:
      tokens: N, of its texts.
      count: k.
      vocab_size: exclusive upper bound of the ids.
      token_bytes: size of one token's distribution; a file with larger arrays is not read.

    Raises:
      UsageError: it is damaged, or its arrays are not distributions at the tokens of these texts.
    """
    again = "remove it and run the same `collect` again"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if any(entry.file_size > _HEADERS + tokens * token_bytes for entry in arrays.zip.infolist()):
                raise ValueError("an array is larger than the texts beside it")
            found = TopLogprobs(arrays["ids"], arrays["log_p"], arrays["log_tail"])
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen unrelated types on damaged input
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(f"{path} is damaged ({said[:200]}): {again}") from error
    ids_NK, log_p_NK, log_tail_N = found.ids_NK, found.log_p_NK, found.log_tail_N
    arranged = ids_NK.shape == log_p_NK.shape == (tokens, count) and log_tail_N.shape == (tokens,)
    typed = (ids_NK.dtype.kind, log_p_NK.dtype.kind, log_tail_N.dtype.kind) == ("u", "f", "f")
    if not (arranged and typed and np.all(ids_NK < vocab_size)):
        raise UsageError(f"{path} is not of the texts beside it: {again}")
    if not (np.all(log_p_NK <= _ROUNDING) and np.all(log_tail_N <= _ROUNDING)):  # also false for NaN
        raise UsageError(f"{path} holds no logarithms of probabilities: {again}")
    mass_N = np.exp(log_p_NK, dtype=np.float32).sum(axis=1) + np.exp(log_tail_N)
    if not np.allclose(mass_N, 1, rtol=0, atol=_MASS_ERROR):
        raise UsageError(f"{path} holds distributions that do not sum to 1: {again}")
    return found
