"""How much of each experiment is run: settings by scale.

`small`, meant for half an hour on two cores, shows that everything works. It leaves out:

- all rates but one, so that (d) chooses none, and all seeds but one;
- in (a) the control on all tasks but the first; in (b), (c), (d) and (j) these tasks;
- in (d) JSD and reverse KL; in (f) T = 0 and all ε but 0.3; in (g) what follows the 96th token;
- in (h) T = 1 and the medium target without distillation;
- in (i) most block sizes and temperatures, and all ranks of the draft but one; in (j) JSD and -log α.

After so few steps a null says little. `full` takes days.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from distillspec_jax.errors import find

WIKI, OFFICE, GSM = "wiki_leads", "office_help_ende", "gsm_symbolic"
FOUR = ("FKL", "JSD 0.5", "RKL", "TVD")
"""The paper's divergences."""
BASE = "forward KL"
SUCCESSORS = ("LK hybrid", "AdaSPEC", "block efficiency")
"""Later losses, which (j) compares with `BASE`."""
LARGE, MEDIUM_SUPERVISED = "large", "medium, supervised"
MEDIUM, SMALL_SUPERVISED, SMALL_DISTILLED = "medium, distilled", "small, supervised", "small, distilled"


@dataclasses.dataclass(frozen=True)
class Scale:
    """Settings of a run of all experiments.

    Attributes:
      name: of `--scale`.
      steps, batch_size: of every training but those that are to cost what another one does.
      seeds: of every training whose seeds are added up: (a), (b), (c), (j).
      rates: learning rates of distillation, of which (d) chooses on validation prompts.
      prompts: decoded for block efficiency and quality.
      timed: of these, decoded in turns for speed.
      per_generator: prompts of each of the generators of (g).
      unseen_tokens: longest output of (g); None: the task's.
      compared: tasks of (b), (c), (d) and (j).
      controlled: tasks of (a) with a control.
      divergences: of (d).
      losses: of (j), beside `BASE`.
      blocks: block sizes of (i).
      warmth: temperatures of (i).
      sizes_at: block sizes at which (i) compares sizes of drafts.
      ranks: of the drafts of (i) with a factorised embedding, as parts of the draft's width.
      epsilons, lenient_warmth: of (f), with its temperatures.
      garden, garden_warmth: targets of (h), with its temperatures.
      repeats: runs of each timed prompt.
      max_new_tokens: longest output; None: the task's.
      in_process: train and measure in one process.
      target, draft: the pair, by task.
      chosen: learning rates by task, divergence and source, as (d) has found them.
    """

    name: str
    steps: int
    batch_size: int
    seeds: int
    rates: Sequence[float]
    prompts: int
    timed: int
    per_generator: int
    unseen_tokens: int | None
    compared: Sequence[str]
    controlled: Sequence[str]
    divergences: Sequence[str]
    losses: Sequence[str]
    blocks: Sequence[int]
    warmth: Sequence[float]
    sizes_at: Sequence[int]
    ranks: Sequence[int]
    epsilons: Sequence[float]
    lenient_warmth: Sequence[float]
    garden: Sequence[str]
    garden_warmth: Sequence[float]
    repeats: int = 2
    max_new_tokens: int | None = None
    in_process: bool = False
    target: str = "zoo:{task}/target"
    draft: str = "zoo:{task}/draft"
    chosen: Mapping[tuple[str, str, str], float] = dataclasses.field(default_factory=dict)

    @property
    def rate(self) -> float:
        """The learning rate where none is chosen."""
        return self.rates[len(self.rates) // 2]

    def rate_of(self, task: str, divergence: str, source: str) -> float:
        """The learning rate of a divergence on a source of data."""
        return self.chosen.get((task, divergence, source), self.rate)

    def is_edge(self, rate: float | None) -> bool:
        """Tells whether a rate is the first or the last of several: a better one may lie beyond."""
        return len(self.rates) > 1 and rate in (self.rates[0], self.rates[-1])

    def target_of(self, task: str) -> str:
        """The large target of a task."""
        return self.target.replace("{task}", task)

    def draft_of(self, task: str) -> str:
        """The supervised draft of a task."""
        return self.draft.replace("{task}", task)


SMALL = Scale(
    name="small",
    steps=24,
    batch_size=16,
    seeds=1,
    rates=(2e-3,),
    prompts=24,
    timed=8,
    per_generator=5,
    unseen_tokens=96,
    compared=(WIKI,),
    controlled=(WIKI,),
    divergences=("FKL", "TVD"),
    losses=SUCCESSORS,
    blocks=(1, 7, 16),
    warmth=(0.0, 1.0),
    sizes_at=(7,),
    ranks=(4,),
    epsilons=(1.0, 0.3),
    lenient_warmth=(1.0,),
    garden=(LARGE, MEDIUM, SMALL_SUPERVISED, SMALL_DISTILLED),
    garden_warmth=(0.0,),
    repeats=1,
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
            epsilons=(1.0, 0.5),
            max_new_tokens=8,
        ),
        SMALL,
        Scale(
            name="full",
            steps=1600,
            batch_size=24,
            seeds=3,
            rates=(1e-3, 2e-3, 4e-3),
            prompts=192,
            timed=32,
            per_generator=16,
            unseen_tokens=None,
            compared=(WIKI, GSM),
            controlled=(WIKI, OFFICE, GSM),
            divergences=FOUR,
            losses=("JSD 0.5", "-log α", *SUCCESSORS),
            blocks=tuple(range(1, 17)),
            warmth=(0.0, 0.3, 0.7, 1.0),
            sizes_at=(1, 3, 7),
            ranks=(2, 4, 8),
            epsilons=(1.0, 0.9, 0.7, 0.5, 0.3, 0.2, 0.1),
            lenient_warmth=(0.0, 1.0),
            garden=(LARGE, MEDIUM_SUPERVISED, MEDIUM, SMALL_SUPERVISED, SMALL_DISTILLED),
            garden_warmth=(0.0, 1.0),
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
        ("tasks with a control, (a)", "controlled"),
        ("divergences of (d)", "divergences"),
        ("losses of (j)", "losses"),
        ("ε of (f)", "epsilons"),
        ("its temperatures", "lenient_warmth"),
        ("targets of (h)", "garden"),
        ("its temperatures", "garden_warmth"),
        ("block sizes of (i)", "blocks"),
        ("its temperatures", "warmth"),
        ("its block sizes for drafts of several sizes", "sizes_at"),
        ("their ranks, of the draft's width one in", "ranks"),
    ):
        values = [getattr(s, field) for s in shown]
        lines.append(f"| {words} | " + " | ".join(map(_shown, values)) + " |")
    return "\n".join(lines)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "; ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in value)
    return str(value)
