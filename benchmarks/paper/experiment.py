"""An experiment: what it measures, and what its page says of the rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from benchmarks.arms import Model
from benchmarks.paper.models import FOLDER
from benchmarks.paper.scales import Scale
from distillspec_jax.evaluation.paired import Interval
from distillspec_jax.evaluation.result_row import ResultRow

COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A sweep.

    Attributes:
      gin_file: of `gin_configs/experiments/paper/embedded`.
      task: decoded.
      target: a model.
      drafters: models by the labels of rows.
      limit, timed: prompts, and how many of them are timed.
      part: of the experiment, where a label may occur in several: which target it is, or what is varied.
      bindings: further ones.
    """

    gin_file: str
    task: str
    target: Model
    drafters: Mapping[str, Model]
    limit: int
    timed: int = 0
    part: str | None = None
    bindings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def file(self) -> str:
        """The gin file as commands take it."""
        return f"{FOLDER}/{self.gin_file}.gin"


@dataclasses.dataclass(frozen=True)
class InTurns:
    """Several targets without drafts, timed in turns; the first is what the others are compared with.

    Attributes:
      task: decoded.
      targets: models by name.
      temperatures: of each.
      timed: prompts.
    """

    task: str
    targets: Mapping[str, Model]
    temperatures: tuple[float, ...]
    timed: int


@dataclasses.dataclass(frozen=True)
class Found:
    """What the rows of an experiment say.

    Attributes:
      verdict: whether the claim held, with its number of prompts.
      table: in Markdown.
      figure: drawn.
    """

    verdict: str
    table: str
    figure: Figure


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One of the paper's.

    Attributes:
      letter, title: how it is called.
      claim: what the paper says, where, and how sure that is.
      measure: the sweeps of a stage; those after the first are given the rows so far, the first None.
      page: reads the rows.
      rows_of: letter of the experiment whose rows it reads; None: its own.
    """

    letter: str
    title: str
    claim: str
    measure: Callable[[Scale, Sequence[ResultRow] | None], Sequence[Measurement | InTurns]]
    page: Callable[[Sequence[ResultRow]], Found]
    stages: int = 1
    rows_of: str | None = None

    @property
    def name(self) -> str:
        """Its folder."""
        short = self.title.partition(":")[0].lower().replace("-", "").replace(" ", "_")
        return f"{self.letter}_{short}"


def figure(width: float = 8.0, height: float = 3.4) -> Figure:
    """An empty figure of a page."""
    return Figure(figsize=(width, height), layout="constrained")


def ratios_figure(
    cells: Sequence[str], intervals: Sequence[Sequence[Interval]], names: Sequence[str], over: str
) -> Figure:
    """Draws ratios with their intervals: a place along the axis for each name, a colour for each cell.

    Args:
      intervals: a line for each of the cells, with one for each of the names.
      over: what the ratios are over.
    """
    drawn = figure(8.0, 3.2)
    axes = drawn.subplots()
    for i, (cell, line) in enumerate(zip(cells, intervals, strict=True)):
        for k, one in enumerate(line):
            at = k + 0.8 * (i - len(cells) / 2) / max(1, len(cells))
            axes.plot([at, at], [one.low, one.high], color=COLOURS[i], lw=2)
            axes.plot([at], [one.value], "o", color=COLOURS[i], label=None if k else cell)
    axes.axhline(1, color="0.3", lw=0.8)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_ylabel(f"tokens a call, over {over}")
    axes.legend(fontsize=7)
    return drawn


def prompts_said(rows: Sequence[ResultRow]) -> str:
    """How many prompts, timed prompts, seeds and training steps stand behind rows, at which edges."""
    drafted = [row for row in rows if row.is_drafted]
    if not drafted:
        return "n = 0"
    n = sorted({row.prompts for row in drafted})
    timed = sorted({len(row.timing.seconds) for row in drafted if row.timing is not None})
    trained = [row.unknown["trained"] for row in drafted if row.unknown.get("trained")]
    seeds = len({one["seed"] for one in trained}) or 1
    said = f"n = {' or '.join(map(str, n))} prompts"
    said += f", of which {' or '.join(map(str, timed))} timed" if timed else ""
    said += f", {seeds} seed{'s' if seeds > 1 else ''}"
    if not trained:
        return said
    edges = list(
        dict.fromkeys(f"{one['label']} {one['learning_rate']:g}" for one in trained if one.get("edge"))
    )
    said += f", trainings of {max(one['steps'] for one in trained)} steps at most"
    return said + (f", learning rates at the (edge) of those tried: {'; '.join(edges)}" if edges else "")
