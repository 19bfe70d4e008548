"""(i) Block sizes from 1 to 16 at four temperatures, and sizes of drafts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from benchmarks.arms import Model
from benchmarks.paper import models
from benchmarks.paper.experiment import COLOURS, Experiment, Found, Measurement, figure, prompts_said
from benchmarks.paper.models import DISTILLSPEC, SD
from benchmarks.paper.rows import BLOCK_SIZE, Comparison, Pool, label, labels, pool, select, speed_ratio
from benchmarks.paper.scales import WIKI, Scale
from benchmarks.paper.verdicts import markdown, marked, times, verdict
from distillspec_jax.acceptance import memory_bound_speedup
from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.reports import summary

ZOO = "zoo draft"
_BLOCKS, _SIZES = "block sizes", "draft sizes"


def measure(scale: Scale, rows: Sequence[ResultRow] | None) -> list[Measurement]:
    """Two drafts at all block sizes and temperatures; drafts of all sizes at a few block sizes."""
    both: dict[str, Model] = {
        SD: scale.draft_of(WIKI),
        DISTILLSPEC: models.algorithm(scale, WIKI, DISTILLSPEC),
    }
    blocks = {"BLOCK_SIZES": str(tuple(scale.blocks)), "TEMPERATURES": str(tuple(scale.warmth))}
    sizes = {"BLOCK_SIZES": str(tuple(scale.sizes_at))}
    target, timed, drafts = scale.target_of(WIKI), scale.timed, models.sizes(scale, WIKI)
    return [
        Measurement("i_sizes", WIKI, target, both, scale.prompts, timed, _BLOCKS, blocks),
        Measurement("i_sizes", WIKI, target, drafts, scale.prompts, timed, _SIZES, sizes),
    ]


def page(rows: Sequence[ResultRow]) -> Found:
    """Block efficiency and speed-up by block size; the best block size of every draft size."""
    by_block, by_size = (select(rows, part=name) for name in (_BLOCKS, _SIZES))
    warmth = summary.temperatures(by_block)
    comparisons, lines = [], []
    drawn = figure(8.0, 6.0)
    (left, right), (low, lower) = drawn.subplots(2, 2)
    sizes = summary.block_sizes(by_block)
    for i, t in enumerate(warmth):
        for name, style in ((SD, "--"), (DISTILLSPEC, "-")):
            found = {
                size: one
                for size in sizes
                if (one := pool(by_block, name, temperature=t, block_size=size)) is not None
            }
            left.plot([*found], [one.efficiency.value for one in found.values()], style, color=COLOURS[i])
            speeds = [one.speedup.value for one in found.values()]
            right.plot([*found], speeds, style, color=COLOURS[i], label=f"{name}, T = {t:g}")
            if not found:
                continue
            for size, one in found.items():
                lines.append([name, f"T = {t:g}", str(size), times(one.efficiency), times(one.speedup)])
            if BLOCK_SIZE in found and max(found) > BLOCK_SIZE:
                here = f"{name}, T = {t:g}"
                comparisons.append(speed_ratio(here, found[max(found)], found[BLOCK_SIZE]))
    of_sizes = _by_size(by_size)
    for i, t in enumerate(dict.fromkeys(one.temperature for one in of_sizes)):
        at_t = [one for one in of_sizes if one.temperature == t]
        points = sorted((one.cost_ratio, one.best.speedup.value, one.bound) for one in at_t)
        low.plot(
            *zip(*((c, best) for c, best, _ in points), strict=True),
            "o-",
            color=COLOURS[i],
            label=f"T = {t:g}",
        )
        lower.plot(*zip(*((c, mbsu) for c, _, mbsu in points), strict=True), "o-", color=COLOURS[i])
    for axes, x, y in (
        (left, "γ", "tokens a call"),
        (right, "γ", "measured speed-up"),
        (low, "c, bytes of the draft over the target's", "measured speed-up at its best γ"),
        (lower, "c", "memory-bound speed-up at its best γ"),
    ):
        axes.set(xlabel=x, ylabel=y)
        axes.grid(color="0.9")
    right.legend(fontsize=6)
    low.legend(fontsize=6)
    most = max(sizes, default=0)
    said = verdict(
        comparisons, expected=0, what=f"ratios of the speed-up at γ = {most} over that at γ = {BLOCK_SIZE}"
    )
    tables = [
        markdown(
            [
                *("draft size", "T", "c by bytes", "c as timed", "best γ", "speed-up there"),
                *("over the zoo draft's", "MBSU by bytes", "MBSU as timed"),
            ],
            _lines(of_sizes),
        ),
        markdown(["draft", "T", "γ", "tokens a call", "measured speed-up"], lines),
    ]
    return Found(
        f"{said} {_sizes_said(of_sizes)} {prompts_said(rows)}.",
        "\n\n".join(tables),
        drawn,
    )


@dataclasses.dataclass(frozen=True)
class Size:
    """A draft at a temperature, at the block size where it is fastest.

    Attributes:
      temperature, name: where, and which.
      best: its rows there; the same prompts choose and measure.
      over: its speed-up over the zoo draft's, each at its best block size; None of the zoo draft.
      bound, bound_timed: its largest memory-bound speed-up of any block size, c by bytes and as timed.
    """

    temperature: float
    name: str
    best: Pool
    over: Comparison | None
    bound: float
    bound_timed: float

    @property
    def cost_ratio(self) -> float:
        """c, by bytes."""
        return self.best.rows[0].cost_ratio or 0.0


def _by_size(rows: Sequence[ResultRow]) -> list[Size]:
    found = []
    for t in summary.temperatures(rows):
        best: dict[str, Pool] = {}
        for name in labels(rows):
            of_draft = [row for row in select(rows, temperature=t) if row.is_drafted and label(row) == name]
            if of_draft and all(row.speedup is not None and row.cost_ratio is not None for row in of_draft):
                best[name] = Pool([max(of_draft, key=lambda row: row.speedup or 0)])
        for name, fastest in best.items():
            of_draft = [row for row in select(rows, temperature=t) if row.is_drafted and label(row) == name]
            over = None
            if ZOO in best and name != ZOO:
                over = speed_ratio(f"{name}, T = {t:g}", fastest, best[ZOO])
            bounds = [
                memory_bound_speedup(row.block_efficiency, row.cost_ratio or 0, row.block_size)
                for row in of_draft
            ]
            timed = [bound for row in of_draft if (bound := row.measured_mbsu) is not None]
            found.append(Size(t, name, fastest, over, max(bounds), max(timed, default=math.nan)))
    return found


def _lines(sizes: Sequence[Size]) -> list[list[str]]:
    over = [one.over for one in sizes if one.over is not None]
    shown = {one.name: text for one, text in zip(over, marked(over), strict=True)}
    return [
        [
            *(one.name, f"{one.temperature:g}", f"{one.cost_ratio:.3f}"),
            _number(one.best.rows[0].measured_cost_ratio, 3),
            *(str(one.best.rows[0].block_size), times(one.best.speedup)),
            "–" if one.over is None else shown[one.over.name],
            *(f"{one.bound:.2f}", _number(one.bound_timed, 2)),
        ]
        for one in sizes
    ]


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _sizes_said(sizes: Sequence[Size]) -> str:
    parts = []
    for t in dict.fromkeys(one.temperature for one in sizes):
        best = max((one for one in sizes if one.temperature == t), key=lambda one: one.best.speedup.value)
        over = "" if best.over is None else f", {times(best.over.interval)} times the zoo draft's speed-up"
        parts.append(f"at T = {t:g} c = {best.cost_ratio:.2f} ({best.name}{over})")
    return f"The fastest draft size is {', '.join(parts)}." if parts else ""


EXPERIMENT = Experiment(
    "i",
    "Sizes: of blocks and of drafts",
    "The paper claims (section 5 by second-hand texts) that larger blocks than γ = 7 saturate; it has no "
    "sweep of draft sizes outside of the garden.",
    measure,
    page,
)
