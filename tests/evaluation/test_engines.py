"""Readers of other engines, on outputs as their documentation has them; the counts are added up by hand."""

import json

import pytest

from distillspec_jax.acceptance import PartialRecord
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import served_files
from distillspec_jax.evaluation.engines.differences import Differences
from distillspec_jax.evaluation.engines.registry import body, engine_of
from tests.test_documents import ROOT

FIXTURES = ROOT / "tests" / "fixtures" / "engines"


def answers(name: str, block_size: int | None = None) -> list[PartialRecord | None]:
    found = []
    for number, text in enumerate((FIXTURES / name).read_text().splitlines(), start=1):
        line = json.loads(text)
        answer = engine_of(line, name).answer(body(line), f"{name}:{number}", block_size)
        found.append(None if answer is None else answer.record)
    return found


def intervals(name: str, block_size: int | None = None) -> list[PartialRecord]:
    engine, scrapes = served_files.counters(served_files.news(str(FIXTURES / name), []), None)
    return [one.record for _, one in Differences().intervals(scrapes, engine.counters, block_size)]


def test_vllm_tells_what_was_tested_by_the_length_of_each_draft():
    first, second, nothing = answers("vllm_answers.jsonl")
    # 39 rounds tested 1 draft, 1 round 2, 3 rounds all 3
    assert first == PartialRecord(
        target_calls=43, drafted=129, accepted=10, tested=50, tested_at=[43, 4, 3], accepted_at=(4, 3, 3)
    )
    # of 1 draft all, of 2 drafts none and all: 1 + 1 + 2 tested
    assert second == PartialRecord(
        target_calls=3, drafted=5, accepted=3, tested=4, tested_at=[3, 1, 0], accepted_at=(2, 1, 0)
    )
    assert nothing is None


@pytest.mark.parametrize("name", ["vllm_metrics.txt", "query_range.json"])
def test_vllms_counters_are_the_sums_of_its_answers(name):
    (found,) = intervals(name)
    (answer, *_) = answers("vllm_answers.jsonl")
    for field in ("target_calls", "drafted", "accepted", "tested", "accepted_at"):
        assert getattr(found, field) == getattr(answer, field), field
    assert (found.emitted_tokens, found.tested_at, found.texts) == (None, None, None)


def test_llama_cpp_tells_rounds_only_where_it_says_so_and_nothing_of_tests():
    first, second, nothing = answers("llama_cpp_answers.jsonl")
    assert first == PartialRecord(drafted=17, accepted=10)
    assert second == PartialRecord(drafted=12, accepted=9, target_calls=4)
    assert nothing is None
    (counted,) = intervals("llama_cpp_metrics.txt")
    assert (counted.target_calls, counted.drafted, counted.accepted, counted.tested) == (16, 48, 30, None)
    assert counted.accepted_at == (14, 10, 6)
    assert intervals("llama_cpp_metrics.txt", block_size=3)[0].tested == 16 + 30 - 6
    assert intervals("llama_cpp_metrics.txt", block_size=4)[0].tested is None  # not all rounds were full


def test_sglang_has_a_token_of_the_prompts_more_than_its_rounds_emitted():
    first, second, nothing = answers("sglang_answers.jsonl")
    assert (first.target_calls, first.drafted, first.accepted, first.emitted_tokens) == (2, 3, 2, 4)
    assert (first.tested, first.accepted_at) == (None, (1, 1))  # 3 drafts in 2 rounds: of unequal size
    assert (second.target_calls, second.drafted, second.accepted, second.emitted_tokens) == (2, 6, 2, None)
    assert answers("sglang_answers.jsonl", block_size=3)[1].tested == 2 + 2 - 0
    assert nothing is None
    (counted,) = intervals("sglang_metrics.txt")
    assert counted == PartialRecord(texts=10, target_calls=100, emitted_tokens=300)
    assert counted.value("block_efficiency") == 3.0


def test_tensorrt_llm_in_records_choices_and_counters():
    worker, split, choice, nothing = answers("tensorrt_llm_answers.jsonl")
    assert worker == PartialRecord(drafted=24, accepted=12)
    assert split == PartialRecord(drafted=4, accepted=1)
    assert choice == PartialRecord(
        target_calls=5, drafted=20, accepted=9, tested=5 + 9 - 2, accepted_at=(3, 2, 2, 2)
    )
    assert nothing is None
    (counted,) = intervals("tensorrt_llm_metrics.txt")
    # 20 rounds of 2 drafts, 15 and 9 accepted
    assert (counted.target_calls, counted.drafted, counted.accepted, counted.tested) == (20, 40, 24, 35)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("vllm", '"num_spec_steps": 43', '"num_spec_steps": 44', "43 rounds, but 44 rounds"),
        ("vllm", '"num_accepted_draft_tokens": 10', '"num_accepted_draft_tokens": 11', "by the histogram"),
        ("vllm", '"num_draft_tokens": 129', '"num_draft_tokens": 9', "10 drafts accepted of 9"),
        ("vllm", '{"3": [39', '{"4": [39', "has an entry '4'"),
        ("vllm", '{"3": [39', '{"3": [38', "has other counts than its sums"),
        ("vllm", '"num_spec_steps": 43, ', "", "it has no field 'num_spec_steps'"),
        ("llama_cpp", '"draft_n_accepted": 10', '"draft_n_accepted": 18', "18 drafts accepted of 17"),
        ("llama_cpp", '"draft_n": 17', '"draft_n": -1', "field draft_n: expected"),
        ("sglang", '"spec_verify_ct": 2', '"spec_verify_ct": 3', "2 rounds, but 3 rounds"),
        ("tensorrt_llm", '"total_draft_tokens": 24', '"total_draft_tokens": "x"', "field total_draft_tokens"),
    ],
)
def test_counts_that_contradict_each_other_are_refused_by_their_line(name, old, new, message):
    text = (FIXTURES / f"{name}_answers.jsonl").read_text().splitlines()[0]
    if '{"' not in old:
        text = text.replace('{"3": [39, 1, 0, 3]}', "null")  # the sums alone
    assert old in text
    line = json.loads(text.replace(old, new))
    with pytest.raises(UsageError, match=message) as raised:
        engine_of(line, "x:1").answer(line, "x:1", None)
    assert str(raised.value).startswith("x:1")


def test_what_a_record_does_not_tell_is_not_known_of_a_sum():
    told = PartialRecord(drafted=3, accepted=2, target_calls=1)
    total = PartialRecord.total([told, PartialRecord(drafted=5, accepted=1)])
    assert (total.texts, total.drafted, total.accepted, total.target_calls) == (2, 8, 3, None)
    assert (total.uncut, total.sums("block_efficiency"), told.uncut) == (None, None, 3)
    assert total.value("acceptance_drafted") == 3 / 8
