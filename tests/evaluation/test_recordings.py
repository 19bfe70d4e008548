"""Answers and counters that engines really gave: `watch` reads the same counts from both."""

import json

import pytest

from benchmarks.engines import counters
from benchmarks.engines.replay import replayed
from distillspec_jax.acceptance import PartialRecord
from tests.test_documents import ROOT

RECORDED = ROOT / "tests" / "fixtures" / "engines" / "recorded"


def lines(engine: str) -> list[dict]:
    return [json.loads(line) for line in (RECORDED / engine / "answers.jsonl").read_text().splitlines()]


def test_llama_cpps_counters_are_the_sums_of_its_answers():
    timings = [line["timings"] for line in lines("llama.cpp")]
    answers, counted = counters.read(RECORDED / "llama.cpp")
    for record in (answers, counted):
        assert record.drafted == sum(one.get("draft_n", 0) for one in timings) > 0
        assert record.accepted == sum(one.get("draft_n_accepted", 0) for one in timings) > 0
    assert sum(counted.accepted_at) == counted.accepted
    assert (answers.target_calls, answers.tested, counted.tested) == (None, None, None)
    # A text's first token comes from reading its prompt; a round adds a token to what it accepts.
    tokens = sum(one["predicted_n"] for one in timings)
    assert 0 <= tokens - len(timings) - counted.accepted - counted.target_calls <= len(timings)


def test_vllms_counters_are_the_sums_of_its_answers():
    told = [line["metrics"]["speculative_decoding"] for line in lines("vllm") if "metrics" in line]
    told = [one for one in told if one]
    answers, counted = counters.read(RECORDED / "vllm")
    for record in (answers, counted):
        assert record.target_calls == sum(one["num_spec_steps"] for one in told)
        assert record.drafted == sum(one["num_draft_tokens"] for one in told)
        assert record.accepted == sum(one["num_accepted_draft_tokens"] for one in told) > 0
    assert answers.accepted_at == counted.accepted_at
    # Tested: by each step from the answers, and by the rounds that accepted all from the counters.
    steps = [
        pair
        for one in told  # a text of one token has no steps
        for pair in zip(one.get("per_step_accepted", []), one.get("per_step_drafted", []), strict=True)
    ]
    assert answers.tested == sum(min(j + 1, k) for j, k in steps) == counted.tested


@pytest.mark.parametrize("engine", ["llama.cpp", "vllm"])
def test_a_request_that_is_missing_shows(engine, tmp_path):
    """The command would end with 1: the counters hold a request that the answers do not."""
    for name in ("answers.jsonl", "scrapes.txt"):
        text = (RECORDED / engine / name).read_text()
        (tmp_path / name).write_text(text[text.index("\n") + 1 :] if name == "answers.jsonl" else text)
    assert "accepted" in counters.differing(*counters.read(tmp_path))
    assert counters.differing(*counters.read(RECORDED / engine)) == []


def test_what_an_engine_counts_of_our_rounds_is_reckoned_to_the_end_of_its_text():
    """By hand, blocks of 3: a token from the prompt; then 2, none and 3 drafts of a round are right."""

    def of(tokens: int, limit: int, room: bool) -> PartialRecord:
        return replayed([2, 0, 3, 3], tokens=tokens, limit=limit, block_size=3, room=room)

    # 1 + (2 + 1) + (0 + 1) = 5 tokens; three more: two drafts and the target's, or all of three drafts.
    rounds = {"target_calls": 3}
    assert of(8, 8, room=True) == PartialRecord(**rounds, drafted=8, accepted=4, accepted_at=(2, 2, 0))
    assert of(8, 8, room=False) == PartialRecord(**rounds, drafted=9, accepted=5, accepted_at=(2, 2, 1))
    # One token short of the limit nothing is drafted, and the token is no round's.
    assert of(6, 6, room=True) == PartialRecord(target_calls=2, drafted=4, accepted=2, accepted_at=(1, 1, 0))
    # An end of text within the last block: what was drafted behind it is counted, too.
    assert of(6, 20, room=True) == PartialRecord(**rounds, drafted=9, accepted=5, accepted_at=(2, 2, 1))
    with pytest.raises(ValueError, match="rounds for 13 tokens, but a text of 14"):
        of(14, 20, room=True)
