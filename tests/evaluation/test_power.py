"""Sample sizes against simulated studies, and the share of findings that is chance."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from benchmarks import grid
from distillspec_jax.cli.main import main
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import paired, power, results, sample_size
from distillspec_jax.evaluation.power import Pilot
from tests.evaluation import simulated
from tests.test_release_0_1 import ROOT

STUDIES = 4_000


def studies(units: int, change: float, seed: int) -> tuple[np.ndarray, ...]:
    """Tokens and target calls of two drafts on the same prompts, `[S, N]` each; the truth is 1 + change.

    Prompts are hard or easy for both, and long or short; the draws of the two share nothing else.
    """
    rng = np.random.default_rng(seed)
    shape = (STUDIES, units)
    length = rng.integers(40, 120, shape)
    tokens_a_call = 1.5 + rng.gamma(4.0, 0.35, shape)
    own, other = (rng.lognormal(-0.02, 0.2, shape) for _ in range(2))
    calls = length / (tokens_a_call * own * (1 + change))
    return length, calls, length, length / (tokens_a_call * other)


def rejections(columns: tuple[np.ndarray, ...], level: float = 0.05) -> float:
    """The share of studies whose t-test of the log-ratio rejects, written out in numpy for all at once."""
    a, b, c, d = columns
    sums = [x.sum(1, keepdims=True) for x in columns]
    units = a.shape[1]
    influence = units * (a / sums[0] - b / sums[1] - c / sums[2] + d / sums[3])
    error = influence.std(1, ddof=1) / math.sqrt(units)
    t = np.log(sums[0] * sums[3] / (sums[1] * sums[2]))[:, 0] / error
    return float((np.abs(t) > stats.t.isf(level / 2, units - 1)).mean())


def test_the_number_of_prompts_has_the_power_that_was_asked_for():
    pilot_columns = [x.reshape(-1)[:20_000] for x in studies(20, 0.0, 0)]
    pilot = Pilot.of([pilot_columns[0], pilot_columns[3]], [pilot_columns[1], pilot_columns[2]])
    for change, wanted in ((0.08, 0.8), (0.15, 0.9)):
        units = power.units_needed(change, pilot.spread, wanted=wanted)
        found = rejections(studies(units, change, 1))
        # Four standard errors of a share of 4,000; the log-ratio is not quite normal.
        assert found == pytest.approx(wanted, abs=0.035), (units, found)
        assert rejections(studies(units - units // 4, change, 2)) < wanted - 0.03
        assert rejections(studies(units, 0.0, 3)) == pytest.approx(0.05, abs=0.017)
        visible = power.visible_change(pilot.spread, units, wanted=wanted)
        assert power.visible_change(pilot.spread, units - 1, wanted=wanted) > change >= visible


def test_power_is_that_of_a_t_test():
    """Against draws of normal units, at a number so small that Student's tails matter."""
    spread, units, change = 0.3, 8, 0.35
    draws = np.random.default_rng(0).normal(math.log1p(change), spread, (40_000, units))
    rejected = stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05
    assert power.power(change, spread, units) == pytest.approx(rejected.mean(), abs=0.01)
    assert power.power(0.0, spread, units) == pytest.approx(0.05)
    assert power.units_needed(10.0, spread) == paired.MIN_PROMPTS, "fewer have no interval"


def test_the_delta_method_is_the_jackknife_and_the_bootstrap():
    a, b, c, d = (x[0] for x in studies(60, 0.1, 4))
    pilot = Pilot.of([a, d], [b, c])
    ratio = paired.ratio_of_ratios(a, b, c, d)
    assert math.exp(pilot.log_ratio) == pytest.approx(ratio.value)
    error = pilot.spread / math.sqrt(60)
    assert (math.log(ratio.high) - math.log(ratio.low)) / (2 * 1.96) == pytest.approx(error, rel=0.1)
    without = [
        np.log((a.sum() - a[i]) * (d.sum() - d[i]) / ((b.sum() - b[i]) * (c.sum() - c[i]))) for i in range(60)
    ]
    assert np.std(without, ddof=1) * 59 / math.sqrt(60) == pytest.approx(error, rel=0.05)
    assert pilot.spread < pilot.largest_spread < 1.5 * pilot.spread
    inside = ratio.low <= 1 <= ratio.high
    assert inside == (pilot.p_value > 0.05)


def test_where_nothing_varies_five_prompts_are_enough():
    same = Pilot.of([[4.0] * 6], [[2.0] * 6])
    assert (same.spread, same.largest_spread, same.p_value) == (0.0, 0.0, 0.0)
    assert power.units_needed(0.01, same.spread) == paired.MIN_PROMPTS
    assert power.visible_change(0.0, 6) == 0.0
    assert Pilot.of([[2.0] * 6], [[2.0] * 6]).p_value == 1.0


