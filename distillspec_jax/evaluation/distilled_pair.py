"""A distilled draft with the target and the distribution that its card names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from distillspec_jax import schema
from distillspec_jax.data.data_config import DataConfig
from distillspec_jax.distillation.deployment import Deployment
from distillspec_jax.models import pretrained
from distillspec_jax.models.pretrained import Pretrained


@dataclasses.dataclass(frozen=True)
class DistilledPair:
    """Both models, loaded.

    Attributes:
      directory: of the distillation, or its best checkpoint.
      target_path: as the card has it.
      deployment: what the draft was distilled for.
    """

    directory: Path
    target_path: str
    target: Pretrained
    draft: Pretrained
    deployment: Deployment

    @classmethod
    def load(cls, directory: str | Path) -> DistilledPair | None:
        """Reads a pair; None where the draft was distilled without its target, from stored log-probabilities.

        Raises:
          UsageError: a checkpoint is not there, or the card's distribution is none.
        """
        draft = pretrained.load(str(directory))
        provenance = draft.card.provenance
        path = provenance.get("parents", {}).get("target")
        if path is None:
            return None
        place = f"{directory}, provenance.deployment"
        deployment = schema.read(Deployment, provenance.get("deployment") or {}, place)
        return cls(Path(directory), path, pretrained.load(path), draft, deployment)

    def data(self, prompts: int) -> DataConfig:
        """The held-out examples of the card's task, at most so many of each."""
        card = self.draft.card
        return DataConfig(
            str(card.task),
            card.feature_lengths,
            eval_limit=prompts,
            tokenizer_of=str(self.directory),
            chat=card.provenance.get("data", {}).get("chat", False),
        )
