"""Prompts to distil on: what is read of logs, what is held out, and what is remembered."""

import json
import random

import pytest

from distillspec_jax.distillation.deployment import Deployment
from distillspec_jax.errors import UsageError
from distillspec_jax.operations import prompts
from distillspec_jax.operations.asked_training import TrainingPlan
from distillspec_jax.operations.prompts import Prompt


def some(count: int, start: int = 0, **fields) -> list[Prompt]:
    return [Prompt(inputs=f"question {i}", **fields) for i in range(start, start + count)]


def test_lines_of_a_log_are_read_or_set_aside_by_name(tmp_path):
    log = tmp_path / "log.jsonl"
    lines = [
        {"inputs": "a", "outputs": "b", "temperature": 1},
        {"outputs": "the prompt was not kept"},
        {"inputs": "a", "outputs": "c"},
        {"inputs": " "},
        {"inputs": 5},
        {"inputs": "d", "outputs": None, "temperature": 0.5},
        {"inputs": "e"},
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '["x"]\n{"inputs": "cut')
    found = prompts.read_logs([str(log)])
    assert [(one.inputs, one.outputs) for one in found.prompts] == [("a", "b"), ("d", ""), ("e", "")]
    assert found.samplings == {Deployment(1.0), Deployment(0.5)}
    assert found.notes == {
        "lines without a prompt": 1,
        "prompts that were there before": 1,
        "lines whose prompt is empty or no text": 2,
        "lines that are no JSON objects": 2,
    }


def test_a_text_that_was_cut_short_is_no_reference(tmp_path):
    """Drafts were trained to stop where a limit, a client or a stop string had ended a text."""
    log = tmp_path / "log.jsonl"
    reasons = ("eos", "length", "cancelled", "stop", None)
    lines = [{"inputs": f"{one}", "outputs": "b", "finish_reason": one} for one in reasons[:-1]]
    log.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"inputs": "None", "outputs": "b"}]))
    found = prompts.read_logs([str(log)])
    assert {one.inputs for one in found.prompts if one.outputs} == {"eos", "None"}
    assert len(found.prompts) == 5
    assert found.notes == {prompts.CUT: 3}


@pytest.mark.parametrize(
    ("samplings", "temperature", "expected"),
    [
        ([(0.8, 20, 0.9)], None, Deployment(0.8, 20, 0.9)),  # it was judged at top_k=0, top_p=1
        ([(0.8, 20, 0.9)], 0.5, Deployment(0.5, 20, 0.9)),
        ([(0.8, 20, 0.9), (0.5, 0, 1.0)], 0.8, Deployment(0.8, 20, 0.9)),
        ([(0, 20, 0.9), (0, 0, 1)], None, Deployment(0.0)),
        ([(0.8, 20, 0.9), (0.8, 0, 1.0)], None, r"several distributions \(T0.8, T0.8_k20_p0.9\)"),
        ([(0.8, 20, 0.9), (0.5, 20, 0.9)], None, r"several temperatures \(0.5, 0.8\)"),
        ([], None, Deployment(1.0)),
        ([("warm", 0, 1)], None, Deployment(1.0)),
    ],
)
def test_the_distribution_of_the_service_is_that_of_its_lines(tmp_path, samplings, temperature, expected):
    log = tmp_path / "log.jsonl"
    names = ("temperature", "top_k", "top_p")
    lines = [dict(zip(names, one, strict=True)) for one in samplings] or [{}]
    log.write_text("".join(json.dumps({"inputs": f"{i}"} | line) + "\n" for i, line in enumerate(lines)))
    plan, asked = TrainingPlan(temperature=temperature), prompts.read_logs([str(log)])
    if isinstance(expected, str):
        with pytest.raises(UsageError, match=expected):
            plan.sampling_of(asked)
    else:
        assert plan.sampling_of(asked) == expected


def test_a_log_that_kept_no_prompts_is_refused(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"outputs": "b"}\n' * 3)
    with pytest.raises(
        UsageError, match=r"no prompts in 3 lines \(3 lines without a prompt\): to distil again"
    ):
        prompts.read_logs([str(log)])


def test_a_prompt_is_held_out_by_its_text_alone():
    """By `hash`, which changes with each process, tomorrow's training would see today's test."""
    texts = [one.inputs for one in some(5_000) if one.held_out]
    assert 0.18 < len(texts) / 5_000 < 0.22
    # `printf 'question 1' | sha256sum` begins with 0 to 3332, a fifth of ffff.
    assert texts[:4] == ["question 1", "question 11", "question 13", "question 18"]


def test_a_sample_does_not_depend_on_order_or_repetition(tmp_path, monkeypatch):
    """What a killed run had added came twice, or pushed others out."""
    monkeypatch.setattr(prompts, "KEPT", 50)
    batches = [some(40, start, since=f"v{i}") for i, start in enumerate(range(0, 400, 40))]
    paths = [tmp_path / name for name in ("straight", "shuffled")]
    for batch in batches:
        prompts.write_sample(paths[0], prompts.read_sample(paths[0]), batch)
    random.Random(0).shuffle(batches)
    for batch in [batches[0], *batches]:
        prompts.write_sample(paths[1], prompts.read_sample(paths[1]), batch)
    assert paths[0].read_text() == paths[1].read_text()
    kept = prompts.read_sample(paths[0])
    assert len(kept) == 50
    assert len({one.since for one in kept}) >= 8  # not those of the last batches
    assert 0.05 < sum(one.held_out for one in kept) / 50 < 0.4  # which ones are held out is independent


def test_what_was_sampled_for_a_version_that_never_came_is_not_old():
    """A refused run's prompts became old ones, on which no draft had ever been trained."""
    asked = some(10)
    sample = [*some(3, since="v1"), *some(3, 5, since="v2"), *some(2, 100, since="v1")]
    new, old = prompts.apart(asked, sample, ["v1"])
    assert [one.inputs for one in new] == [f"question {i}" for i in range(3, 10)]
    assert [one.inputs for one in old] == [f"question {i}" for i in (0, 1, 2, 100, 101)]


@pytest.mark.parametrize(("share", "old"), [(0.0, 0), (0.2, 5), (0.5, 20), (0.75, 60)])
def test_the_mixture_has_the_share_of_old_prompts_that_was_asked_for(share, old):
    found = prompts.mixed(some(20), some(7, 100), share)
    assert len(found) == 20 + old
    counts = [sum(one.inputs == f"question {i}" for one in found) for i in range(100, 107)]
    assert max(counts) - min(counts) <= 1
