"""Counters between scrapes: restarts, repetitions, late scrapes, clocks that jump."""

import json

import pytest

from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation.engines import differences, scrapes
from distillspec_jax.evaluation.engines.differences import Differences

NAMES = ("drafts", "draft_tokens", "accepted_tokens")


def scrape(drafts: int, accepted: tuple[int, int], at: float | None = None, **labels: str) -> str:
    """A scrape of rounds of two drafts."""
    told = {"engine": "0", "model_name": "m", **labels}
    sums = (drafts, 2 * drafts, sum(accepted))
    lines = [] if at is None else [f"# scraped_at {at}"]
    inner = ",".join(f'{name}="{value}"' for name, value in told.items())
    lines += [f"vllm:spec_decode_num_{n}_total{{{inner}}} {v}" for n, v in zip(NAMES, sums, strict=True)]
    at_position = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
    lines += [f'{at_position}{{{inner},position="{i}"}} {v}' for i, v in enumerate(accepted)]
    return "\n".join(lines) + "\n"


def played(*texts: str, seen: Differences | None = None) -> tuple[list[tuple[int, int]], dict[str, int]]:
    """Rounds and tested drafts of every interval, and what was noted."""
    seen = seen or Differences()
    engine, found = scrapes.of_text("".join(texts).split("\n"), "m.txt", None)
    counted = [one.record for _, one in seen.intervals(found, engine.counters, None)]
    return [(one.target_calls, one.tested) for one in counted], dict(seen.notes)


def test_the_first_scrape_is_where_counting_begins():
    assert played(scrape(10, (5, 2))) == ([], {})
    # 10 rounds more, of which 3 accepted both: 10 + (5 + 3) - 3 tested
    assert played(scrape(10, (5, 2)), scrape(20, (10, 5))) == ([(10, 15)], {})


def test_what_was_counted_around_a_restart_is_left_out():
    found = played(scrape(10, (5, 2)), scrape(3, (1, 0)), scrape(5, (2, 1)))
    assert found == ([(2, 2 + 2 - 1)], {differences.RESTARTED: 1})


def test_scrapes_in_which_nothing_moved_are_counted_and_change_nothing():
    found = played(scrape(10, (5, 2)), scrape(10, (5, 2)), scrape(12, (6, 3)))
    assert found == ([(2, 3)], {differences.REPEATED: 1})


def test_a_late_scrape_is_no_restart_if_its_clock_tells():
    texts = (
        scrape(10, (5, 2), 100),
        scrape(30, (9, 4), 300),
        scrape(20, (7, 3), 200),
        scrape(40, (12, 6), 400),
    )
    assert played(*texts) == ([(20, 24), (10, 13)], {differences.LATE: 1})


def test_a_clock_that_went_back_does_not_stop_the_counters():
    texts = scrape(10, (5, 2), 1000), scrape(20, (8, 4), 900), scrape(30, (11, 5), 950)
    assert played(*texts) == ([(10, 13), (10, 13)], {differences.CLOCK: 1})


def test_a_replica_that_is_seen_first_has_counted_nobody_knows_since_when():
    other = {"engine": "1"}
    before, both = scrape(10, (5, 2)), scrape(20, (8, 4)) + scrape(500, (400, 300), **other)
    after = scrape(30, (11, 5)) + scrape(510, (405, 302), **other)
    # A series that comes again begins a scrape; those of a second engine do not.
    assert played(before, both, after)[0] == [(10, 13), (20, 20 + 8 + 3 - 3)]


def test_scrapes_go_on_from_what_was_seen_before():
    seen = Differences()
    assert played(scrape(10, (5, 2), 1), seen=seen)[0] == []
    assert played(scrape(20, (8, 4), 2), seen=seen)[0] == [(10, 13)]
    kept = {scrapes.Series.of_key(one.key): value for one, value in seen.values.items()}
    assert kept == seen.values


