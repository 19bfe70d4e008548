"""Routes requests to drafts: a given share goes to a candidate, by a stable hash."""

from __future__ import annotations

import dataclasses
import hashlib

from distillspec_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Route:
    """The drafts in service.

    A key served by the candidate stays with it as the share grows: the first 1 % are among the first 10 %.

    Attributes:
      stable: serves all other requests.
      candidate: a draft on trial; None if there is none.
      share: of the keys that the candidate serves, in [0, 1].
      revision: of the registry with this route; None without one.

    Raises:
      UsageError: the share is outside [0, 1] or has no candidate.
    """

    stable: str
    candidate: str | None = None
    share: float = 0.0
    revision: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UsageError(f"the candidate's share is {self.share}, must lie in [0, 1]")
        if self.share and self.candidate is None:
            raise UsageError(f"a share of {self.share} goes to no candidate")

    @property
    def drafts(self) -> tuple[str, ...]:
        """The names of the drafts in service."""
        return (self.stable,) if self.candidate is None else (self.stable, self.candidate)

    def draft(self, key: str) -> str:
        """Returns the name of the draft that serves a key: a user, or a request without a user."""
        if self.candidate is not None and position(self.candidate, key) < self.share:
            return self.candidate
        return self.stable


def position(candidate: str, key: str) -> float:
    """Maps a key to [0, 1), in a different order for every candidate, so no user is always first."""
    digest = hashlib.sha256(f"{candidate}\n{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56  # exact in a float64, and below 1
