"""The drift study: rounds without decoding, accounts of a stream made by hand, a page of rows alone."""

import json

import numpy as np
import pytest

from benchmarks.drift import __main__ as drift
from benchmarks.drift import accounting, greedy, page, traffic
from benchmarks.drift.rows import Rows
from benchmarks.drift.setting import FULL, Phase, Setting
from distillspec_jax.cli import errors
from tests.test_documents import ROOT

COMMITTED = ROOT / "docs" / "results" / "drift"
EMITTED, BEFORE, AFTER = 12, 6, 4


def training(at, version, seconds, alarm=None):
    return {
        "at": at,
        "begins": 0,
        "prompts": 6,
        "alarm_at": alarm,
        "since": alarm,
        "outcome": "passed" if version else "refused",
        "reason": "by hand",
        "version": version,
        "steps": 10,
        "training_seconds": seconds,
        "seconds": seconds,
    }


@pytest.fixture
def rows(tmp_path):
    """Twenty requests, two pools of five prompts; every text has 12 tokens, which take 6 calls, later 4."""
    found = Rows(tmp_path / "study" / "results.jsonl")
    phases = [
        {"begins": "home", "ends": "home", "requests": 5},
        {"begins": "away", "ends": "away", "requests": 10},
        {"begins": "home", "ends": "away", "requests": 5},
    ]
    settings = {
        "old_share": 0.5,
        "intervals": [10, 20],
        "seeds": [0, 1],
        "margin": 0.1,
        "look": 1,
        "waits": 2,
        "steps": 8,
        "pilot_steps": 2,
        "batch_size": 4,
        "prompts": 5,
    }
    found.add(
        "setting",
        phases=phases,
        pools={"home": 5, "away": 5},
        lengths={"inputs": 8, "targets": 12},
        block_size=5,
        words=[["early"], ["late"]],
        **settings,
    )
    for pool in ("home", "away"):
        found.add("texts", pool=pool, emitted=[EMITTED] * 5, held_out=[1, 0, 0, 0, 0])
        found.add("check", pool=pool, prompts=3, equal=3, seconds_a_call=0.5)
    number = [0, 1, 2, 3, 4] * 4
    found.add("stream", seed=0, names=["home", "away"], pool=[0] * 5 + [1] * 10 + [0] * 5, number=number)
    for draft, calls in (("start", BEFORE), ("on alarm v2", AFTER), ("every 10 v2", AFTER)):
        for pool in ("home", "away"):
            counts = {"target_calls": [calls] * 5, "tested": [9] * 5, "accepted": [EMITTED - calls] * 5}
            found.add("counts", seed=0, draft=draft, pool=pool, **counts)
    found.add("training", seed=0, policy="on alarm", **training(8, "v2", 3.0, alarm=6))
    found.add("training", seed=0, policy="every 10", **training(10, "v2", 3.0))
    found.add("training", seed=0, policy="every 10", **training(15, None, 2.0))
    for policy in ("never", "every 10", "on alarm"):
        found.add("run", seed=0, policy=policy)
    return found


def test_accounts_of_a_stream_made_by_hand(rows):
    """From request 8 on each request saves two calls of half a second: one second."""
    never, alarm, fixed = (accounting.account(rows, 0, name) for name in ("never", "on alarm", "every 10"))
    assert alarm.calls_R.tolist() == [6] * 8 + [4] * 12
    assert fixed.calls_R.tolist() == [6] * 10 + [4] * 10
    assert never.calls_R.sum() == 120
    assert alarm.held_out_R.tolist() == [True, False, False, False, False] * 4
    # 3 s spent at request 8, a second saved by each from then on.
    assert accounting.balance(alarm, never, 0.5).tolist() == [0] * 8 + list(range(-2, 10))
    assert accounting.first_pay_back(alarm, never, 0.5) == 3
    assert accounting.paid_back(alarm, never, 0.5) == 10
    # 3 s spent at request 10 and 2 s at 15, which brought nothing: paid when the fifth second is saved.
    assert accounting.balance(fixed, never, 0.5).tolist() == [0] * 10 + [-2, -1, 0, 1, 2, 1, 2, 3, 4, 5]
    assert accounting.paid_back(fixed, never, 0.5) == 12
    assert accounting.first_pay_back(fixed, never, 0.5) == 3
    assert accounting.first_pay_back(never, never, 0.5) is None
    # Requests 5 to 14: 3 of 10 before the new draft, (10 * 12 / 60) against (10 * 12 / (3 * 6 + 7 * 4)).
    assert accounting.ratio([alarm], [never], (5, 15), False).value == pytest.approx(60 / 46)
    # Of these the held-out prompt alone, asked at 5 (before) and at 10 (after).
    assert accounting.ratio([alarm], [never], (5, 15), True).value == pytest.approx(12 / 10)
    assert [value for _, value in accounting.windows(alarm, 8)] == [2.0, 3.0, 3.0]


