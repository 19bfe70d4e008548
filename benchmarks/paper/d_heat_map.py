"""(d) Divergences on four sources of data, each cell at the learning rate that is best for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.arms import Model
from benchmarks.paper import models
from benchmarks.paper.experiment import Experiment, Found, Measurement, figure, prompts_said
from benchmarks.paper.models import SD, SOURCES
from benchmarks.paper.rows import Comparison, Pool, efficiency_ratio, labels, pools, select
from benchmarks.paper.scales import Scale
from benchmarks.paper.verdicts import markdown, marked, times, verdict
from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.reports import summary

CHOICE = "validation"


def name(divergence: str, source: str, rate: float) -> str:
    """The label of a cell at a rate."""
    return f"{divergence}, {source}, {rate:g}"


def measure(scale: Scale, rows: Sequence[ResultRow] | None) -> list[Measurement]:
    """First every rate on validation prompts, if there are several; then each cell's best on test prompts.

    The best at T = 0 and the best at T = 1 may be two drafts.
    """
    found = []
    tried = select(rows or (), split=CHOICE)
    for task in scale.compared:
        arms = {
            name(divergence, source, rate): models.cell(scale, task, divergence, source, rate=rate)
            for source in SOURCES
            for divergence in scale.divergences
            for rate in scale.rates
        }
        split = {"SPLIT": CHOICE}
        if len(scale.rates) > 1 and rows is None:
            found.append(
                Measurement("d_heat_map", task, scale.target_of(task), arms, scale.prompts, bindings=split)
            )
            continue
        of_task = select(tried, task=task)
        for t in summary.temperatures(of_task) or (None,):
            kept = {label: arm for label, arm in arms.items() if t is None or label in best(of_task, t)}
            more = {} if t is None else {"TEMPERATURES": f"({t:g},)"}
            drafters: dict[str, Model] = {SD: scale.draft_of(task), **kept}
            found.append(
                Measurement("d_heat_map", task, scale.target_of(task), drafters, scale.prompts, bindings=more)
            )
    return found


def best(rows: Sequence[ResultRow], temperature: float) -> set[str]:
    """The label of each cell's best rate on the rows given."""
    found: dict[str, tuple[float, str]] = {}
    for row in select(rows, temperature=temperature):
        if row.is_drafted:
            key = row.drafter.rpartition(", ")[0]
            found[key] = max(found.get(key, (0.0, "")), (row.block_efficiency, row.drafter))
    return {label for _, label in found.values()}


def chosen(rows: Sequence[ResultRow]) -> dict[tuple[str, str, str], float]:
    """Each cell's best rate over all temperatures, for the experiments that train one draft for all of them.

    Returns:
      By task, divergence and source, the rate with the largest product of block efficiencies.
    """
    products: dict[tuple[str, str, str], dict[float, float]] = {}
    for row in select(rows, split=CHOICE):
        if row.is_drafted:
            divergence, source, rate = row.drafter.split(", ")
            of_cell = products.setdefault((row.task, divergence, source), {})
            of_cell[float(rate)] = of_cell.get(float(rate), 1.0) * row.block_efficiency
    return {cell: max(of_cell, key=lambda rate: of_cell[rate]) for cell, of_cell in products.items()}


def page(rows: Sequence[ResultRow]) -> Found:
    """The heat maps; the sources are compared over all divergences, and the divergences ranked."""
    rates = _rates(rows)
    rows = [row for row in rows if row.split != CHOICE]
    tasks, warmth = dict.fromkeys(row.task for row in rows), summary.temperatures(rows)
    cells = [(task, t, select(rows, task=task, temperature=t)) for task in tasks for t in warmth]
    parts, all_of, by_source, winners = [], [], [], []
    drawn = figure(8.0, 2.9 * len(tasks))
    axes_of = drawn.subplots(len(tasks), max(1, len(warmth)), squeeze=False).flat
    tables = []
    for task, t, of_cell in cells:
        pooled = pools(of_cell, [SD, *labels(of_cell)])
        found = {tuple(one.split(", ")[:2]): of for one, of in pooled.items() if one != SD}
        kinds = list(dict.fromkeys(d for d, _ in found))
        if not all((d, s) in found for d in kinds for s in SOURCES):
            continue
        sd = pooled[SD]
        ratios = [[efficiency_ratio(f"{d}, {s}", found[d, s], sd) for s in SOURCES] for d in kinds]
        all_of += [one for line in ratios for one in line]
        tables.append((f"{task}, T = {t:g}: SD emits {times(sd.efficiency)}", kinds))
        whole = {s: Pool([row for d in kinds for row in found[d, s].rows]) for s in SOURCES}
        by_source += [
            efficiency_ratio(f"{s} over fixed, {task}, T = {t:g}", whole[s], whole["fixed"])
            for s in SOURCES
            if s != "fixed"
        ]
        winners.append(max((one.interval.value, one.name) for line in ratios for one in line)[1])
        _heat(next(axes_of), ratios, kinds, f"{task}, T = {t:g}")
    shown = iter(marked(all_of))
    for title, kinds in tables:
        lines = [[d, *(next(shown) for _ in SOURCES)] for d in kinds]
        parts.append(f"{title}\n\n{markdown(['', *SOURCES], lines)}")
    parts.append(_sources(by_source))
    parts += [rates] if rates else []
    first = {one.split(", ")[0] for one in winners}
    said = verdict(
        by_source, what="ratios of a generated source over the references, all divergences together"
    )
    one = (
        "one divergence comes first everywhere" if len(first) == 1 else "no divergence comes first everywhere"
    )
    return Found(
        f"{said} First in the cells: {'; '.join(winners)}: {one}. {prompts_said(rows)}.",
        "\n\n".join(parts),
        drawn,
    )


def _rates(rows: Sequence[ResultRow]) -> str:
    """The rates that the other experiments take; empty if there was one."""
    lines = [[*cell, f"{rate:g}"] for cell, rate in chosen(rows).items()]
    tried = {float(row.drafter.split(", ")[2]) for row in select(rows, split=CHOICE) if row.is_drafted}
    edges = {f"{rate:g}" for rate in (min(tried, default=0), max(tried, default=0))}
    shown = [[*cell, f"{rate} (edge)" if rate in edges else rate] for *cell, rate in lines]
    return markdown(["task", "divergence", "source", "learning rate over both T"], shown) if shown else ""


def _sources(comparisons: Sequence[Comparison]) -> str:
    lines = [[one.name, text] for one, text in zip(comparisons, marked(comparisons), strict=True)]
    return markdown(["source over the references", "tokens a call"], lines)


def _heat(axes, ratios, kinds, title) -> None:  # type: ignore[no-untyped-def]
    values = np.array([[one.interval.value for one in line] for line in ratios])
    axes.imshow(
        values, cmap="RdYlGn", vmin=min(0.8, values.min()), vmax=max(1.2, values.max()), aspect="auto"
    )
    for (i, k), value in np.ndenumerate(values):
        axes.text(k, i, f"{value:.2f}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(SOURCES)), SOURCES, fontsize=7)
    axes.set_yticks(range(len(kinds)), kinds, fontsize=7)
    axes.set_title(title, fontsize=8)


EXPERIMENT = Experiment(
    "d",
    "Heat map: divergence and data source",
    "The paper claims (Figure 4, by second-hand texts) that fixed ground truth is clearly the worst data, "
    "that draft-, target- and mixed data are close, and that no divergence wins everywhere.",
    measure,
    page,
    stages=2,
)
