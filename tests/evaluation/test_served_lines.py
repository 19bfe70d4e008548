"""Acceptance of served lines, against sums done by hand."""

import json

import numpy as np
import pytest

from distillspec_jax import acceptance
from distillspec_jax.cli.main import main
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import paired, served_lines

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


def test_counts_are_added_up_before_a_ratio_is_formed(tmp_path):
    rows = lines(40, 0.6)
    found = served_lines.Served.of(served_lines.read(write(tmp_path / "a.jsonl", rows)))
    tested, accepted = (np.array([row[name] for row in rows]) for name in ("tested", "accepted"))
    assert found.acceptance == paired.ratio(accepted, tested)
    assert found.acceptance.value == pytest.approx(accepted.sum() / tested.sum())
    assert found.block_efficiency.value == pytest.approx((accepted.sum() + 160) / 160)
    assert (found.total.texts, found.total.emitted_tokens) == (40, accepted.sum() + 160)


def test_samples_of_a_prompt_are_one_unit_and_lines_without_prompts_are_many():
    rows = lines(10, 0.6)
    twice = served_lines.Served.of([*rows, *rows])
    assert (twice.total.texts, len(twice.records)) == (20, 10)
    assert twice.acceptance == pytest.approx(served_lines.Served.of(rows).acceptance)
    bare = [{name: row[name] for name in acceptance.REQUIRED} for row in rows]
    assert len(served_lines.Served.of(bare).records) == 10


def test_the_latest_whole_window_decides_and_a_line_that_is_being_written_waits(tmp_path, capsys):
    drifted = write(tmp_path / "a.jsonl", [*lines(50, 0.8), *lines(53, 0.3)], end='\n{"inputs": "half')
    assert main(["watch", drifted, "--window=50", "--at_least=0.5"]) == 1
    told = capsys.readouterr().out
    assert [word in told for word in ("1–50", "51–100", "101–103", "104")] == [True, True, True, False]
    told_low = f"{drifted}: acceptance of lines 51–100 is below 0.5: distil on what is asked now\n"
    assert told.endswith(told_low)
    assert main(["watch", f"now={drifted}", "--window=50", "--at_least=0.2"]) == 0
    assert main(["watch", f"now={drifted}", "--at_least=0.5"]) == 0  # of all together the interval reaches it


def test_what_cannot_be_judged_is_told_apart_from_what_is_high_enough(tmp_path, capsys):
    plain = write(tmp_path / "a.jsonl", [row | {"tested": 0, "accepted": 0} for row in lines(9, 0.5)])
    few, low = write(tmp_path / "b.jsonl", lines(4, 0.5)), write(tmp_path / "c.jsonl", lines(50, 0.3))
    assert main(["watch", plain, "--at_least=0.5"]) == 3
    told = capsys.readouterr().out
    assert "–" in told
    assert told.endswith(f"{plain}: lines 1–9 cannot be judged: 9 prompts, no draft tested\n")
    assert main(["watch", few, "--at_least=0.5"]) == 3
    assert capsys.readouterr().out.endswith("lines 1–4 cannot be judged: 4 prompts, at least 5 needed\n")
    assert main(["watch", few, low, plain, "--at_least=0.5"]) == 1
    assert main(["watch", few, plain]) == 0


def test_what_generate_did_not_write_is_refused_by_its_line(tmp_path, capsys):
    good = lines(2, 0.5)
    for bad, message in (
        ({"inputs": "a"}, "a.jsonl:3 has no count 'emitted_tokens'"),
        (good[0] | {"tested": -1}, "a.jsonl:3 has no count 'tested'"),
        (good[0] | {"accepted": 1.5}, "a.jsonl:3 has no count 'accepted'"),
        (good[0] | {"tested": 2**64}, "a.jsonl:3 has no count 'tested'"),
        (good[0] | {"accepted": 2**62}, "a.jsonl:3 has no count 'accepted'"),
        (good[0] | {"drafted": "x"}, "a.jsonl:3 has no count 'drafted'"),
        (good[0] | {"accepted_at": [1, -1]}, "a.jsonl:3 has no count 'accepted_at'"),
        (good[0] | {"tested_at": [[1]]}, "a.jsonl:3 has no count 'tested_at'"),
        ([], "a.jsonl:3: expected a JSON object, got list"),
    ):
        with pytest.raises(UsageError, match=message):
            served_lines.read(write(tmp_path / "a.jsonl", [*good, bad]))
    (tmp_path / "b.jsonl").write_text('{"inputs"\n')
    (tmp_path / "deep.jsonl").write_text("[" * 100_000 + "\n")
    for arguments, message in (
        ([str(tmp_path / "b.jsonl")], "b.jsonl:1: malformed JSON"),
        ([str(tmp_path / "deep.jsonl")], "deep.jsonl:1: JSON that cannot be read"),
        ([str(tmp_path / "c.jsonl")], "there is no file"),
        (["a=x", "a=y"], "there is no file x"),
        ([str(tmp_path / "b.jsonl"), "--window=0"], "--window=0: must be at least 1"),
        ([str(tmp_path / "b.jsonl"), "--at_least=2"], "--at_least=2.0: must lie in"),
    ):
        assert main(["watch", *arguments]) == 2
        assert message in capsys.readouterr().err
