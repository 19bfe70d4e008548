"""`python -m benchmarks.black_box [TASK ...]`: the share of the white-box gain that texts alone recover.

Every draft starts from the zoo's supervised one and trains for as many steps of as many rows:

  control     on the references
  white box   on the target's texts, towards the target's whole distribution (forward KL)
  k ids       the same texts, towards the stored distribution: k ids and the mass of the rest
  black box   on the same texts alone, by negative log-likelihood; also with several texts a prompt

It measures expected acceptance (1 - TVD on text of the target's own) on validation prompts, so nothing
here depends on the machine's speed. "Recovered" is the share of the white box's gain over the control.
Run it again to resume. The target's texts take most of the time.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

from distillspec_jax.cli import errors
from distillspec_jax.data import catalog
from distillspec_jax.data.data_config import DataConfig
from distillspec_jax.distillation.collect import collect
from distillspec_jax.distillation.distill import distill
from distillspec_jax.distillation.expected_acceptance import expected_acceptance
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.models import pretrained
from distillspec_jax.showcase import recipes
from distillspec_jax.showcase.recipes import RECIPES, Recipe
from distillspec_jax.training.finetune import finetune
from distillspec_jax.training.loop import LoopConfig


@dataclasses.dataclass(frozen=True)
class Study:
    """One task's drafts, in folders below `root`.

    Attributes:
      recipe: whose pair, lengths and learning rates.
      prompts: of the training split, that the target is asked for texts.
      samples: texts a prompt of the larger black-box set.
      top_logprobs: k.
      temperature: of the texts.
    """

    recipe: Recipe
    root: Path
    steps: int
    prompts: int
    samples: int
    top_logprobs: int
    temperature: float
    seed: int

    def train(self) -> Iterator[tuple[str, Path]]:
        """(name, checkpoint directory) of each draft, when it is there."""
        yield "control", self.recipe.control(self.steps, self.root / "control", self.seed)
        one = self._texts(1)
        yield "white box", self._distilled("white_box", self.recipe.target, self._data(one))
        yield f"{self.top_logprobs} ids", self._distilled("stored_logprobs", None, self._data(one))
        yield "black box", self._black_box("black_box", one)
        if self.samples > 1:
            name = f"black_box_{self.samples}"
            yield (
                f"black box, {self.samples} texts a prompt",
                self._black_box(name, self._texts(self.samples)),
            )

    def _texts(self, samples: int) -> Path:
        directory = self.root / f"texts_{samples}"
        collect(
            pretrained.load(self.recipe.target),
            directory,
            self.recipe.task,
            limit=self.prompts,
            num_samples=samples,
            temperature=self.temperature,
            max_new_tokens=self.recipe.lengths["targets"],
            top_logprobs=self.top_logprobs if samples == 1 else 0,
            draft=pretrained.load(self.recipe.draft),
            batch_size=16,
            seed=self.seed,
            say=lambda line: print(line, file=sys.stderr),
        )
        return directory

    def _data(self, texts: Path) -> DataConfig:
        # The target read prompts of up to the task's own length, and so must the draft.
        inputs = catalog.find_task(self.recipe.task).feature_lengths["inputs"]
        lengths = {"inputs": inputs, "targets": self.recipe.lengths["targets"]}
        return DataConfig(self.recipe.task, lengths, eval_limit=8, target_set=str(texts))

    @property
    def _loop(self) -> LoopConfig:
        return LoopConfig(
            total_steps=self.steps,
            batch_size=recipes.BATCH_SIZE,
            seed=self.seed,
            log_period=25,
            eval_period=max(self.steps, 1),
            save_period=50,
            keep=1,
        )

    def _distilled(self, name: str, target: str | None, data: DataConfig) -> Path:
        return distill(
            target,
            self.recipe.draft,
            str(self.root / name),
            data,
            self._loop,
            optimizer=recipes.adamw(self.recipe.learning_rate, self._loop.total_steps),
        )

    def _black_box(self, name: str, texts: Path) -> Path:
        return finetune(
            None,
            str(self.root / name),
            self._data(texts),
            self._loop,
            optimizer=recipes.adamw(self.recipe.control_learning_rate, self._loop.total_steps),
            initial_checkpoint_path=self.recipe.draft,
        )


def compare(study: Study, limit: int) -> Iterator[str]:
    """Trains and measures all drafts of a task; yields Markdown lines as they are done."""
    recipe = study.recipe
    target, draft = pretrained.load(recipe.target), pretrained.load(recipe.draft)
    data = DataConfig(recipe.task, catalog.find_task(recipe.task).feature_lengths, eval_limit=limit)
    evaluate = expected_acceptance(
        draft.model,
        target.model,
        target.params,
        [
            jax.tree.map(jnp.asarray, batch)
            for batch in data.held_out_batches(recipes.BATCH_SIZE)[recipe.task]
        ],
        study.seed,
        vocabulary=data.tokenizer().vocabulary,
    )
    found: dict[str, list[float]] = {}

    def line(name: str, params: object) -> str:
        measured = evaluate(params)
        found[name] = [measured[f"acceptance_expected_T{t}"] for t in (0, 1)]
        cells = [f"{value:.3f}{_recovered(found, name, t)}" for t, value in enumerate(found[name])]
        return f"| {name} | " + " | ".join(cells) + " |"

    budget = f"{study.steps} steps, {study.prompts} prompts, texts at T = {study.temperature:g}"
    yield f"\n## {recipe.task}: {budget}; measured on {limit} validation prompts\n"
    yield "| draft | T = 0 (recovered) | T = 1 (recovered) |\n|---|---|---|"
    yield line("supervised", draft.params)
    for name, directory in study.train():
        yield line(name, pretrained.load(str(directory)).params)


def _recovered(found: dict[str, list[float]], name: str, temperature: int) -> str:
    """The share of the white box's gain over the control, once both are known."""
    if "white box" not in found or name == "white box":
        return ""
    control, white = found["control"][temperature], found["white box"][temperature]
    if white <= control:
        return " (no gain to recover)"
    return f" ({(found[name][temperature] - control) / (white - control):.0%})"


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.black_box", description=__doc__)
    add = parser.add_argument
    add("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(RECIPES)} (default: all)")
    add("--steps", type=int, default=200)
    add(
        "--prompts",
        type=int,
        default=2_000,
        help="training prompts that the target completes (default: 2000)",
    )
    add("--samples", type=int, default=4, help="texts a prompt of the larger set (default: 4)")
    add("--top_logprobs", type=int, default=32, help="ids of a stored distribution (default: 32)")
    add("--temperature", type=float, default=1.0, help="of the texts (default: 1)")
    add("--limit", type=int, default=96, help="validation prompts (default: 96)")
    add("--seed", type=int, default=0)
    add("--output", type=Path, default=Path("runs/black_box"), help="folder for texts and drafts")
    flags = parser.parse_args(argv)
    for task in flags.tasks:
        if task not in RECIPES:
            raise UsageError(f"no recipe for task {task!r}: {nearest(task, RECIPES)}")
    for task in flags.tasks or RECIPES:
        study = Study(
            RECIPES[task],
            flags.output / task,
            flags.steps,
            flags.prompts,
            flags.samples,
            flags.top_logprobs,
            flags.temperature,
            flags.seed,
        )
        for line in compare(study, flags.limit):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="black_box"))