def llama_cpp(drafts: int, accepted: tuple[int, int, int]) -> str:
    """A scrape as llama.cpp writes it: a C++ stream's six digits, `{:.6g}`, but for counts by position."""
    counts = {"drafts": drafts, "draft_tokens": 3 * drafts, "accepted_tokens": sum(accepted)}
    lines = [f"llamacpp:spec_decode_num_{name}_total {count:.6g}" for name, count in counts.items()]
    at_position = "llamacpp:spec_decode_num_accepted_tokens_per_pos_total"
    lines += [f'{at_position}{{position="{i}"}} {count}' for i, count in enumerate(accepted)]
    return "\n".join(lines) + "\n"


def test_rounded_counters_wait_until_they_have_grown_enough():
    """Else an interval of 40 drafts would count 30 or 50 of them, and more than that at 10^8."""
    served = [(n, (n // 2, n // 3, n // 4)) for n in (1_000_000, 1_000_013, 1_000_401, 1_000_402)]
    engine, found = scrapes.of_text("".join(llama_cpp(*one) for one in served).split("\n"), "m.txt", None)
    seen = Differences()
    ((_, answer),) = seen.intervals(found, engine.counters, 3)
    # The 3,000,039 drafts of the second scrape are written 3.00004e+06; those of the third 3.0012e+06.
    (_, first), _, (_, last), _ = served
    exact = tuple(b - a for a, b in zip(first, last, strict=True))
    assert (answer.record.drafted, answer.record.accepted, answer.record.accepted_at) == (
        1200,
        sum(exact),
        exact,
    )
    assert answer.record.tested is None  # whether all rounds were full, rounded counts do not tell
    assert seen.notes == {differences.ROUNDED: 2}


def test_several_models_are_never_pooled():
    text = scrape(10, (5, 2)) + scrape(10, (5, 2), model_name="n")
    with pytest.raises(UsageError, match=r"m.txt has counters of several models: choose one by --model"):
        scrapes.of_text(text.split("\n"), "m.txt", None)
    with pytest.raises(
        UsageError, match=r"no counters of model 'o': \(valid: 'm', 'n'\)|no counters of model 'o'"
    ):
        scrapes.of_text(text.split("\n"), "m.txt", "o")
    _, (one,) = scrapes.of_text(text.split("\n"), "m.txt", "n")
    assert len(one.values) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("up 1\n", "has no counters of speculative decoding of vLLM"),
        ('vllm:spec_decode_num_drafts_total{a="b} 1\n', "m.txt:1: no text of Prometheus"),
        (
            "vllm:spec_decode_num_drafts_total NaN\n",
            "vllm:spec_decode_num_drafts_total is nan, must be a count",
        ),
        ("vllm:spec_decode_num_drafts_total -1\n", "is -1, must be a count"),
        (
            "vllm:spec_decode_num_drafts_total 1\nsglang:spec_verify_calls_total 1\n",
            "counters of vLLM and SGLang",
        ),
        ('vllm:spec_decode_num_accepted_tokens_per_pos_total{position="x"} 1\n', "has the position 'x'"),
        ("# scraped_at noon\nvllm:spec_decode_num_drafts_total 1\n", "'noon' is no number"),
    ],
)
def test_text_that_is_none_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        scrapes.of_text(text.split("\n"), "m.txt", None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "error"}, "status 'error', resultType 'matrix': must be a range query that succeeded"),
        ({"data": {"resultType": "vector", "result": []}}, "resultType 'vector'"),
        ({"data": {"resultType": "matrix", "result": []}}, "has no counters"),
        ({"data": {"resultType": "matrix", "result": [3]}}, "result 0"),
    ],
)
def test_a_query_of_another_kind_is_refused(change, message):
    query = {"status": "success", "data": {"resultType": "matrix", "result": []}} | change
    with pytest.raises(UsageError, match=message):
        scrapes.of_query(json.loads(json.dumps(query)), "q.json", None)
