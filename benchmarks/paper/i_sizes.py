"""(i) Block sizes from 1 to 16 at four temperatures, and sizes of drafts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.arms import Model
from benchmarks.paper import models
from benchmarks.paper.experiment import COLOURS, Experiment, Found, Measurement, figure, prompts_said
from benchmarks.paper.models import DISTILLSPEC, SD
from benchmarks.paper.rows import BLOCK_SIZE, label, labels, pool, select, speed_ratio
from benchmarks.paper.scales import WIKI, Scale
from benchmarks.paper.verdicts import markdown, times, verdict
from distillspec_jax.acceptance import memory_bound_speedup
from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.reports import summary

OF_SIZES = (1, 3, 7)
"""Block sizes at which drafts of other sizes are tried."""
_BLOCKS, _SIZES = "block sizes", "draft sizes"


def drafts(scale: Scale) -> Mapping[str, Model]:
    """Drafts of other sizes than the zoo's, each distilled on the references, and the zoo's."""
    task = WIKI
    made: dict[str, Model] = {
        f"width {width}": models.distilled(
            scale, task, f"width {width}, distilled", "supervised_kd", draft=models.narrow(scale, task, width)
        )
        for width in scale.widths
    }
    made["zoo draft"] = models.algorithm(scale, task, "Supervised KD")
    cut = models.last_layer(scale, task)
    made["last layer"] = models.distilled(scale, task, "last layer, distilled", "supervised_kd", draft=cut)
    return made


def measure(scale: Scale, rows: Sequence[ResultRow] | None) -> list[Measurement]:
    """Two drafts at all block sizes and temperatures; drafts of all sizes at three block sizes."""
    both: dict[str, Model] = {
        SD: scale.draft_of(WIKI),
        DISTILLSPEC: models.algorithm(scale, WIKI, DISTILLSPEC),
    }
    blocks = {"BLOCK_SIZES": str(tuple(scale.blocks)), "TEMPERATURES": str(tuple(scale.warmth))}
    sizes = {"BLOCK_SIZES": str(tuple(sorted({*OF_SIZES} & {*scale.blocks})))}
    target, timed = scale.target_of(WIKI), scale.timed
    return [
        Measurement("i_sizes", WIKI, target, both, scale.prompts, timed, _BLOCKS, blocks),
        Measurement("i_sizes", WIKI, target, drafts(scale), scale.prompts, timed, _SIZES, sizes),
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
    for i, t in enumerate(dict.fromkeys(one[0] for one in of_sizes)):
        points = sorted((c, best, mbsu) for at, _, c, _, best, mbsu in of_sizes if at == t)
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
            ["draft size", "T", "c", "best γ", "speed-up there", "MBSU at its best γ"], _lines(of_sizes)
        ),
        markdown(["draft", "T", "γ", "tokens a call", "measured speed-up"], lines),
    ]
    return Found(
        f"{said} {_sizes_said(of_sizes)} {prompts_said(rows)}.",
        "\n\n".join(tables),
        drawn,
    )


Size = tuple[float, str, float, int, float, float]
"""Temperature, draft, c, the best block size, the measured speed-up there, the best memory-bound speed-up."""


def _by_size(rows: Sequence[ResultRow]) -> list[Size]:
    found = []
    for t in summary.temperatures(rows):
        for name in labels(rows):
            of_draft = [row for row in select(rows, temperature=t) if row.is_drafted and label(row) == name]
            if not of_draft or any(row.speedup is None or row.cost_ratio is None for row in of_draft):
                continue
            best = max(of_draft, key=lambda row: row.speedup or 0)
            bound = max(
                memory_bound_speedup(row.block_efficiency, row.cost_ratio or 0, row.block_size)
                for row in of_draft
            )
            found.append((t, name, best.cost_ratio or 0, best.block_size, best.speedup or 0, bound))
    return found


def _lines(sizes: Sequence[Size]) -> list[list[str]]:
    return [
        [name, f"{t:g}", f"{c:.3f}", str(size), f"{speed:.2f}", f"{bound:.2f}"]
        for t, name, c, size, speed, bound in sizes
    ]


def _sizes_said(sizes: Sequence[Size]) -> str:
    parts = []
    for t in dict.fromkeys(one[0] for one in sizes):
        best = max((one for one in sizes if one[0] == t), key=lambda one: one[4])
        parts.append(f"at T = {t:g} c = {best[2]:.2f} ({best[1]})")
    return f"The fastest draft size is {', '.join(parts)}." if parts else ""


EXPERIMENT = Experiment(
    "i",
    "Sizes: of blocks and of drafts",
    "The paper claims (section 5 by second-hand texts) that larger blocks than γ = 7 saturate; it has no "
    "sweep of draft sizes outside of the garden.",
    measure,
    page,
)