def test_a_page_is_made_of_rows_alone(rows, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(drift, "run", lambda *_: pytest.fail("a page needs no run"))
    out = tmp_path / "study"
    assert errors.run(drift.main, ["--page", f"--out={out}"], command="drift") == 0
    text = (tmp_path / "study.md").read_text()
    assert text == capsys.readouterr().out.removesuffix("\n")
    assert (out / page.FIGURE).stat().st_size > 10_000
    assert "- **Redistillation on alarm: ×1.30" in text
    assert "Criteria set before the run" in text
    assert "Not run yet: seed 1, every 20 requests." in text
    assert "| on alarm | 1 of 1 | 10 | 3 | 2.50 | 24 | 12 | 3 | 10 |" in text
    assert "| on alarm | 0 | 8 | 1 requests after the start of away; " in text
    assert "; change estimated 1 requests after it | 6 | passed" in text
    assert " | 6 | passed: by hand | 10 | 3 |" in text
    assert errors.run(drift.main, ["--page", "--json", f"--out={out}"], command="drift") == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["seconds"] == {"never": 0, "every 10": 5.0, "on alarm": 3.0}
    assert numbers["against"]["every 10"]["seconds"] == 0.6


def test_a_policy_may_have_ended_on_some_seeds_alone(rows):
    """A seed was left out as a whole; what is compared has the same seeds on both sides."""
    for one in [row for row in rows.found if row["kind"] in ("stream", "counts", "training", "run")]:
        if "every 10" not in (one.get("policy"), one.get("draft", "")[:8]):
            rows.add(one["kind"], **{**{k: v for k, v in one.items() if k != "kind"}, "seed": 1})
    text, numbers = page.write(rows, rows.path.parent)
    assert numbers["seeds"] == [0, 1]
    assert "Not run yet: every 10 requests on seed 1, every 20 requests." in text
    assert "| every 10 (seed 0) | 1 of 2 | 20 | 5 |" in text
    assert "over every 10 requests** (seed 0), at 0.6 times its training time" in text
    assert numbers["against"]["every 10"]["steps"] == [10, 20]
    assert numbers["against"]["every 10"]["seconds"] == 0.6


def test_a_page_without_a_whole_run_is_refused(tmp_path, capsys):
    assert errors.run(drift.main, ["--page", f"--out={tmp_path}"], command="drift") == 2
    assert "run the study first" in capsys.readouterr().err


def test_the_committed_page_is_that_of_the_committed_rows(tmp_path):
    out = tmp_path / COMMITTED.name
    text, numbers = page.write(Rows.read(COMMITTED / "results.jsonl"), out)
    assert text == COMMITTED.with_suffix(".md").read_text()
    assert numbers["seeds"]


@pytest.mark.parametrize(
    ("agrees", "rounds"),
    [
        ("1111111", [(3, 3, 4), (3, 3, 3)]),  # ends within its drafts: no token of the target after them
        ("1111", [(3, 3, 4)]),
        ("110110", [(3, 2, 3), (3, 2, 3)]),
        ("000", [(1, 0, 1)] * 3),
        ("0011", [(1, 0, 1), (1, 0, 1), (2, 2, 2)]),
    ],
)
def test_rounds_of_a_text_without_decoding(agrees, rounds):
    """By hand, at three drafts a round: tested, accepted, emitted."""
    found = greedy.record([letter == "1" for letter in agrees], 3)
    assert (found.tested, found.accepted, found.emitted_tokens) == tuple(map(sum, zip(*rounds, strict=True)))
    assert found.target_calls == len(rounds)
    assert not list(found.violations(3))


def test_topics_tell_two_kinds_of_texts_apart():
    families = (("river", "lake", "water", "mountain"), ("opera", "singer", "music", "stage"))
    texts = [f"{words[i % 4]} {words[(i + 1) % 4]}" for i in range(20) for words in families]
    found = traffic.topics(texts)
    halves = {tuple(sorted({int(i) % 2 for i in half})) for half in (found.order[:20], found.order[20:])}
    assert halves == {(0,), (1,)}
    assert all(set(family) in (set(end[:4]) for end in found.words) for family in families)


def test_a_stream_turns_and_drifts():
    phases = (Phase("a", "a", 100), Phase("b", "b", 50), Phase("a", "b", 1000))
    setting = Setting(phases=phases, pools={"start": 3, "a": 7, "b": 9}, lengths={})
    names, stream_R2 = traffic.stream(setting, 0)
    assert names == ["a", "b"]
    pool_R, number_R = stream_R2.T
    assert pool_R[:150].tolist() == [0] * 100 + [1] * 50
    assert pool_R[150:400].mean() < 0.25 < 0.75 < pool_R[900:].mean()
    assert [number_R[pool_R == pool].max() for pool in (0, 1)] == [6, 8]
    assert not np.array_equal(traffic.stream(setting, 1)[1], stream_R2)


def test_the_study_has_the_size_that_was_asked_for():
    assert FULL.requests >= 20_000
    assert list(FULL.policies) == ["never", "on alarm", "every 10,000", "every 5,000", "every 2,500"]
