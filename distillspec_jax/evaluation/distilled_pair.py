"""A distilled draft with the target and the distribution that its card names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from distillspec_jax import memory, schema
from distillspec_jax.data.data_config import DataConfig
from distillspec_jax.distillation.deployment import Deployment
from distillspec_jax.models import pretrained
from distillspec_jax.models.pretrained import Pretrained


@dataclasses.dataclass(frozen=True)
class DistilledPair:
    """A target and a distilled draft, loaded.

    Attributes:
      directory: of the distillation, or its best checkpoint.
      target_path: as recorded in the card.
      deployment: the distribution that the draft was distilled for.
    """

    directory: Path
    target_path: str
    target: Pretrained
    draft: Pretrained
    deployment: Deployment

    @classmethod
    def load(cls, directory: str | Path) -> DistilledPair | None:
        """Loads a pair; None if the draft was distilled without its target, from stored log-probabilities.

        Raises:
          UsageError: a checkpoint is missing, or the card's distribution is invalid.
        """
        draft = pretrained.load(str(directory))
        provenance = draft.card.provenance
        path = provenance.get("parents", {}).get("target")
        if path is None:
            return None
        place = f"{directory}, provenance.deployment"
        deployment = schema.read(Deployment, provenance.get("deployment") or {}, place)
        return cls(Path(directory), path, pretrained.load(path), draft, deployment)

    @staticmethod
    def fits(directory: str | Path) -> bool:
        """Tells from the cards whether one device holds both networks, as `load` places them.

        Training may have split a target that no device holds alone (`NUM_PARTITIONS`).
        """
        draft = pretrained.read_card(str(directory))
        target = draft.provenance.get("parents", {}).get("target")
        cards = {str(directory): draft} | ({} if target is None else {target: pretrained.read_card(target)})
        networks = (pretrained.network(name, card) for name, card in cards.items())
        return 4 * sum(network.config.num_parameters for network in networks) <= memory.available()

    def data(self, prompts: int) -> DataConfig:
        """Makes the data of the card's task, with at most `prompts` held-out examples per task."""
        card = self.draft.card
        return DataConfig(
            str(card.task),
            card.feature_lengths,
            eval_limit=prompts,
            tokenizer_of=str(self.directory),
            chat=card.provenance.get("data", {}).get("chat", False),
        )
