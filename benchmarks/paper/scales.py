"""How much of each experiment is run: settings by scale."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from distillspec_jax.errors import find

WIKI, OFFICE, GSM = "wiki_leads", "office_help_ende", "gsm_symbolic"


@dataclasses.dataclass(frozen=True)
class Scale:
    """Settings of a run of all experiments.

    Attributes:
      name: of `--scale`.
      steps, batch_size: of every training; AdaSPEC's two halves share the steps.
      seeds: of every training whose seeds are added up: (a), (b), (j).
      rates: learning rates of distillation, of which (d) chooses on validation prompts; others take the
        middle one.
      prompts: decoded for block efficiency and quality.
      timed: of these, decoded in turns for speed.
      per_generator: prompts of each of the generators of (g).
      compared: tasks of (b), (c), (d) and (j).
      blocks: block sizes of (i).
      warmth: temperatures of (i).
      epsilons: of (f).
      widths: of the drafts of (i) that are trained from nothing.
      narrow_steps: of their supervised training.
      repeats: runs of each timed prompt.
      max_new_tokens: longest output; None: the task's.
      in_process: train and measure in one process.
      target, draft: the pair, by task.
    """

    name: str
    steps: int
    batch_size: int
    seeds: int
    rates: Sequence[float]
    prompts: int
    timed: int
    per_generator: int
    compared: Sequence[str]
    blocks: Sequence[int]
    warmth: Sequence[float]
    epsilons: Sequence[float]
    widths: Sequence[int]
    narrow_steps: int
    repeats: int = 2
    max_new_tokens: int | None = None
    in_process: bool = False
    target: str = "zoo:{task}/target"
    draft: str = "zoo:{task}/draft"

    @property
    def rate(self) -> float:
        """The learning rate where none is chosen."""
        return self.rates[len(self.rates) // 2]

    def target_of(self, task: str) -> str:
        """The large target of a task."""
        return self.target.format(task=task)

    def draft_of(self, task: str) -> str:
        """The supervised draft of a task."""
        return self.draft.format(task=task)


SMALL = Scale(
    name="small",
    steps=24,
    batch_size=16,
    seeds=1,
    rates=(2e-3,),
    prompts=24,
    timed=12,
    per_generator=5,
    compared=(WIKI,),
    blocks=(1, 3, 7, 16),
    warmth=(0.0, 0.3, 0.7, 1.0),
    epsilons=(1.0, 0.5, 0.2),
    widths=(24,),
    narrow_steps=48,
    in_process=True,
)
SCALES: Mapping[str, Scale] = {
    scale.name: scale
    for scale in (
        dataclasses.replace(
            SMALL,
            name="smoke",
            steps=4,
            batch_size=2,
            prompts=6,
            timed=5,
            per_generator=1,
            blocks=(1, 7),
            warmth=(0.0, 1.0),
            epsilons=(1.0, 0.5),
            narrow_steps=2,
            repeats=1,
            max_new_tokens=8,
        ),
        SMALL,
        Scale(
            name="full",
            steps=1600,
            batch_size=24,
            seeds=3,
            rates=(5e-4, 1e-3, 2e-3),
            prompts=192,
            timed=32,
            per_generator=16,
            compared=(WIKI, GSM),
            blocks=tuple(range(1, 17)),
            warmth=(0.0, 0.3, 0.7, 1.0),
            epsilons=(1.0, 0.9, 0.7, 0.5, 0.3, 0.2, 0.1),
            widths=(24, 56, 176),
            narrow_steps=6400,
        ),
    )
}


def scale(name: str) -> Scale:
    """Finds a scale; UsageError names the nearest."""
    return find("scale", name, SCALES)


def table() -> str:
    """The settings of the scales that users run, in Markdown."""
    shown = [SCALES[name] for name in ("small", "full")]
    lines = ["| setting | " + " | ".join(s.name for s in shown) + " |", "|---|" + "---|" * len(shown)]
    for words, field in (
        ("training steps", "steps"),
        ("rows a step", "batch_size"),
        ("seeds of (a), (b), (c), (j)", "seeds"),
        ("learning rates of distillation", "rates"),
        ("test prompts", "prompts"),
        ("of these timed", "timed"),
        ("prompts a generator, (g)", "per_generator"),
        ("tasks of (b), (c), (d), (j)", "compared"),
        ("block sizes of (i)", "blocks"),
        ("ε of (f)", "epsilons"),
        ("widths of drafts trained from nothing, (i)", "widths"),
        ("steps of their supervised training", "narrow_steps"),
    ):
        values = [getattr(s, field) for s in shown]
        lines.append(f"| {words} | " + " | ".join(map(_shown, values)) + " |")
    return "\n".join(lines)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in value)
    return str(value)
