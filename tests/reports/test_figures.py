"""What the report draws: only what the rows hold, and their numbers."""

import dataclasses
import html
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from distillspec_jax.reports import figures, front, heat_map, histograms, plots, series, summary, tables
from distillspec_jax.reports import html as html_page
from tests.evaluation import simulated

ROWS = simulated.rows()

DIVERGENCES, SOURCES = ("FKL", "TVD"), ("fixed", "mix")


def crossed(prompts=12):
    """A grid of two by two drafts beside the one they began as, one block size, T = 0."""
    (baseline, first, second, third) = [
        row for row in simulated.rows(prompts=prompts, block_sizes=(4,)) if row.temperature == 0
    ]
    labels = [f"{one}, {other}" for one in DIVERGENCES for other in SOURCES]
    sources = [second, third, third, second]
    made = [dataclasses.replace(row, drafter=label) for label, row in zip(labels, sources, strict=True)]
    return [baseline, first, *made]


CROSSED = crossed()


def words(svg):
    return [html.unescape(text) for text in re.findall(r">([^<>]+)</text>", svg)]


def many(count):
    """As many drafts, of rising block efficiency."""
    row = CROSSED[1]
    return [
        CROSSED[0],
        *(dataclasses.replace(row, drafter=f"d{i}", block_efficiency=1 + i / 10) for i in range(count)),
    ]


def test_a_crossing_is_found_in_the_labels_and_its_cells_hold_paired_ratios():
    cross = heat_map.crossing(CROSSED)
    assert (cross.lines, cross.columns, cross.against) == (["FKL", "TVD"], ["fixed", "mix"], "supervised")
    drawn, said = heat_map.heat_map(CROSSED, 0.0, 4)
    found = words(drawn)
    base = summary.find(CROSSED, "supervised", 0.0, 4)
    for label in cross.labels.values():
        ratio = summary.block_efficiency_ratio(summary.find(CROSSED, label, 0.0, 4), base)
        assert f"{ratio.value:.2f}" in found
        assert f"{ratio.low:.2f}–{ratio.high:.2f}" in found
    assert " of 4 ratios differ from 1 " in said


def test_without_a_draft_outside_the_crossing_cells_hold_block_efficiency_itself():
    drawn, said = heat_map.heat_map([row for row in CROSSED if row.drafter != "supervised"], 0.0, 4)
    assert f"{summary.find(CROSSED, 'FKL, mix', 0.0, 4).block_efficiency:.2f}" in words(drawn)
    assert said == ""


@pytest.mark.parametrize("labels", [["a, x", "b, y"], ["control, same time", "a"], ["a, x", "a, y"], []])
def test_labels_that_cross_nothing_make_no_map(labels):
    rows = [CROSSED[0], *(dataclasses.replace(CROSSED[1], drafter=label) for label in labels)]
    assert heat_map.crossing(rows) is None
    assert heat_map.heat_map(rows, 0.0, 4) is None


def test_a_map_of_too_few_prompts_has_no_intervals_and_no_test():
    drawn, said = heat_map.heat_map(crossed(prompts=3), 0.0, 4)
    assert said == ""
    assert not any("–" in text for text in words(drawn))


def test_more_drafts_than_colours_leave_the_pair_and_the_best_coloured():
    assert list(series.series_of(many(6), 4)) == [f"d{i}" for i in range(6)]
    rows = many(9)
    assert series.series_of(rows, 4) == {
        label: i for i, label in enumerate(["d0", "d4", "d5", "d6", "d7", "d8"])
    }
    assert series.left_out(rows) == " 3 more drafts are in the tables."
    drawn = words(plots.by_draft(rows, 0.0, 4))
    assert [text for text in drawn if text.startswith("d")] == [f"d{i}" for i in range(9)], "the best on top"


def test_coloured_drafts_are_the_best_at_the_page_s_block_size(tmp_path, monkeypatch):
    """They were the best at five, whatever `--block_size` said: the best dots of a page were grey."""
    rows = many(9)
    rows += [
        dataclasses.replace(row, block_size=2, block_efficiency=3 - row.block_efficiency) for row in rows[1:]
    ]
    best = ["d0", "d1", "d2", "d3", "d4", "d8"]
    assert list(series.series_of(rows, 2)) == best
    legend = words(plots.block_efficiency(rows, 0.0, 2))
    assert [text for text in legend if text.startswith("d")] == best
    monkeypatch.setattr(html_page, "MOST_DRAWN", 0)
    page = html_page.report(rows, tmp_path / "r.html", block_size=2).read_text()
    assert set(re.findall(r'class="swatch"[^>]*></span>(d\d)', page)) == set(best)


def test_one_block_size_is_drawn_by_draft_and_several_by_block_size(monkeypatch):
    drawn = []

    def note(name):
        def made(rows, temperature, *more):
            drawn.append(name)
            return "<svg/>"

        return made

    for name in ("block_efficiency", "by_draft", "speedup", "prediction", "per_prompt", "by_position"):
        monkeypatch.setattr(plots, name, note(name))
    for name in ("accepted_lengths", "latency"):
        monkeypatch.setattr(histograms, name, note(name))
    figures.figures(many(3), 4)
    assert {"by_draft"} == {*drawn} & {"by_draft", "block_efficiency", "speedup"}
    drawn.clear()
    figures.figures(simulated.rows(prompts=6, block_sizes=(1, 3)), 3)
    assert {"block_efficiency", "speedup"} == {*drawn} & {"by_draft", "block_efficiency", "speedup"}


