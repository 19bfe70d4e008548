"""Counts that agree pass, each that does not is named, and a line that cannot be read costs no other."""

import json
import re
from pathlib import Path

import pytest

from distillspec_jax.acceptance import Record, memory_bound_speedup
from distillspec_jax.cli.main import main
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import results
from distillspec_jax.evaluation.audit import audit
from tests.evaluation import simulated
from tests.test_release_0_1 import RESULTS, ROOT

ROWS = simulated.rows(prompts=6, block_sizes=(2,))
LINE = {
    **{"inputs": "a", "outputs": "b", "emitted_tokens": 6, "target_calls": 3, "accepted": 3, "tested": 5},
    **{"finish_reason": "length", "drafted": 6, "tested_at": [3, 2], "accepted_at": [2, 1]},
}


def write(path: Path, *lines) -> str:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return str(path)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_committed_row_keeps_the_identities(path):
    found = audit(path)
    assert (found.violations, found.broken) == ([], [])
    assert len(found.rows) == len(path.read_text().splitlines())
    for row in found.rows:
        record, histogram = row.record, row.record.histogram
        assert sum(histogram) == record.target_calls
        assert sum(i * count for i, count in enumerate(histogram)) == record.accepted
        assert record.drafted is None, "0.1 did not count them"
        assert record.sums("acceptance_drafted") is None


def changed(path: str, value):
    """A drafted row, as its line, with one value replaced."""
    line = json.loads(json.dumps(ROWS[1].to_json()))
    *outer, last = path.split(".")
    inside = line
    for name in outer:
        inside = inside[int(name) if isinstance(inside, list) else name]
    last = int(last) if isinstance(inside, list) else last
    inside[last] = value(inside[last])
    return line


@pytest.mark.parametrize(
    ("path", "by", "said"),
    [
        ("per_prompt.emitted.2", 2, "prompt 2: 62 tokens emitted, but "),
        ("per_prompt.emitted.2", -2, "prompt 2: 58 tokens emitted, but "),
        ("per_prompt.target_calls.0", 3, "prompt 0: 60 tokens emitted, but "),
        ("per_prompt.tested.5", 40, "prompt 5: "),
        ("per_prompt.accepted.1", 1, "accepted is "),
        ("emitted_tokens", 1, "emitted_tokens is 361, but 360 over prompts"),
        ("target_calls", 1, "target_calls is "),
        ("tested", -1, "tested is "),
        ("block_efficiency", 0.01, "block_efficiency is "),
        ("acceptance_tested", -0.01, "acceptance_tested is "),
        ("acceptance_joint.1", -0.013, "acceptance_joint\\[1\\] is "),
        ("mbsu", 0.1, "mbsu is "),
        ("speedup", 0.1, "speedup is "),
        ("max_new_tokens", -100, "a prompt emitted 60 tokens of at most 28"),
    ],
)
def test_a_number_that_is_off_is_named_with_its_line(tmp_path, capsys, path, by, said):
    good = ROWS[0].to_json()
    file = write(tmp_path / "r.jsonl", good, changed(path, lambda value: value + by))
    assert main(["check", file]) == 1
    told = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"{file}:2: ") and re.search(said, line) for line in told), told
    assert not any(line.startswith(f"{file}:1: ") for line in told)


def test_the_joint_rates_of_a_row_of_0_1_are_whole_counts(tmp_path):
    line = changed("acceptance_joint.1", lambda share: share - 0.02)
    del line["accepted_at"], line["tested_at"]
    (first, *_) = audit(write(tmp_path / "r.jsonl", line)).violations
    assert "drafts accepted, but by position" in first


@pytest.mark.parametrize(
    "change",
    [
        {"emitted_tokens": 7},
        {"emitted_tokens": 4},
        {"tested": 7, "tested_at": [3, 4]},
        {"accepted": 4},
        {"drafted": 4},
        {"tested_at": [3, 3], "tested": 6},
        {"accepted_at": [1, 2]},
    ],
)
def test_lines_of_generate_are_checked(tmp_path, capsys, change):
    file = write(tmp_path / "out.jsonl", LINE, LINE | change)
    assert main(["check", file]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"{file}:2: ")
    assert told[-1].startswith(f"{file}: 2 lines, 2 texts: ")
    assert main(["check", write(tmp_path / "out.jsonl", LINE)]) == 0
    assert capsys.readouterr().out == f"{file}: 1 lines, 1 texts: every identity holds\n"


def test_lines_that_cannot_be_read_are_named_and_the_rest_is_used(tmp_path, capsys):
    row = json.dumps(ROWS[1].to_json())
    file = write(tmp_path / "r.jsonl", ROWS[0].to_json(), "{", "[]", row, '{"inputs": "a"}', row[:400])
    assert main(["check", file]) == 1
    told = capsys.readouterr().out.splitlines()
    assert [re.match(rf"{file}:(\d)", line)[1] for line in told[:-1]] == ["2", "3", "5", "6"]
    assert told[-1] == f"{file}: 2 lines, 12 texts: 0 violations, 4 lines that cannot be read"
    rows, broken = results.usable([file])
    assert [found.drafter for found in rows] == [ROWS[0].drafter, ROWS[1].drafter]
    assert len(broken) == 4
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\n" + row.encode() + b"\n")
    assert audit(tmp_path / "bytes.jsonl").broken == [f"{tmp_path / 'bytes.jsonl'}:1: not UTF-8 text"]


