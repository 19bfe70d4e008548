"""The sampling settings that a draft will be deployed with, as gin files and metrics name them."""

from __future__ import annotations

import dataclasses

from distillspec_jax.decoding.sampling import SamplingParams
from distillspec_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Deployment(SamplingParams):
    """`SamplingParams` with a name, and one value for all rows.

    Attributes: see `SamplingParams`.

    Raises:
      UsageError: see `SamplingParams`.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except UsageError as error:
            raise UsageError(f"Deployment: {error}") from error

    @property
    def name(self) -> str:
        """The name in metrics: `T1`, or `T0.8_k20_p0.95`."""
        top_k = f"_k{self.top_k}" if self.top_k else ""
        top_p = f"_p{self.top_p:g}" if self.top_p < 1 else ""
        return f"T{self.temperature:g}{top_k}{top_p}"