def test_a_single_row_has_no_plot_that_would_show_a_single_point():
    (row,) = [row for row in simulated.rows(prompts=6, block_sizes=(1,)) if row.drafter == "distilled"][:1]
    assert [figure.title for figure in figures.figures([row], 1)] == ["Accepted drafts a round, γ = 1"]


def test_a_prediction_is_the_closed_form_of_the_acceptance():
    rows = many(2)
    alpha = rows[1].acceptance_tested
    predicted = (1 - alpha**5) / (1 - alpha)
    close = sum(abs(measured / predicted - 1) <= 0.05 for measured in (1.0, 1.1))
    assert f"within 5% in {close} of 2 cells" in words(plots.prediction(rows, 0.0, 4))
    exact = [dataclasses.replace(row, block_efficiency=predicted) for row in rows[1:]]
    assert "within 5% in 2 of 2 cells" in words(plots.prediction(exact, 0.0, 4))


def test_bars_of_accepted_drafts_are_shares_of_rounds(monkeypatch):
    axes = Figure().subplots()
    monkeypatch.setattr(histograms, "svg", lambda draw, title: draw(axes))
    histograms.accepted_lengths(CROSSED[:2], 0.0, 4)
    row = CROSSED[1]
    none = row.target_calls - row.accepted_at[0]
    heights = [bar.get_height() for bar in axes.patches]
    assert heights[0] == pytest.approx(none / row.target_calls)
    assert sum(i * share for i, share in enumerate(heights)) == pytest.approx(row.accepted / row.target_calls)


def test_latency_is_of_single_requests_and_of_enough_of_them():
    rows = simulated.rows(prompts=24, block_sizes=(4,))
    timed = summary.find(rows, "distilled", 0.0, 4)
    p50 = 1e3 * float(np.median(timed.timing.seconds))
    assert any(f"distilled: p50 {p50:.3g}," in text for text in words(histograms.latency(rows, 0.0, 4)))
    plain = 1e3 * float(np.median(timed.timing.baseline_seconds))
    alone = words(histograms.latency([row for row in rows if row.is_drafted], 0.0, 4))
    assert any(f"no draft: p50 {plain:.3g}," in text for text in alone), "as timed in turns with the draft"
    batched = [dataclasses.replace(row, batch_size=8) for row in rows]
    assert histograms.latency(batched, 0.0, 4) is None, "a batch tells no request's latency"
    assert histograms.latency(simulated.rows(prompts=10, block_sizes=(4,)), 0.0, 4) is None


def scored(row, rule, score, speedup):
    per_prompt = dataclasses.replace(row.per_prompt, score=[score] * row.prompts)
    known = {"speedup": speedup, "speedup_ci95": [speedup - 0.1, speedup + 0.1]}
    return dataclasses.replace(row, verifier=rule, per_prompt=per_prompt, **known)


def test_the_front_is_what_no_other_point_beats_in_both():
    baseline, draft = CROSSED[:2]
    groups = [
        [scored(baseline, "token", 20.0, 1.0), scored(draft, "token", 20.0, 1.5)],
        [scored(baseline, "exponential:0.5", 20.0, 1.0), scored(draft, "exponential:0.5", 18.0, 2.0)],
        [scored(draft, "linear:0.5", 17.0, 1.9)],
    ]
    (found,) = front.fronts(groups)
    assert [point.name for point in found.best] == ["supervised, γ = 4", "exponential:0.5, supervised, γ = 4"]
    assert len(found.points) == 4, "decoding without a draft is one system, whatever the rule"
    assert found.sentence.endswith(
        "supervised, γ = 4 (1.5; 20.0), exponential:0.5, supervised, γ = 4 (2; 18.0)."
    )
    assert "speed-up over no draft" in words(front.draw(found))


def test_lossless_rules_and_one_target_have_no_front():
    """Their quality is equal but for chance, which a front would show as a choice."""
    assert front.fronts([CROSSED]) == []
    assert front.fronts([[dataclasses.replace(row, verifier="exponential:1") for row in CROSSED]]) == []


def test_several_targets_are_compared_by_tokens_a_second():
    rows = [row for row in simulated.rows(prompts=12, block_sizes=(4,)) if row.temperature == 0]
    small = [dataclasses.replace(row, target="small") for row in rows]
    (found,) = front.fronts([rows, small])
    assert found.axes_names == ("tokens a second", "rougeL, mean over prompts")
    timing = rows[1].timing
    point = next(one for one in found.points if one.name == "zoo:wiki_leads/target, supervised, γ = 4")
    assert point.speed.value == pytest.approx(sum(timing.emitted) / sum(timing.seconds))


def test_a_temperature_of_its_baseline_alone_has_no_drawing_and_failures_are_told(capsys):
    rows = [row for row in ROWS if row.temperature == 0 or not row.is_drafted]
    for plot in (plots.block_efficiency, plots.speedup, plots.by_position):
        assert plot(rows, 1.0, 5) is None
        assert plot(rows, 0.0, 5) is not None
    reasons = ["failed"] * 3 + ["length"] * (ROWS[0].prompts - 3)
    failing = [
        dataclasses.replace(r, per_prompt=dataclasses.replace(r.per_prompt, finish_reason=reasons))
        for r in ROWS
    ]
    tables.print_table(failing)
    assert ", 3 failed" in " ".join(capsys.readouterr().out.split())


def test_an_epsilon_of_one_is_lossless_however_it_is_written():
    assert not any(front._is_lossy(rule) for rule in ("token", "linear:1", "linear:1.00", "exponential:1e0"))
    assert front._is_lossy("linear:0.5")
