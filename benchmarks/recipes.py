"""`python -m benchmarks.recipes [TASK ...]`: candidates for the demo's recipes, on validation prompts.

Every candidate starts from the zoo's supervised draft and trains for as many steps. It measures expected
acceptance (1 - TVD on text of the target's own), so nothing here depends on the machine's speed. Run it
again to resume. An hour on two cores.
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
from distillspec_jax.distillation.expected_acceptance import expected_acceptance
from distillspec_jax.distillation.sources import DataSource, Fixed, Mixture, OnPolicy, TargetGenerated
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.models import pretrained
from distillspec_jax.showcase import recipes
from distillspec_jax.showcase.recipes import RECIPES, Recipe

PROMPTS = 96


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A row of the table."""

    name: str
    recipe: Recipe
    is_control: bool = False


def candidates(task: str) -> Iterator[Candidate]:
    """What is tried on a task: sources of the sequences, then learning rates of the control."""
    base = dataclasses.replace(RECIPES[task], eval_limit=8, learning_rate=2e-3, control_learning_rate=1e-3)
    fixed, own, greedy = Fixed(), OnPolicy(), TargetGenerated(temperature=0.0)
    sources: dict[str, DataSource] = {
        "thirds of fixed, on-policy, greedy target": Mixture((fixed, own, greedy), (1 / 3, 1 / 3, 1 / 3)),
    }
    if task == "wiki_leads":
        sources["half on-policy, half greedy target"] = Mixture((own, greedy), (0.5, 0.5))
        sources["half fixed, half on-policy"] = Mixture((fixed, own), (0.5, 0.5))
        sources["fixed"] = fixed
    for name, source in sources.items():
        yield Candidate(f"FKL, {name}", dataclasses.replace(base, source=source))
    if task != "wiki_leads":
        slower = dataclasses.replace(base, learning_rate=1e-3)
        mostly = Mixture((fixed, greedy), (2 / 3, 1 / 3))
        yield Candidate(
            "FKL, two thirds fixed, one greedy target, rate 0.001", dataclasses.replace(slower, source=mostly)
        )
        yield Candidate("FKL, fixed, rate 0.001", dataclasses.replace(slower, source=fixed))
    for rate in (5e-4, 1e-3, 2e-3) if task == "wiki_leads" else (1e-3,):
        control = dataclasses.replace(base, control_learning_rate=rate)
        yield Candidate(f"control, rate {rate:g}", control, True)


def compare(task: str, steps: int, root: Path, seed: int) -> Iterator[str]:
    """Trains and measures all candidates of a task; yields Markdown lines as they are done."""
    recipe, spec = RECIPES[task], catalog.find_task(task)
    target, draft = pretrained.load(recipe.target), pretrained.load(recipe.draft)
    data = DataConfig(task, spec.feature_lengths, eval_limit=PROMPTS)
    evaluate = expected_acceptance(
        draft.model,
        target.model,
        target.params,
        [jax.tree.map(jnp.asarray, batch) for batch in data.held_out_batches(recipes.BATCH_SIZE)[task]],
        seed,
        vocabulary=data.tokenizer().vocabulary,
    )

    def line(name: str, params: object) -> str:
        found = evaluate(params)
        return f"| {name} | " + " | ".join(f"{found[f'acceptance_expected_T{t}']:.3f}" for t in (0, 1)) + " |"

    yield f"\n## {task}, {steps} steps of {recipes.BATCH_SIZE}, {PROMPTS} validation prompts\n"
    yield "| draft | T = 0 | T = 1 |\n|---|---|---|"
    yield line("supervised", draft.params)
    for candidate in candidates(task):
        directory = root / task / candidate.name.replace(" ", "_").replace(",", "")
        train = candidate.recipe.control if candidate.is_control else candidate.recipe.distilled
        yield line(candidate.name, pretrained.load(str(train(steps, directory, seed))).params)


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes", description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(RECIPES)} (default: all)")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/recipes"), help="folder for the drafts")
    flags = parser.parse_args(argv)
    for task in flags.tasks:
        if task not in RECIPES:
            raise UsageError(f"no recipe for task {task!r}: {nearest(task, RECIPES)}")
    for task in flags.tasks or RECIPES:
        for line in compare(task, flags.steps, flags.output, flags.seed):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="recipes"))
