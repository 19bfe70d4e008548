"""What the rows say: ratios by pair, and sentences that follow the intervals, whatever they are."""

import dataclasses
import json

import numpy as np
import pytest

from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import paired, results, rows, sample_size
from distillspec_jax.reports import summary
from tests.evaluation import simulated
from tests.evaluation.test_rows import CONDITIONS

ROWS = simulated.rows()


def relabelled(names):
    """The simulated rows of some drafters under other names, beside the baseline."""
    return [
        dataclasses.replace(row, drafter={**names, "none": "none"}[row.drafter])
        for row in ROWS
        if row.drafter in {*names, "none"}
    ]


def test_the_file_has_the_agreed_form(tmp_path):
    made = summary.summarise(ROWS)
    summary.write(tmp_path / "summary.json", made)
    read = json.loads((tmp_path / "summary.json").read_text())
    assert read == made
    assert read["task"] == "wiki_leads"
    fields = {"drafter", "temperature", "block_size"}
    fields |= {
        f"{name}{end}"
        for name in ("acceptance_tested", "block_efficiency", "speedup")
        for end in ("", "_ci95")
    }
    assert all(set(row) == fields for row in read["rows"])
    assert len(read["rows"]) == len(ROWS)
    assert list(read["ratios"]) == ["control/supervised", "distilled/supervised", "distilled/control"]
    assert [len(of_pair) for of_pair in read["ratios"].values()] == [8, 8, 8]


def test_ratios_are_of_the_rows_and_their_intervals_are_paired():
    ratio = next(
        r
        for r in summary.summarise(ROWS)["ratios"]["distilled/supervised"]
        if (r["temperature"], r["block_size"]) == (1.0, 5)
    )
    ours, theirs = (summary.find(ROWS, label, 1.0, 5) for label in ("distilled", "supervised"))
    assert ratio["block_efficiency"] == pytest.approx(ours.block_efficiency / theirs.block_efficiency)
    assert ratio["speedup"] == pytest.approx(ours.speedup / theirs.speedup)
    assert ratio["block_efficiency_ci95"][0] < ratio["block_efficiency"] < ratio["block_efficiency_ci95"][1]
    columns = [getattr(row.per_prompt, c) for row in (ours, theirs) for c in ("emitted", "target_calls")]
    assert ratio["block_efficiency_ci95"] == paired.ratio_of_ratios(*columns).ends


def test_a_shared_baseline_cancels_from_the_ratio_of_speedups():
    ours, theirs = (summary.find(ROWS, label, 0.0, 3) for label in ("distilled", "supervised"))
    noisy = [5.0 * seconds for seconds in ours.timing.baseline_seconds]
    same = [
        dataclasses.replace(row, timing=dataclasses.replace(row.timing, baseline_seconds=noisy))
        for row in (ours, theirs)
    ]
    assert summary.speedup_ratio(*same) == pytest.approx(summary.speedup_ratio(ours, theirs))
    untimed = dataclasses.replace(theirs, timing=None)
    assert summary.speedup_ratio(ours, untimed) is None


def test_a_gain_is_called_a_win():
    said = summary.finding(ROWS, 1.0)
    assert said.outcome == summary.WIN
    tau = {label: summary.find(ROWS, label, 1.0, 5).block_efficiency for label in simulated.ACCEPTANCE}
    assert said.sentence.startswith(
        f"At T = 1 and γ = 5, distilled emits {tau['distilled']:.2f} tokens a target call where supervised "
        f"emits {tau['supervised']:.2f}: ×{tau['distilled'] / tau['supervised']:.2f} (95"
    )
    assert "Against control: ×" in said.sentence
    assert "Measured speed-up over no draft: ×" in said.sentence


def test_a_loss_is_called_a_loss_and_chance_is_called_chance():
    worse = summary.finding(relabelled({"distilled": "supervised", "supervised": "distilled"}), 0.0)
    assert worse.outcome == summary.LOSS
    assert ", a loss." in worse.sentence
    even = summary.finding(relabelled({"supervised": "supervised", "control": "distilled"}), 0.0)
    assert even.outcome == summary.NO_DIFFERENCE
    assert ", no difference." in even.sentence


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((1.01, 1.3), summary.WIN),
        ((0.99, 1.3), summary.NO_DIFFERENCE),
        ((1.0, 1.3), summary.NO_DIFFERENCE),
        ((0.7, 1.01), summary.NO_DIFFERENCE),
        ((0.7, 0.99), summary.LOSS),
        ((float("nan"), float("nan")), summary.UNKNOWN),
    ],
)
@pytest.mark.parametrize("value", [0.995, 1.005])
def test_the_interval_decides_and_not_the_value(ends, expected, value):
    assert summary.outcome(paired.Interval(value, *ends)) == expected


