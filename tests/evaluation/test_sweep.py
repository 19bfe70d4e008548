"""The sweep on a tiny random pair: what it writes, what it does not measure twice, what it refuses."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import results
from distillspec_jax.evaluation.measured import Workload
from distillspec_jax.evaluation.sweep import RESULTS, sweep
from distillspec_jax.model_card import ModelCard
from tests.evaluation import tiny

PROMPTS, TIMED, GAMMA = 7, 5, 2
TARGET, DRAFT = tiny.model("target", 0), tiny.model("draft", 1)
SETTINGS = {
    "task": "wiki_leads",
    "limit": PROMPTS,
    "block_sizes": (GAMMA,),
    "max_new_tokens": 9,
    "timing_prompts": TIMED,
}


def run(directory, drafts=None, **changes):
    """Rows by (drafter, temperature), and the drafters of the cells that were measured now."""
    measured = []

    def note(progress):
        if progress.row is not None:
            measured.append((progress.row.drafter, progress.row.temperature))

    drafts = {"other": DRAFT, "self": TARGET} if drafts is None else drafts
    rows = sweep(TARGET, drafts, output_dir=directory, progress=note, **{**SETTINGS, **changes})
    return {(row.drafter, row.temperature): row for row in rows}, measured


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sweep")
    rows, measured = run(directory)
    assert len(measured) == len(rows) == 6
    return directory, rows


def test_the_file_holds_the_rows(done):
    directory, rows = done
    read = results.read([directory / RESULTS])
    assert sorted(read, key=str) == sorted(rows.values(), key=str)
    assert {row.drafter for row in read} == {"none", "other", "self"}


def test_the_baseline_emits_a_token_a_call(done):
    for temperature in (0.0, 1.0):
        row = done[1]["none", temperature]
        assert (row.block_efficiency, row.speedup, row.block_size) == (1.0, 1.0, 0)
        assert row.target_calls == row.emitted_tokens == sum(row.per_prompt.emitted)


def test_greedy_outputs_are_the_baselines(done):
    rows = done[1]
    for drafter in ("other", "self"):
        row = rows[drafter, 0.0]
        assert row.matches_autoregressive == row.prompts == PROMPTS
        assert row.emitted_tokens == rows["none", 0.0].emitted_tokens
        assert row.quality == rows["none", 0.0].quality
        assert rows[drafter, 1.0].matches_autoregressive is None
    assert "rougeL" in rows["self", 0.0].quality


def test_a_draft_that_is_the_target_is_always_accepted(done):
    for temperature in (0.0, 1.0):
        row = done[1]["self", temperature]
        assert row.acceptance_tested == 1.0
        assert row.block_efficiency > done[1]["other", temperature].block_efficiency
        assert row.cost_ratio == 1.0
        assert row.mbsu == pytest.approx(row.block_efficiency / (GAMMA + 1))


def test_totals_are_the_sums_of_the_prompts(done):
    for row in done[1].values():
        for total, column in (
            ("emitted_tokens", "emitted"),
            ("target_calls", "target_calls"),
            ("tested", "tested"),
            ("accepted", "accepted"),
        ):
            assert getattr(row, total) == sum(getattr(row.per_prompt, column))
            assert len(getattr(row.per_prompt, column)) == PROMPTS
        if row.block_size:
            assert row.acceptance_tested == row.accepted / row.tested
            assert row.block_efficiency == row.emitted_tokens / row.target_calls
            assert sum(row.acceptance_joint) == pytest.approx(row.accepted / row.target_calls)
            assert row.acceptance_joint[0] >= row.acceptance_joint[1]


def test_the_timed_prompts_are_the_first_of_the_counted_ones(done):
    for row in done[1].values():
        assert len(row.timing.seconds) == len(row.timing.baseline_seconds) == TIMED
        assert row.timing.emitted == row.per_prompt.emitted[:TIMED]
        assert row.seconds == pytest.approx(sum(row.timing.seconds))
        assert all(seconds > 0 for seconds in row.timing.seconds)
    row = done[1]["other", 1.0]
    speed = row.baseline_seconds / sum(row.timing.baseline_emitted)
    assert row.speedup == pytest.approx(speed / (row.seconds / sum(row.timing.emitted)))
    assert row.speedup_ci95[0] <= row.speedup <= row.speedup_ci95[1]


def test_rows_say_how_they_came_about(done):
    row = done[1]["other", 1.0]
    expected = {"task": "wiki_leads", "split": "test", "target": "target", "drafter_path": "draft"}
    expected |= {"verifier": "token", "batch_size": 1, "seed": 0, "prompts": PROMPTS, "max_new_tokens": 9}
    assert {field: getattr(row, field) for field in expected} == expected
    assert row.device.startswith("cpu")
    assert row.command
    assert {"command", "git_revision"} <= row.to_json().keys()


def test_a_second_run_measures_nothing(done):
    directory, rows = done
    before = (directory / RESULTS).read_bytes()
    again, measured = run(directory)
    assert measured == []
    assert again == rows
    assert (directory / RESULTS).read_bytes() == before


def test_an_interrupted_run_goes_on_where_it_stopped(done, tmp_path):
    lines = (done[0] / RESULTS).read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["drafter"] != "self"]
    (tmp_path / RESULTS).write_text("".join(kept) + lines[-1][:300])
    rows, measured = run(tmp_path)
    assert measured == [("self", 0.0), ("self", 1.0)]
    assert len(results.read([tmp_path / RESULTS])) == 6
    for cell, row in done[1].items():
        assert rows[cell].per_prompt == row.per_prompt, "the same seed draws the same tokens"
    assert rows["self", 0.0].matches_autoregressive == PROMPTS


def test_a_draft_that_was_trained_again_is_measured_again(done, tmp_path):
    (tmp_path / RESULTS).write_bytes((done[0] / RESULTS).read_bytes())
    drafts = {"other": tiny.retrained(DRAFT, 2), "self": TARGET}
    rows, measured = run(tmp_path, drafts)
    assert measured == [("other", 0.0), ("other", 1.0)]
    assert rows["other", 1.0].per_prompt != done[1]["other", 1.0].per_prompt
    (group,) = results.groups(results.read([tmp_path / RESULTS]))
    assert rows["other", 1.0] in group
    assert done[1]["other", 1.0] not in group, "the older measurement of the cell no longer counts"


def test_a_draft_with_another_shortlist_is_measured_again(tmp_path):
    once = {"temperatures": (1.0,), "timing_prompts": 0}
    for ids, again in (([1, 300], True), ([1, 400], True), ([1, 400], False)):
        listed = dataclasses.replace(DRAFT, card=dataclasses.replace(DRAFT.card, shortlist=ids))
        assert (("other", 1.0) in run(tmp_path, {"other": listed}, **once)[1]) is again


def test_a_users_own_prompts_in_batches_untimed_with_overlap(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"inputs": f"number {i}", "targets": "x"}) + "\n" for i in range(4)))
    changes = {"task": None, "inputs": path, "batch_sizes": (3,), "measure_overlap": True}
    rows, _ = run(tmp_path, timing_prompts=0, **changes)
    greedy, drawn = rows["other", 0.0], rows["other", 1.0]
    assert (greedy.task, greedy.split, greedy.prompts, greedy.quality) == ("mine", None, 4, {})
    assert greedy.speedup is greedy.timing is greedy.seconds is None
    assert greedy.matches_autoregressive == 4
    assert rows["self", 1.0].overlap == pytest.approx(1.0, abs=1e-5)
    assert 0 < drawn.overlap < 1
    assert drawn.overlap == pytest.approx(sum(drawn.per_prompt.overlap) / drawn.tested)
    assert greedy.overlap == pytest.approx(greedy.acceptance_tested), "at T = 0 both ask for equal argmaxes"


def test_rules_and_batch_sizes_are_tables_of_their_own(tmp_path, monkeypatch):
    untimed = {"timing_prompts": 0, "limit": 4, "temperatures": (1.0,)}
    decoded, decode = [], Workload.decode
    monkeypatch.setattr(Workload, "decode", lambda *asked: decoded.append(1) or decode(*asked))
    run(tmp_path, {"other": DRAFT}, rules=("token", "exponential:0.01"), batch_sizes=(4,), **untimed)
    assert len(decoded) == 3, "without a draft there is no rule: one baseline is that of both"
    measured, _ = run(tmp_path, {"text": "lookup"}, **untimed)
    groups = results.groups(results.read([tmp_path / RESULTS]))
    assert [len(group) for group in groups] == [2] * 3
    conditions = [(group[0].verifier, group[0].batch_size) for group in groups]
    assert conditions == [("token", 4), ("exponential:0.01", 4), ("token", 1)]
    strict, lenient = (group[-1].acceptance_tested for group in groups[:2])
    assert lenient > strict + 0.1
    text = measured["text", 1.0]
    assert (text.cost_ratio, text.drafter_path) == (0.0, "lookup")
    assert text.mbsu == text.block_efficiency


def test_prompts_of_logits_that_are_not_finite_are_told_and_a_target_that_has_no_others_is_refused(
    tmp_path, monkeypatch
):
    said, decode = [], Workload.decode
    settings = SETTINGS | {"timing_prompts": 0, "temperatures": (0.0,)}

    def one_fails(*asked):
        first, *others = decode(*asked)
        return [dataclasses.replace(first, finish_reason="failed"), *others]

    with monkeypatch.context() as patch:
        patch.setattr(Workload, "decode", one_fails)
        sweep(TARGET, {"other": DRAFT}, output_dir=tmp_path, progress=said.append, **settings)
    told = [progress.doing for progress in said if "failed" in progress.doing]
    assert told == ["1 of 7 prompts failed: the target's logits were not finite"] * 2
    broken = dataclasses.replace(TARGET, params=jax.tree.map(lambda x: x * np.nan, TARGET.params))
    with pytest.raises(UsageError, match="target target: its logits were not finite, on all 7 prompts"):
        sweep(broken, {"other": DRAFT}, output_dir=tmp_path / "broken", **settings)
    assert not (tmp_path / "broken" / RESULTS).exists()


FOREIGN = dataclasses.replace(
    DRAFT, name="foreign", card=ModelCard(DRAFT.card.family, DRAFT.card.config, "0" * 64)
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_sizes": (0,)}, "block_size is 0, must be a whole number of at least 1"),
        ({"block_sizes": (2, 2)}, r"block_sizes is \[2, 2\]: a value occurs twice"),
        ({"block_sizes": ()}, "block_sizes is empty"),
        ({"temperatures": (-0.5,)}, "temperature is -0.5, must be 0 or more"),
        ({"top_p": 0.0}, "top_p is 0.0, must be in"),
        ({"batch_sizes": (0,)}, "batch_size is 0, must be a whole number of at least 1"),
        ({"rules": ("blok",)}, "unknown rule 'blok': did you mean 'block'"),
        ({"rules": ("linear:x",)}, "rule 'linear:x': 'x' is no number; write NAME or NAME:EPSILON"),
        ({"rules": ("linear:2",)}, "epsilon is 2.0, must"),
        ({"rules": ("greedy",)}, "rule 'greedy' was removed: rule 'token' at temperature 0 keeps the same"),
        ({"limit": 0}, "limit is 0"),
        ({"timing_prompts": -1}, "timing_prompts is -1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"task": "wiki_lead"}, "unknown task 'wiki_lead': did you mean 'wiki_leads'"),
        ({"task": None}, "target names no task"),
        ({"split": "tset"}, "no split 'tset': did you mean 'test'"),
        ({"drafts": {"none": DRAFT}}, "'none' means decoding without a draft"),
        ({"drafts": {"other": FOREIGN}}, "draft foreign has another vocabulary than target target"),
        ({"drafts": {"other": "no/such/model"}}, "no/such/model is not a checkpoint directory"),
    ],
)
def test_bad_values_end_in_one_line_and_write_nothing(changes, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        run(tmp_path, **changes)
    assert not (tmp_path / RESULTS).exists()
