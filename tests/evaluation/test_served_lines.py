"""Acceptance of served lines, against sums done by hand."""

import json

import numpy as np
import pytest

from distillspec_jax import acceptance
from distillspec_jax.cli.main import main
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import paired, served_files, served_lines
from distillspec_jax.evaluation.served_lines import Answers, Served, Unit

RNG = np.random.default_rng(0)


def lines(number: int, rate: float) -> list[dict]:
    tested = RNG.integers(5, 20, number)
    accepted = RNG.binomial(tested, rate)
    return [
        {"inputs": f"{i} of {rate}", "outputs": "…", "emitted_tokens": int(a) + 4, "target_calls": 4}
        | {"tested": int(t), "accepted": int(a)}
        for i, (t, a) in enumerate(zip(tested, accepted, strict=True))
    ]


def write(path, rows, end="\n") -> str:
    path.write_text("\n".join(map(json.dumps, rows)) + end)
    return str(path)


def read(path: str, answers: Answers | None = None) -> list[Unit]:
    return list((answers or Answers()).units(served_files.objects(served_files.news(path, []))))


def test_counts_are_added_up_before_a_ratio_is_formed(tmp_path):
    rows = lines(40, 0.6)
    found = Served.of(read(write(tmp_path / "a.jsonl", rows)))
    tested, accepted = (np.array([row[name] for row in rows]) for name in ("tested", "accepted"))
    assert found.acceptance == paired.ratio(accepted, tested)
    assert found.acceptance.value == pytest.approx(accepted.sum() / tested.sum())
    assert found.block_efficiency.value == pytest.approx((accepted.sum() + 160) / 160)
    assert (found.total.texts, found.total.emitted_tokens) == (40, accepted.sum() + 160)


def test_samples_of_a_prompt_are_one_unit_and_lines_without_prompts_are_many(tmp_path):
    rows = lines(10, 0.6)
    twice = Served.of(read(write(tmp_path / "a.jsonl", [*rows, *rows])))
    assert (twice.total.texts, len(twice.records)) == (20, 10)
    once = Served.of(read(write(tmp_path / "a.jsonl", rows)))
    assert twice.acceptance == pytest.approx(once.acceptance)
    bare = [{name: row[name] for name in acceptance.REQUIRED} for row in rows]
    assert len(Served.of(read(write(tmp_path / "a.jsonl", bare))).records) == 10


def test_samples_in_a_row_are_one_bet_and_a_prompt_that_comes_again_is_another(tmp_path):
    first, second = lines(2, 0.6)
    units = read(write(tmp_path / "a.jsonl", [first, first, second, first]))
    assert [unit.record.texts for unit in units] == [2, 1, 1]
    assert units[0].record.tested == 2 * first["tested"]


def test_a_drop_is_told_and_a_line_that_is_being_written_waits(tmp_path, capsys):
    drifted = write(tmp_path / "a.jsonl", [*lines(200, 0.8), *lines(203, 0.3)], end='\n{"inputs": "half')
    assert main(["watch", drifted, "--window=200", "--at_least=0.5"]) == 1
    told = capsys.readouterr().out
    assert [word in told for word in ("1–200", "201–400", "401–403", "404")] == [True, True, True, False]
    (reason,) = (line for line in told.splitlines() if line.startswith(f"{drifted}: "))
    assert "drift: acceptance is below 0.5 since about request 20" in reason
    assert reason.endswith(": distil on what is asked now")
    assert main(["watch", f"now={drifted}", "--window=200", "--at_least=0.2"]) == 0
    # Over all, three fifths are accepted: the drop alone is what is noticed.
    assert main(["watch", f"now={drifted}", "--at_least=0.5"]) == 1


def test_what_cannot_be_judged_is_told_apart_from_what_is_high_enough(tmp_path, capsys):
    plain = write(tmp_path / "a.jsonl", [row | {"tested": 0, "accepted": 0} for row in lines(9, 0.5)])
    few, low = write(tmp_path / "b.jsonl", lines(4, 0.5)), write(tmp_path / "c.jsonl", lines(150, 0.3))
    assert main(["watch", plain, "--at_least=0.5"]) == 3
    told = capsys.readouterr().out
    assert "–" in told
    assert f"{plain}: not enough: no request in which a draft was tested\n" in told
    assert told.endswith(f"{plain}: 9 answers in which no draft was tested\n")
    assert main(["watch", few, "--at_least=0.5"]) == 3
    assert capsys.readouterr().out.endswith("in 4 requests, at least 5 needed\n")
    assert main(["watch", few, low, plain, "--at_least=0.5"]) == 1
    assert main(["watch", few, plain]) == 0