def test_the_distilled_draft_is_compared_with_all_others():
    late = relabelled({"supervised": "supervised", "distilled": "distilled", "control": "same time"})
    late.sort(key=lambda row: row.drafter == "same time")
    assert [f"{p.drafter}/{p.against}" for p in summary.pairs(late)] == [
        "same time/supervised",
        "distilled/supervised",
        "distilled/same time",
    ]


def test_a_draft_that_costs_more_than_it_saves_is_said_to():
    slow = []
    for row in relabelled({"supervised": "supervised"}):
        if row.drafter == "supervised":
            row = dataclasses.replace(row, speedup=0.8, speedup_ci95=[0.7, 0.9])
        slow.append(row)
    said = summary.finding(slow, 0.0)
    assert said.outcome == summary.LOSS, "without another draft the outcome is that of the speed"
    assert said.sentence.endswith("; speculation does not pay here.")


def test_a_faster_draft_beside_the_distilled_one_is_named():
    rows = relabelled({"supervised": "supervised", "distilled": "distilled", "control": "shortlisted"})
    fast = [
        dataclasses.replace(row, speedup=9.0, speedup_ci95=[8.0, 10.0])
        if row.drafter == "shortlisted"
        else row
        for row in rows
    ]
    assert summary.finding(fast, 0.0).sentence.endswith(
        "Fastest: shortlisted, ×9.00 (95\u00a0% interval 8.00 to 10.00)."
    )


def test_the_nearest_block_size_stands_in():
    rows = simulated.rows(prompts=10, block_sizes=(2, 8))
    assert summary.nearest_block_size(rows, 5) == 2
    assert summary.nearest_block_size(rows, 6) == 8
    assert summary.finding(rows, 0.0, 8).block_size == 8
    bare = [row for row in rows if row.drafter == "none"]
    assert summary.finding(bare, 0.0).sentence == "At T = 0 no drafter was measured."
    assert summary.summarise(bare)["ratios"] == {}


def test_a_few_prompts_cannot_tell():
    said = summary.finding(simulated.rows(prompts=4), 0.0)
    assert said.outcome == summary.UNKNOWN
    assert "too few prompts to tell" in said.sentence


def test_sets_that_cannot_be_compared_are_refused():
    with pytest.raises(UsageError, match="2 sets of results that cannot be compared"):
        summary.summarise([*ROWS, *simulated.rows(task="gsm_symbolic")])
    with pytest.raises(UsageError, match="0 sets"):
        summary.summarise([])


def test_the_simulation_is_what_it_says():
    """The oracle of this folder: its pooled acceptance is the one asked for."""
    found = simulated.measured(0.6, 5, 200, 0, np.zeros(200))
    row = rows.drafted_row("x", 5, 0.1, found, found, None, CONDITIONS)
    assert row.acceptance_tested == pytest.approx(0.6, abs=0.02)
    assert results.drafters([row]) == ["x"]


def test_rows_of_one_prompt_over_and_over_have_no_interval():
    """64 texts of the empty prompt were 64 independent units."""
    once = [
        dataclasses.replace(r, per_prompt=dataclasses.replace(r.per_prompt, cluster=["x"] * 40)) for r in ROWS
    ]
    found = summary.finding(once, 1.0)
    assert found.outcome == summary.UNKNOWN
    assert found.ratio.value == summary.finding(ROWS, 1.0).ratio.value
    ours, theirs = (summary.find(once, label, 1.0, 5) for label in ("distilled", "supervised"))
    assert summary.speedup_ratio(ours, theirs).ends is None
    with pytest.raises(UsageError, match="1 prompts tell no spread"):
        sample_size.pilot(ours, theirs)


def test_each_temperature_is_about_a_block_size_that_both_drafts_have():
    """A sweep that stopped after γ = 5 at T = 0 said that no drafter was measured at T = 1."""
    stopped = [row for row in ROWS if row.temperature == 0 or row.block_size <= 3]
    assert [summary.finding(stopped, t).block_size for t in (0.0, 1.0)] == [5, 3]
    assert summary.finding(stopped, 1.0).sentence.startswith("At T = 1 and γ = 3, distilled emits")
    sizes = {"supervised": (3,), "distilled": (3, 7), "none": (0,)}
    mixed = [row for row in ROWS if row.block_size in sizes.get(row.drafter, ())]
    found = summary.finding(mixed, 1.0, 7)
    assert (found.block_size, found.measure[:16]) == (3, "block efficiency")
    apart = [row for row in mixed if (row.drafter, row.block_size) != ("distilled", 3)]
    found = summary.finding(apart, 1.0)
    assert (found.block_size, found.ratio) == (
        7,
        summary.find(apart, "distilled", 1.0, 7).interval("speedup"),
    )
    assert found.measure == "measured speed-up of distilled over no draft"
    assert "; supervised cannot be compared with it at any block size." in found.sentences[0]
