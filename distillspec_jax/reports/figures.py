"""The figures that a page shows of some rows: what the rows hold, and how each is to be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.reports import front, heat_map, histograms, plots, summary
from distillspec_jax.reports.series import left_out

EXPECTED = "acceptance_expected_T"
"""The metric of `metrics.jsonl`, followed by the temperature."""


class Plot(NamedTuple):
    """A drawing.

    Attributes:
      caption: above it.
      svg: an `<svg>` element.
      said: what is to be known beside it; may be empty.
    """

    caption: str
    svg: str
    said: str = ""


@dataclasses.dataclass(frozen=True)
class Figure:
    """Drawings of one kind.

    Attributes:
      title, note: what it is, and how it is to be read.
      plots: one a temperature.
    """

    title: str
    note: str
    plots: Sequence[Plot]


def figures(rows: Sequence[ResultRow], block_size: int) -> list[Figure]:
    """Makes the figures of one group of comparable rows.

    Args:
      rows: with at least one drafter.
      block_size: a measured one, that figures of one block size are about.
    """
    temperatures, sizes = summary.temperatures(rows), summary.block_sizes(rows)
    more, by_size = left_out(rows), len(sizes) > 1
    is_crossed = heat_map.crossing(rows) is not None
    found = [_heat_map(rows, block_size)] if is_crossed else []

    def add(title: str, note: str, made: Sequence[str | None]) -> None:
        captions = [f"T = {temperature:g}" for temperature in temperatures]
        found.append(
            Figure(
                title,
                note,
                [Plot(caption, plot) for caption, plot in zip(captions, made, strict=True) if plot],
            )
        )

    if not by_size or more:
        dots = f"γ = {block_size}. Lines are 95 % intervals over prompts; dashed: the draft to compare with."
        made = [plots.by_draft(rows, t, block_size) for t in temperatures]
        add("Block efficiency, draft by draft", dots, made)
        made = [plots.by_draft(rows, t, block_size, "speedup") for t in temperatures]
        add("Measured speed-up, draft by draft", dots, made)
    if by_size:
        add(
            "Block efficiency by block size",
            "Bands are 95 % intervals over prompts. Dashed: (1 − α^(γ+1)) / (1 − α), what the measured "
            f"acceptance α would give if drafts were accepted independently.{more}",
            [plots.block_efficiency(rows, t, block_size) for t in temperatures],
        )
        add(
            "Measured speed-up",
            "Tokens a second over those of decoding without a draft, timed in turns on the same prompts. "
            f"Below the line a draft costs more than it saves.{more}",
            [plots.speedup(rows, t, block_size) for t in temperatures],
        )
    add(
        "Prediction beside measurement",
        "Each mark is a draft at a block size: (1 − α^(γ+1)) / (1 − α) of its measured acceptance α across, "
        "its block efficiency up. Off the line, acceptance depends on position or on what was accepted "
        "before, or texts end within a round. The band is ±5 %.",
        [plots.prediction(rows, t, block_size) for t in temperatures],
    )
    add(
        f"Prompt by prompt, γ = {block_size}",
        "Each dot is a prompt, by its tokens per target call; above the line the draft on the upright axis "
        "did better.",
        [plots.per_prompt(rows, t, block_size) for t in temperatures],
    )
    add(
        f"Accepted drafts a round, γ = {block_size}",
        f"The last place is a block that was accepted whole.{more}",
        [histograms.accepted_lengths(rows, t, block_size) for t in temperatures],
    )
    add(
        "Acceptance by draft position",
        "Share of target calls that accepted the draft at this place and all before it, at the largest γ "
        f"measured.{more}",
        [plots.by_position(rows, t, block_size) for t in temperatures],
    )
    add(
        f"Latency, γ = {block_size}",
        "From a request to the end of its text, one request at a time, prompts read included. Each is "
        "the fastest of its repeats: the tail is that of the texts, not of the machine.",
        [histograms.latency(rows, t, block_size) for t in temperatures],
    )
    return [figure for figure in found if figure.plots]


def of_fronts(groups: Sequence[Sequence[ResultRow]]) -> list[Figure]:
    """Makes the figures of quality against speed, a task each, over all groups."""
    found = front.fronts(groups)
    return [
        Figure(
            f"Quality against speed: {task}",
            "Up and to the right is better; each mark is a draft at a block size. The line joins those "
            "that no other beats in both; they have their 95 % intervals.",
            [
                Plot(f"T = {one.temperature:g}", front.draw(one), one.sentence)
                for one in found
                if one.task == task
            ],
        )
        for task in dict.fromkeys(one.task for one in found)
    ]


def of_training(curves: Mapping[str, Sequence[Mapping[str, Any]]], series: Mapping[str, int]) -> list[str]:
    """Plots the metrics of some training runs.

    Args:
      curves: label to the lines of `metrics.jsonl`.
      series: colours of drafters.
    """
    wanted = [("train", "loss", "training loss")]
    seen = {field for lines in curves.values() for line in lines for field in line}
    for field in sorted(name for name in seen if name.startswith(EXPECTED)):
        wanted.append(("eval", field, f"held-out acceptance, T = {field.removeprefix(EXPECTED)}"))
    drawn = [plots.training(curves, *what, series) for what in wanted]
    return [plot for plot in drawn if plot]


def _heat_map(rows: Sequence[ResultRow], block_size: int) -> Figure:
    cross = heat_map.crossing(rows)
    against = cross.against if cross else None
    compared = (
        f"Block efficiency over that of {against}, prompt by prompt, with its 95 % interval; bold: the "
        "interval excludes 1."
        if against
        else "Block efficiency, with its 95 % interval."
    )
    return Figure(
        f"Drafts crossed, γ = {block_size}",
        compared,
        [
            Plot(f"T = {temperature:g}", *made)
            for temperature in summary.temperatures(rows)
            if (made := heat_map.heat_map(rows, temperature, block_size))
        ],
    )
