"""The results file: whole lines, errors by file and line, the last measurement counts."""

import dataclasses
import json
import resource
import signal
from pathlib import Path

import pytest

from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import results
from tests.evaluation import simulated

ROWS = simulated.rows(prompts=6, block_sizes=(2,))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "results.jsonl"


def test_what_is_appended_is_read(path):
    odd = dataclasses.replace(ROWS[0], task="line\u2028separator\u0085 and ½")
    for row in (*ROWS, odd):
        results.append(path, row)
    assert results.read([path]) == [*ROWS, odd]
    assert results.read([path, path]) == 2 * [*ROWS, odd]


def test_a_line_that_a_kill_cut_short_is_dropped_on_reopening(path):
    results.append(path, ROWS[0])
    whole = path.read_bytes()
    path.write_bytes(whole + json.dumps(ROWS[1].to_json()).encode()[:200])
    assert results.reopen(path) == [ROWS[0]]
    assert path.read_bytes() == whole
    assert results.reopen(path.with_name("absent")) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": 1', r"results.jsonl:2: malformed JSON \(Expecting ',' delimiter, column 8\)"),
        ("[1]", "results.jsonl:2: expected a JSON object, got list"),
        ('{"schema_version": 1}', "results.jsonl:2: not a row of a sweep: it has no field 'task'"),
        (json.dumps({**ROWS[0].to_json(), "schema_version": 99}), "results.jsonl:2: schema version 99"),
    ],
)
def test_a_bad_line_is_named(path, line, message):
    results.append(path, ROWS[0])
    with path.open("a") as file:
        file.write(line + "\n")
    for reader in (lambda: results.read([path]), lambda: results.reopen(path)):
        with pytest.raises(UsageError, match=message):
            reader()


def test_files_without_a_row_are_named(path):
    path.parent.mkdir()
    path.write_text("\n")
    with pytest.raises(UsageError, match=r"no results in .*results\.jsonl"):
        results.read([path])
    with pytest.raises(UsageError, match="no results in no files"):
        results.read([])


def test_a_missing_or_binary_file_is_named(path):
    with pytest.raises(UsageError, match=r"cannot read '.*results.jsonl': No such file"):
        results.read([path])
    path.parent.mkdir()
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        results.read([path])


def test_what_json_cannot_say_leaves_the_file_alone(path):
    results.append(path, ROWS[0])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        results.append(path, dataclasses.replace(ROWS[1], speedup=float("nan")))
    assert path.read_bytes() == before


def test_a_full_disk_is_named():
    with pytest.raises(UsageError, match=r"(?i)cannot save to /dev: no space left"):
        results.append(Path("/dev/full"), ROWS[0])


def test_a_line_that_does_not_fit_is_taken_back(path):
    results.append(path, ROWS[0])
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
    try:
        with pytest.raises(UsageError, match="cannot save to"):
            results.append(path, ROWS[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == before


def test_the_last_measurement_of_a_cell_counts():
    again = dataclasses.replace(ROWS[1], block_efficiency=9.0)
    found = results.latest([*ROWS, again])
    assert len(found) == len(ROWS)
    assert [row.block_efficiency for row in found if row.drafter == again.drafter][-1] == 9.0


@pytest.mark.parametrize(
    "field", ["task", "target", "prompts_digest", "batch_size", "device", "dtype", "top_p"]
)
def test_rows_that_cannot_be_compared_are_kept_apart(field):
    other = [dataclasses.replace(row, **{field: "other"}) for row in ROWS]
    assert results.groups([*ROWS, *other]) == [ROWS, other]


def test_drafters_in_order_of_appearance():
    assert results.drafters(ROWS) == ["supervised", "control", "distilled"]
