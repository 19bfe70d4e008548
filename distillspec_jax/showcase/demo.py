"""The demo on embedded data: a supervised pair, a distilled draft, a control, and what they measure.

It composes the other packages and measures nothing by itself. Whatever comes out is reported.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distillspec_jax import bounds, checkpoint, files, outputs
from distillspec_jax.data import catalog, examples
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.evaluation import results
from distillspec_jax.evaluation.sweep import RESULTS, SweepProgress, sweep
from distillspec_jax.generation.trace import trace
from distillspec_jax.models import pretrained, zoo_manifest
from distillspec_jax.reports import summary
from distillspec_jax.reports.html import TracedPrompt, report
from distillspec_jax.showcase import recipes, shortlists, smollm2, timed_training
from distillspec_jax.showcase.recipes import RECIPES

BLOCK_SIZES, TEMPERATURES, HEADLINE_BLOCK_SIZE = (1, 3, 5, 7), (0.0, 1.0), 5
MAX_NEW_TOKENS: int | None = None  # in measurements and examples; the task's own
SAME_TIME, SHORTLISTED = "control, same time", "shortlist"
SHORTLIST_PROMPTS = 100
CARD = "demo.json"
"""By which a run that is called again knows its folder."""
_NAMES = ("models", "report.html", RESULTS, "summary.json")
EXAMPLES = 2
"""Prompts that the report shows token by token."""


@outputs.one_run
def demo(
    task: str,
    output_dir: str | Path,
    *,
    family: str = "t5",
    minutes: float | None = None,
    prompts: int = 64,
    seed: int = 0,
    say: Callable[[str], None] = print,
    progress: Callable[[SweepProgress], None] | None = None,
) -> dict[str, Any]:
    """Distils the zoo's supervised draft and measures it before and after, beside a control.

    The control is the same draft after as many more supervised steps: same optimizer, schedule, batches
    and prompts. A second control trains for as long as the distillation took. An interrupted run
    resumes where it stopped.

    Args:
      task: an embedded task.
      output_dir: receives `report.html`, `results.jsonl`, `summary.json` and the drafts.
      family: of the zoo, `t5` or `decoder`, or `smollm2`, which trains only where `minutes` are given.
      minutes: distil for about so long; the recipe's number of steps by default.
      prompts: held-out prompts (the test split's first ones).
      seed: of training and decoding.
      say: called with a line when something happens.
      progress: see `sweep`.

    Returns:
      The summary, as written to `summary.json`.
    """
    families = [*zoo_manifest.FAMILIES, smollm2.FAMILY]
    if family not in families:
        raise UsageError(f"the zoo has no family {family!r}: {nearest(family, families)}")
    if family != smollm2.FAMILY and task not in RECIPES:
        catalog.find_task(task)  # names the nearest when there is none
        raise UsageError(f"--task={task}: the zoo has no pair for it; choose one of {', '.join(RECIPES)}")
    if minutes is not None and minutes <= 0:
        raise UsageError(f"--minutes={minutes}: must be positive")
    if prompts < 1:
        raise UsageError(f"--prompts={prompts}: must be at least 1")
    bounds.check_most("--prompts", prompts, bounds.COUNT)
    bounds.check_seed(seed)
    outputs.take_folder(output_dir, CARD, names={*_NAMES, *outputs.LAYOUT})
    root = Path(output_dir)
    if family == smollm2.FAMILY:
        return smollm2.demo(
            task,
            root,
            card=root / CARD,
            minutes=minutes,
            prompts=prompts,
            seed=seed,
            say=say,
            progress=progress,
        )
    recipe = dataclasses.replace(RECIPES[task], family=family)
    target, draft = recipe.target, recipe.draft
    sizes = [pretrained.load(name).num_parameters for name in (target, draft)]
    files.write_json(root / CARD, {"task": task, "family": family})
    say(f"target: {sizes[0] / 1e6:.2f} M parameters; draft: {sizes[1] / 1e6:.2f} M, supervised only")

    models, steps = root / "models", recipe.steps
    if minutes is not None:
        say("timing a few steps on this machine")
        quick = dataclasses.replace(recipe, eval_limit=1)
        steps = timed_training.steps_in(minutes * 60, quick.distilled, models / f"{task}-timing", seed)
    say(f"\ndistilling the draft: {steps} steps of {recipes.BATCH_SIZE} prompts")
    after, seconds = timed_training.run(recipe.distilled, steps, models / f"{task}-distilled-{steps}", seed)
    say(f"\nthe control: {steps} more supervised steps on the same prompts")
    same_steps, control_seconds = timed_training.run(
        recipe.control, steps, models / f"{task}-control-{steps}", seed
    )
    longer = max(steps, round(steps * seconds / control_seconds / 10) * 10)
    say(f"\na control of the same duration: {longer} supervised steps")
    same_time, _ = timed_training.run(recipe.control, longer, models / f"{task}-control-{longer}", seed)

    say(f"\nthe distilled draft again, that proposes the {shortlists.SIZE:,} likeliest ids alone")
    short = _shortlisted(after, target, task, models, say)

    drafts = {"supervised": draft, "control": str(same_steps), "distilled": str(after)}
    say(f"\nmeasuring on {prompts} held-out prompts")
    shared: dict[str, Any] = {
        "output_dir": root,
        "task": task,
        "limit": prompts,
        "max_new_tokens": MAX_NEW_TOKENS,
        "seed": seed,
        "progress": progress,
    }
    rows = sweep(target, drafts, block_sizes=BLOCK_SIZES, temperatures=TEMPERATURES, **shared)
    extra = {SAME_TIME: str(same_time), SHORTLISTED: str(short)}
    rows += [
        row
        for row in sweep(
            target, extra, block_sizes=(HEADLINE_BLOCK_SIZE,), temperatures=TEMPERATURES, **shared
        )
        if row.drafter in extra
    ]
    found = summary.summarise(rows, block_size=HEADLINE_BLOCK_SIZE)
    found["training"] = {"steps": steps, "distilled_seconds": seconds, "control_seconds": control_seconds}
    summary.write(root / "summary.json", found)
    report(
        results.read([root / RESULTS]),
        root / "report.html",
        training={"distilled": after / "metrics.jsonl"},
        examples=_examples(task, target, {"supervised": draft, "distilled": str(after)}, seed),
        title=f"DistillSpec on {task}",
    )
    return found


def _examples(task: str, target: str, drafts: Mapping[str, str], seed: int) -> list[TracedPrompt]:
    """The test split's first prompts, decoded at T = 1 with each draft in turn."""
    writer, readers = (
        pretrained.load(target),
        {label: pretrained.load(name) for label, name in drafts.items()},
    )
    rows = examples.examples(task, split="test", limit=EXAMPLES)
    shared: dict[str, Any] = {
        "block_size": HEADLINE_BLOCK_SIZE,
        "max_new_tokens": MAX_NEW_TOKENS,
        "seed": seed,
    }
    return [
        TracedPrompt(
            label, row.inputs_text, trace(writer, reader, row.inputs_text, temperature=1.0, **shared)
        )
        for row in rows
        for label, reader in readers.items()
    ]


def _shortlisted(distilled: Path, target: str, task: str, models: Path, say: Callable[[str], None]) -> Path:
    """The draft with a shortlist of the target's texts on the task's training prompts."""
    directory = distilled.with_name(f"{distilled.name}-{SHORTLISTED}")
    if checkpoint.latest_step(directory) is None:
        shutil.rmtree(directory, ignore_errors=True)  # what a kill left
        texts = models / f"{task}-texts"
        ids = shortlists.shortlist(pretrained.load(target), task, texts, prompts=SHORTLIST_PROMPTS, say=say)
        draft = pretrained.with_shortlist(pretrained.load(str(distilled)), ids, str(texts))
        pretrained.save(draft, str(directory))
    return directory
