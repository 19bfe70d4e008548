"""A language model that people use, and its shipped draft: sentences decoded faster, without training.

The target is SmolLM2-135M-Instruct, the draft four of its layers (`interop.packaged`), decoded in eight bits.
Beside it stands prompt lookup, which needs no network. Asked to, the draft learns on for some minutes, from
the target itself.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distillspec_jax import files
from distillspec_jax.data import catalog, examples
from distillspec_jax.data.data_config import DataConfig
from distillspec_jax.distillation.distill import distill
from distillspec_jax.distillation.divergences import ForwardKL
from distillspec_jax.distillation.sources import OnPolicy
from distillspec_jax.evaluation import results
from distillspec_jax.evaluation.sweep import RESULTS, SweepProgress, sweep
from distillspec_jax.generation.trace import trace
from distillspec_jax.interop.packaged import SHARED
from distillspec_jax.models import pretrained
from distillspec_jax.reports import summary
from distillspec_jax.reports.html import TracedPrompt, report
from distillspec_jax.showcase import recipes, timed_training
from distillspec_jax.training.loop import LoopConfig

FAMILY = "smollm2"
TARGET, DRAFT = f"zoo:{FAMILY}/target", f"zoo:{FAMILY}/draft"
TASK = "open_prompts"
PROMPTS = 16
BLOCK_SIZES, TEMPERATURES, HEADLINE_BLOCK_SIZE = (1, 2, 4), (0.0, 1.0), 2
MAX_NEW_TOKENS = 128
TIMED, EXAMPLES = 4, 2
BATCH_SIZE, LEARNING_RATE = 8, 3e-4


def demo(
    task: str,
    root: Path,
    *,
    card: Path,
    minutes: float | None,
    prompts: int,
    seed: int,
    say: Callable[[str], None],
    progress: Callable[[SweepProgress], None] | None,
) -> dict[str, Any]:
    """Measures the shipped draft, and trains it on first where `minutes` are given; see `demo.demo`.

    Args:
      card: the file by which the demo knows its folder; written when both models are there.
    """
    prefix = catalog.find_task(task).prefix
    target, draft = pretrained.load(TARGET), pretrained.load(f"{DRAFT}@int8")
    files.write_json(card, {"task": task, "family": FAMILY})
    share = draft.cost_ratio(target)
    say(f"target: {target.num_parameters / 1e6:.1f} M parameters; the draft reads {share:.1%} of its bytes")
    drafts = {"lookup": "lookup", "distilled": f"{DRAFT}@int8"}
    training: dict[str, Path] = {}
    shown = draft
    if minutes is not None:
        learner = _Learner(task)
        say("timing a few steps on this machine")
        timing = root / "models" / f"{task}-timing"
        steps = timed_training.steps_in(minutes * 60, learner.distilled, timing, seed, trial=3)
        say(f"\ndistilling the draft on: {steps} steps of {BATCH_SIZE} prompts")
        place = root / "models" / f"{task}-distilled-{steps}"
        after, _ = timed_training.run(learner.distilled, steps, place, seed)
        drafts = {"lookup": "lookup", "shipped": f"{DRAFT}@int8", "distilled": f"{after}@int8"}
        training = {"distilled": after / "metrics.jsonl"}
        shown = pretrained.load(f"{after}@int8")
    say(f"\nmeasuring on {prompts} held-out prompts")
    rows = sweep(
        TARGET,
        drafts,
        output_dir=root,
        task=task,
        chat=True,
        limit=prompts,
        block_sizes=BLOCK_SIZES,
        temperatures=TEMPERATURES,
        max_new_tokens=MAX_NEW_TOKENS,
        timing_prompts=TIMED,
        repeats=1,
        seed=seed,
        progress=progress,
    )
    found = summary.summarise(rows, block_size=HEADLINE_BLOCK_SIZE)
    summary.write(root / "summary.json", found)
    texts = [prefix + row.inputs_text for row in examples.examples(task, split="test", limit=EXAMPLES)]
    traced = functools.partial(
        trace,
        target,
        shown,
        block_size=HEADLINE_BLOCK_SIZE,
        temperature=0.0,
        max_new_tokens=MAX_NEW_TOKENS,
        chat=True,
        seed=seed,
    )
    report(
        results.read([root / RESULTS]),
        root / "report.html",
        training=training,
        examples=[TracedPrompt("distilled", text, traced(text)) for text in texts],
        title=f"SmolLM2-135M-Instruct on {task}",
        block_size=HEADLINE_BLOCK_SIZE,
    )
    return found


@dataclasses.dataclass(frozen=True)
class _Learner:
    """Trains the shipped draft on the target's distributions, on texts of its own; the embedding stays."""

    task: str

    def distilled(self, steps: int, directory: Path, seed: int) -> Path:
        """See `timed_training.Train`."""
        loop = LoopConfig(
            total_steps=steps,
            batch_size=BATCH_SIZE,
            seed=seed,
            log_period=10,
            save_period=50,
            keep=1,
            frozen=(SHARED,),
        )
        data = DataConfig(
            self.task, {"inputs": 128, "targets": 96}, eval_limit=0, chat=True, tokenizer_of=TARGET
        )
        return distill(
            TARGET,
            DRAFT,
            str(directory),
            data,
            loop,
            divergence=ForwardKL(),
            source=OnPolicy(),
            optimizer=recipes.adamw(LEARNING_RATE, steps),
        )
