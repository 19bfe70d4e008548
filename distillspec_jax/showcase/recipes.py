"""How a zoo draft is distilled on each embedded task in minutes, and the control that it is held against.

The control is the same draft after more supervised training: same optimizer, schedule, batches and prompts.
The choices were made on validation prompts: docs/results/demo-recipes.md, by `python -m benchmarks.recipes`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import optax

from distillspec_jax.data.data_config import DataConfig
from distillspec_jax.distillation.distill import distill
from distillspec_jax.distillation.divergences import Divergence, ForwardKL
from distillspec_jax.distillation.sources import DataSource, Fixed, Mixture, OnPolicy, TargetGenerated
from distillspec_jax.models import pretrained, zoo_manifest
from distillspec_jax.training import optimizers
from distillspec_jax.training.finetune import finetune
from distillspec_jax.training.loop import LoopConfig

BATCH_SIZE = 24
WARMUP_STEPS = 20
_FORWARD_KL = ForwardKL()
_THIRDS = Mixture((Fixed(), OnPolicy(), TargetGenerated(temperature=0.0)), (1 / 3, 1 / 3, 1 / 3))
"""Without the target's greedy texts, in which it repeats itself, a draft gains little at temperature 0."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings for one task.

    Attributes:
      task: an embedded task.
      lengths: tokens of a training row; the longest examples are cut, since all others would pay for them.
      divergence, source: of the distillation.
      learning_rate: of the distillation; tuned as the control's was.
      control_learning_rate: of the control.
      steps: of both.
      eval_limit: validation prompts on which acceptance is logged as it trains.
      family: of the zoo (`zoo_manifest.FAMILIES`), whose pair it is.
    """

    task: str
    lengths: Mapping[str, int]
    divergence: Divergence = _FORWARD_KL
    source: DataSource = _THIRDS
    learning_rate: float = 2e-3
    control_learning_rate: float = 1e-3
    steps: int = 120
    eval_limit: int = 48
    family: str = "t5"

    @property
    def target(self) -> str:
        return f"zoo:{self.task}/{zoo_manifest.member(self.family, 'target')}"

    @property
    def draft(self) -> str:
        """Supervised only."""
        return f"zoo:{self.task}/{zoo_manifest.member(self.family, 'draft')}"

    @property
    def data(self) -> DataConfig:
        return DataConfig(self.task, self.lengths, eval_limit=self.eval_limit)

    def distilled(self, steps: int, directory: Path, seed: int) -> Path:
        """Distils the zoo's draft into `directory`; goes on with what it holds."""
        return distill(
            self.target,
            self.draft,
            str(directory),
            self.data,
            _loop(steps, seed),
            divergence=self.divergence,
            source=self.source,
            optimizer=adamw(self.learning_rate, steps),
        )

    def control(self, steps: int, directory: Path, seed: int) -> Path:
        """Trains the zoo's draft on the references into `directory`; goes on with what it holds."""
        return finetune(
            pretrained.load(self.draft).model,
            str(directory),
            self.data,
            _loop(steps, seed),
            optimizer=adamw(self.control_learning_rate, steps),
            initial_checkpoint_path=self.draft,
        )


RECIPES: Mapping[str, Recipe] = {
    recipe.task: recipe
    for recipe in (
        Recipe("wiki_leads", {"inputs": 192, "targets": 80}),
        Recipe("office_help_ende", {"inputs": 96, "targets": 96}),
        Recipe("gsm_symbolic", {"inputs": 128, "targets": 176}),
    )
}


def adamw(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """The optimizer of all recipes, for a run of so many steps."""
    return optimizers.adamw(optimizers.warmup_cosine(learning_rate, steps, WARMUP_STEPS))


def _loop(steps: int, seed: int) -> LoopConfig:
    return LoopConfig(
        total_steps=steps,
        batch_size=BATCH_SIZE,
        seed=seed,
        log_period=25,
        eval_period=50,
        save_period=50,
        keep=1,
    )