def test_what_has_no_spread_to_tell_is_refused():
    with pytest.raises(UsageError, match=r"^4 prompts tell no spread: at least 5 are needed$"):
        Pilot.of([[1.0] * 4], [[1.0] * 4])
    with pytest.raises(UsageError, match="nothing was decoded"):
        Pilot.of([[0.0] * 6], [[1.0] * 6])
    with pytest.raises(UsageError, match="needs more than 1,000,000,000 prompts"):
        power.units_needed(1e-6, 1.0)


# --- from rows ---

ROWS = simulated.rows(prompts=20, block_sizes=(1, 5))


def test_every_drafted_row_is_reckoned_alone_and_paired():
    alone = sample_size.requirements(ROWS, 0.05)
    assert len(alone) == 2 * sum(row.is_drafted for row in ROWS)
    one = next(r for r in alone if (r.drafter, r.temperature, r.block_size) == ("control", 1.0, 5))
    row = next(r for r in ROWS if (r.drafter, r.temperature, r.block_size) == ("control", 1.0, 5))
    x, y = np.array(row.per_prompt.emitted), np.array(row.per_prompt.target_calls)
    residual = x - x.sum() / y.sum() * y  # Cochran's variance of a ratio
    assert one.pilot.spread == pytest.approx(residual.std(ddof=1) / x.mean())
    assert one.needed == power.units_needed(0.05, one.pilot.spread)
    assert one.needed < one.at_most
    against = sample_size.requirements(ROWS, 0.05, against="supervised")
    assert {r.drafter for r in against} == {"control / supervised", "distilled / supervised"}
    speed = [r for r in against if r.measure == "speed-up"]
    assert [r.pilot.units for r in speed] == [10] * len(speed), "the timed prompts alone"


def test_the_command_prints_them_and_refuses_what_cannot_be_paired(tmp_path, capsys):
    path, elsewhere = tmp_path / "r.jsonl", tmp_path / "other.jsonl"
    path.write_text("".join(json.dumps(row.to_json()) + "\n" for row in ROWS) + "{half\n")
    others = simulated.rows(prompts=20, block_sizes=(5,), target="another")
    others = [row for row in others if row.drafter in ("none", "control")]
    elsewhere.write_text("".join(json.dumps(row.to_json()) + "\n" for row in others))
    assert main(["power", str(path), "--block_size=5", "--against=supervised", "--change=10"]) == 0
    told = capsys.readouterr().out
    assert f"{path}:{len(ROWS) + 1}: malformed JSON" in told
    assert f"1 lines cannot be read and are left out, {len(ROWS)} rows are used" in told
    assert "distilled / supervised" in " ".join(told.split())
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps(r.to_json()) + "\n" for r in simulated.rows(prompts=4)))
    both = [str(path), str(elsewhere), "--against=supervised"]
    for arguments, said in (
        (both, "supervised was not measured there with target another"),
        ([str(elsewhere), "--against=control"], "control is the only drafter"),
        (
            [str(path), "--against=distiled"],
            "no drafter 'distiled' to compare with: did you mean 'distilled'",
        ),
        ([str(path), "--block_size=4"], "--block_size=4: the pilot has 1, 5"),
        ([str(few)], "4 prompts tell no spread: at least 5 are needed"),
        ([str(path), "--change=0"], "--change=0.0: must lie in"),
        ([str(path), "--power=1"], "--power=1.0: must lie in"),
        ([str(path), "--level=nan"], "--level=nan: must lie in"),
    ):
        assert main(["power", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


# --- many comparisons ---


def test_false_alarms_among_many_comparisons():
    rng = np.random.default_rng(0)
    null = power.findings(rng.random(2_000))
    assert null.expected == 100
    assert null.alone == pytest.approx(100, abs=30)
    assert null.discoveries <= 1
    mixed = power.findings([*rng.random(900), *(1e-6 * rng.random(100))])
    false = mixed.discoveries - 100
    assert 0 <= false <= 15, "about 5 % of what is left"
    # Benjamini and Hochberg by hand: the largest i with p(i) <= i / m * level.
    p = np.sort(rng.beta(0.3, 2.0, 50))
    by_hand = max((i for i in range(1, 51) if p[i - 1] <= i / 50 * 0.05), default=0)
    assert power.findings(p).discoveries == by_hand
    assert power.findings([]).comparisons == 0


def test_the_pages_of_the_grid_say_how_many_are_chance():
    page = (ROOT / "docs" / "results" / "grid.md").read_text()
    page = " ".join(page.split())
    for task in ("wiki_leads", "gsm_symbolic", "office_help_ende"):
        rows = results.read([ROOT / "docs" / "results" / "grid" / task / "results.jsonl"])
        assert grid.comparisons(rows).sentence in page, task
