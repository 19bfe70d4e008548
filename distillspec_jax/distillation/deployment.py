"""The distribution that a draft will be decoded under, in plain numbers, so that it can be configured and
compared."""

from __future__ import annotations

import dataclasses

from distillspec_jax.decoding.sampling import SamplingDistribution, checked, sampling_distribution
from distillspec_jax.errors import UsageError
from distillspec_jax.vocabulary import T5_IDS, Vocabulary


@dataclasses.dataclass(frozen=True)
class Deployment:
    """Temperature, then top-k, then top-p: `decoding.distribution.SamplingDistribution` as a hashable value.

    Attributes:
      temperature: 0 is greedy.
      top_k: 0 is off.
      top_p: 1 is off.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        try:
            checked(self.temperature, self.top_k, self.top_p)
        except UsageError as error:
            raise UsageError(f"Deployment: {error}") from error

    @property
    def name(self) -> str:
        """As metrics call it: `T1`, or `T0.8_k20_p0.95`."""
        top_k = f"_k{self.top_k}" if self.top_k else ""
        top_p = f"_p{self.top_p:g}" if self.top_p < 1 else ""
        return f"T{self.temperature:g}{top_k}{top_p}"

    def distribution(self, vocabulary: Vocabulary = T5_IDS) -> SamplingDistribution:
        """The distribution over the real ids, padding left out."""
        numbers = self.temperature, self.top_k, self.top_p
        return sampling_distribution(
            *numbers, vocab_size=vocabulary.size, excluded_ids=vocabulary.padding_ids
        )