def test_what_generate_did_not_write_is_refused_by_its_line(tmp_path, capsys):
    good = lines(2, 0.5)
    for bad, message in (
        ({"inputs": "a"}, "a.jsonl:3: no line of generate, and no answer with counts of distillspec, vLLM"),
        ({"inputs": "a", "tested": 1}, "a.jsonl:3 has no count 'emitted_tokens'"),
        (good[0] | {"tested": -1}, "a.jsonl:3 has no count 'tested'"),
        (good[0] | {"accepted": 1.5}, "a.jsonl:3 has no count 'accepted'"),
        (good[0] | {"tested": 2**64}, "a.jsonl:3 has no count 'tested'"),
        (good[0] | {"accepted": 2**62}, "a.jsonl:3 has no count 'accepted'"),
        (good[0] | {"accepted": 99}, "a.jsonl:3: 99 drafts accepted of"),
        (good[0] | {"drafted": "x"}, "a.jsonl:3 has no count 'drafted'"),
        (good[0] | {"accepted_at": [1, -1]}, "a.jsonl:3 has no count 'accepted_at'"),
        (good[0] | {"tested_at": [[1]]}, "a.jsonl:3 has no count 'tested_at'"),
        ([], "a.jsonl:3: expected a JSON object, got list"),
        (
            {"timings": {"predicted_n": 1}},
            "a.jsonl:3: an answer of llama.cpp, but those before are of distil",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            read(write(tmp_path / "a.jsonl", [*good, bad]))
    (tmp_path / "b.jsonl").write_text('{"inputs"\n')
    (tmp_path / "deep.jsonl").write_text("[" * 100_000 + "\n")
    (tmp_path / "empty.jsonl").write_text("")
    for arguments, message in (
        ([str(tmp_path / "b.jsonl")], "b.jsonl:1: malformed JSON"),
        ([str(tmp_path / "deep.jsonl")], "deep.jsonl:1: JSON that cannot be read"),
        ([str(tmp_path / "empty.jsonl")], "empty.jsonl has no whole line"),
        ([str(tmp_path / "c.jsonl")], "there is no file"),
        (["a=x", "a=y"], "the label 'a' is taken"),
        ([str(tmp_path / "b.jsonl"), "--window=0"], "--window=0: must be at least 1"),
        ([str(tmp_path / "b.jsonl"), "--at_least=2"], "--at_least=2.0: must lie in"),
    ):
        assert main(["watch", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_lines_that_were_there_before_are_found_by_id_or_by_all_of_them(tmp_path):
    first, second = lines(2, 0.6)
    timed = first | {"time": 5}
    rows = [first | {"id": 1}, first | {"id": 2}, second | {"id": 1}, timed, timed, second, second]
    answers = Answers()
    units = read(write(tmp_path / "a.jsonl", rows), answers)
    # The last two cannot be told apart from an answer that was given twice.
    assert sum(unit.record.texts for unit in units) == 5
    assert answers.notes[served_lines.DUPLICATE] == 2
    samples = [first | {"id": 1, "sample": 0}, first | {"id": 1, "sample": 1}]
    assert read(write(tmp_path / "a.jsonl", samples))[0].record.texts == 2


def test_clocks_that_go_back_are_counted_and_the_lines_used(tmp_path):
    times = ["2026-11-29T10:00:00Z", "2026-11-29T09:00:00+00:00", 1, "noon", "2026-11-29T11:00:00"]
    rows = [row | {"time": at} for row, at in zip(lines(5, 0.6), times, strict=True)]
    answers = Answers()
    assert len(read(write(tmp_path / "a.jsonl", rows), answers)) == 5
    assert answers.notes[served_lines.LATE] == 2


def test_other_drafts_and_other_distributions_are_set_aside(tmp_path):
    rows = [
        row | extra
        for row, extra in zip(
            lines(5, 0.6),
            [{}, {"temperature": 0}, {"temperature": 0.7}, {"draft": "b"}, {"draft": "a", "top_k": 0}],
            strict=True,
        )
    ]
    answers = Answers(sampling={"temperature": 0.0, "top_k": 0}, draft="a")
    assert len(read(write(tmp_path / "a.jsonl", rows), answers)) == 3
    assert answers.notes == {served_lines.OTHER_SAMPLING: 1, served_lines.OTHER_DRAFT: 1}
    # Without a reference, the first that is told is meant: never two together.
    answers = Answers()
    assert len(read(write(tmp_path / "a.jsonl", rows), answers)) == 4
    assert answers.notes == {served_lines.OTHER_SAMPLING: 1}
    with pytest.raises(UsageError, match=r"a\.jsonl:1: field 'temperature' must be a number"):
        read(write(tmp_path / "a.jsonl", [rows[0] | {"temperature": "hot"}]))
