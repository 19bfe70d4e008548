"""The training of every draft of a study: one recipe and one budget, with what it cost the processor."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from benchmarks.drift.setting import Setting
from distillspec_jax.data.data_config import DataConfig
from distillspec_jax.distillation.distill import distill
from distillspec_jax.distillation.sources import Fixed
from distillspec_jax.training import optimizers
from distillspec_jax.training.loop import LoopConfig


@dataclasses.dataclass
class Trainer:
    """Distils on the texts of a log, which at temperature 0 are the target's greedy ones.

    Forward KL towards the target's distribution at every token. It is an `asked_training.Train`.

    Attributes:
      target: checkpoint directory.
      seed: of the batches.
      steps: that were trained so far.
      seconds: of the processor, all of it, compilation too.
    """

    target: str
    setting: Setting
    seed: int
    steps: int = 0
    seconds: float = 0.0

    def __call__(self, draft: str, directory: Path, task: str, steps: int) -> Path:
        """Trains into a folder; see `asked_training.Train`."""
        began = time.process_time()
        warmup = max(1, steps // 10)
        found = distill(
            self.target,
            draft,
            str(directory),
            DataConfig(task, eval_limit=0),
            LoopConfig(
                total_steps=steps,
                batch_size=self.setting.batch_size,
                seed=self.seed,
                log_period=4,
                save_period=steps,
                keep=1,
            ),
            source=Fixed(),
            optimizer=optimizers.adamw(optimizers.warmup_cosine(self.setting.learning_rate, steps, warmup)),
        )
        self.steps += steps
        self.seconds += time.process_time() - began
        return found
