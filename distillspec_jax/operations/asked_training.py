"""Training on logged prompts: its settings, and the task made from the prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from distillspec_jax import outputs
from distillspec_jax.distillation.deployment import Deployment
from distillspec_jax.errors import UsageError, check_number
from distillspec_jax.generation.prompt_format import prompt_format
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.operations import prompts
from distillspec_jax.operations.prompts import Asked, Prompt
from distillspec_jax.schema import Amount, Count, Size

Say = Callable[[str], None]

Train = Callable[[str, Path, str, int], Path]
"""Maps initial draft, folder, task name and steps to the folder of the best draft, by training."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """The settings of a training on logged prompts; they identify a run's folder.

    Attributes:
      steps: of the training.
      pilot_steps: of the pilot; 0: none.
      temperature: of the service, at which drafts are evaluated; None: that of the prompts' lines.
      block_size: drafts per round of the service.
      prompts: maximum number of held-out prompts of each kind.
      chat: see `held_out.HeldOut`.
      recipe: the gin files and bindings of the training.

    Raises:
      UsageError: a value is out of range.
    """

    steps: Size = 300
    pilot_steps: Count = 40
    temperature: Amount | None = None
    block_size: Size = 5
    prompts: Size = 200
    chat: bool = False
    recipe: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        check_number("--steps", self.steps, 1, most=10**9)
        check_number("--pilot_steps", self.pilot_steps, 0, most=self.steps)

    def sampling_of(self, asked: Asked) -> Deployment:
        """Returns the service's distribution: that of the lines, at `temperature` if it is given.

        Raises:
          UsageError: the lines state several.
        """
        found = asked.samplings
        if self.temperature is not None:
            wanted = float(self.temperature)
            # Those of the lines at this temperature, if there are any: the others may be of another service.
            found = frozenset(one for one in found if one.temperature == wanted) or found
            greedy = wanted == 0
            found = frozenset(
                Deployment(wanted) if greedy else dataclasses.replace(one, temperature=wanted)
                for one in found
            )
        if len({one.temperature for one in found}) > 1:
            told = ", ".join(f"{one:g}" for one in sorted({one.temperature for one in found}))
            raise UsageError(
                f"the logs have lines of several temperatures ({told}): choose one by --temperature"
            )
        if len(found) > 1:
            told = ", ".join(sorted(one.name for one in found))
            raise UsageError(
                f"the logs have lines of several distributions ({told}): give those of one alone"
            )
        return next(iter(found), Deployment(1.0 if self.temperature is None else float(self.temperature)))


def task(target: Pretrained, train: Path, validation: Path) -> str:
    """Makes a task from two files of prompts, as the target reads them; returns its name."""
    from distillspec_jax.data import tasks  # imports TensorFlow

    form = prompt_format(target, truncate=True)
    train, validation = outputs.resolved(train), outputs.resolved(validation)
    # A name cannot be reused within a process, so other files with the same rows get another name.
    name = prompts.digest([Prompt(inputs=str(train)), *prompts.read_sample(train)])
    return tasks.jsonl_task(
        f"asked_{name}",
        str(train),
        str(validation),
        targets_field="outputs",
        prefix=form.prefix,
        inputs_length=form.max_tokens or 192,
        targets_length=form.max_new_tokens,
    )