def test_a_file_without_any_count_is_refused_in_one_line(tmp_path, capsys):
    for content in ((), ("",), ("{",), ({"inputs": "a"},)):
        file = write(tmp_path / "r.jsonl", *content)
        for command in ("check", "power"):
            assert main([command, file]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(f"distillspec {command}: error: ")
            assert file in line
    assert main(["check", str(tmp_path / "none.jsonl")]) == 2


def test_the_record_of_rows_and_outputs_is_printed(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # a list, where every number stands behind its name
    file = write(tmp_path / "r.jsonl", *(row.to_json() for row in ROWS[:2]), LINE)
    assert main(["check", file, "--record"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    row = ROWS[1]
    record, pace = row.record, row.pace
    for number in (
        f"{record.accepted / record.tested:.3f}",
        f"{(record.accepted + record.target_calls) / record.target_calls:.3f}",
        " ".join(map(str, record.histogram)),
        f"{sum(row.timing.emitted) / sum(row.timing.seconds):,.0f}",
        f"{sorted(row.timing.seconds)[1]:.3g}",  # the middle one of three
        f"{row.mbsu:.2f}",
        "0.500",  # three of six drafts: what other engines call the rate
    ):
        assert number in told, number
    assert pace.concurrency == 1
    assert (
        f"rounds: {row.target_calls:,}; drafted: –; tested: {row.tested:,}; "
        f"accepted: {row.accepted:,}; emitted: {row.emitted_tokens:,}; accepted/tested: "
    ) in told
    assert "rounds: 3; drafted: 6; tested: 5; accepted: 3; emitted: 6; accepted/tested: 0.600" in told


def test_a_measured_cost_ratio_gives_the_measured_speedup_back():
    """By the formula's own words: on texts that were all timed, MBSU with c as timed is the speed-up."""
    row = ROWS[1]
    timed = len(row.timing.seconds)
    calls, emitted = sum(row.per_prompt.target_calls[:timed]), sum(row.per_prompt.emitted[:timed])
    again = memory_bound_speedup(emitted / calls, row.measured_cost_ratio, row.block_size)
    assert again == pytest.approx(row.speedup)
    # Two hundredths of a second a call and 12 % more a draft, of which the bytes would be a tenth.
    assert row.measured_cost_ratio == pytest.approx(0.12, abs=0.05)
    assert ROWS[0].measured_cost_ratio is None


# --- the page ---


def test_the_page_counts_as_the_record_does():
    page = (ROOT / "docs" / "acceptance.md").read_text()
    page = page[page.index("## An example") :]
    texts = {}
    for text, *numbers in re.findall(
        r"^\| ([AB]) \| \d \| (\d) \| (\d) \| (\d) \| (\d) \|$", page, re.MULTILINE
    ):
        texts.setdefault(text, []).append([int(number) for number in numbers])
    records = [
        Record.of_rounds(
            [(tested, accepted, emitted) for _, tested, accepted, emitted in rounds],
            drafted=sum(drafted for drafted, *_ in rounds),
        )
        for rounds in texts.values()
    ]
    total = Record.total(records)
    assert not [*total.violations(3), *records[0].violations(3)]
    told = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", page, re.MULTILINE))

    def number(name: str) -> float:
        return float(told[name].split(" = ")[-1])

    counts = (
        total.target_calls,
        total.drafted,
        total.tested,
        total.accepted,
        total.emitted_tokens,
        total.cuts,
    )
    assert told["rounds, drafted, tested, accepted, emitted, cuts"] == ", ".join(map(str, counts))
    assert told["histogram of 0, 1, 2, 3 accepted"] == ", ".join(map(str, total.histogram))
    for name, ratio in (
        ("accepted / tested", "acceptance_tested"),
        ("accepted / drafted, as vLLM has it", "acceptance_drafted"),
        ("accepted length", "accepted_length"),
        ("block efficiency", "block_efficiency"),
    ):
        top, bottom = total.sums(ratio)
        assert told[name] == f"{top} / {bottom} = {total.value(ratio):.3f}"
    for name, shares in (("joint", total.acceptance_joint), ("conditional", total.acceptance_conditional)):
        assert told[name] == ", ".join(f"{share:.3f}" for share in shares)
    speedup = memory_bound_speedup(total.value("block_efficiency"), 0.1, 3)
    assert number("MBSU at c = 0.1") == pytest.approx(speedup, abs=5e-4)
    for name in (
        "emitted = accepted + rounds − cuts",
        "tested = rounds + accepted − rounds without a rejection",
    ):
        left, right = told[name].replace("−", "-").split(" = ")
        assert int(left) == eval(right, {})


def test_a_row_that_was_written_twice_and_counts_that_are_no_lists_are_named(tmp_path):
    row, path = simulated.rows(prompts=6, block_sizes=(2,))[1], tmp_path / "results.jsonl"
    path.write_text(2 * (json.dumps(row.to_json()) + "\n"))
    assert audit(path).violations == [f"{path}:2: fingerprint f repeats that of {path}:1"]
    counts = {"emitted_tokens": 3, "target_calls": 2, "accepted": 1, "tested": 2, "drafted": 2}
    path.write_text(json.dumps(counts | {"tested_at": 2, "accepted_at": 1}) + "\n")
    with pytest.raises(UsageError, match="has no count 'tested_at'"):
        audit(path)
