"""The results file: whole lines, errors by file and line, the last measurement counts."""

import dataclasses
import json
import resource
import signal
from pathlib import Path

import pytest

from distillspec_jax.errors import Unavailable, UsageError
from distillspec_jax.evaluation import results
from distillspec_jax.evaluation.result_row import ResultRow
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
    # Within a character, which made the file unreadable; and before the newline alone.
    path.write_bytes(whole + '{"schema_version": 1, "task": "ü'.encode()[:-1])
    assert results.reopen(path) == [ROWS[0]]
    path.write_bytes(whole[:-1])
    assert results.reopen(path) == [ROWS[0]]
    assert path.read_bytes() == whole


def test_two_sweeps_do_not_write_to_one_folder(path):
    with (
        results.alone(path),
        pytest.raises(Unavailable, match="another sweep is writing there"),
        results.alone(path),
    ):
        pass
    assert not path.parent.exists(), "nothing was written"


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
    "field",
    ["task", "target", "prompts_digest", "batch_size", "device", "dtype", "top_p", "max_new_tokens"],
)
def test_rows_that_cannot_be_compared_are_kept_apart(field):
    other = [dataclasses.replace(row, **{field: "other"}) for row in ROWS]
    assert results.groups([*ROWS, *other]) == [ROWS, other]


def test_two_drafts_of_one_label_are_told_apart():
    rows = [dataclasses.replace(row, drafter_path=f"runs/{row.drafter}") for row in ROWS if row.is_drafted]
    other = dataclasses.replace(rows[0], drafter_path="runs/other", block_efficiency=9.0)
    (found,) = results.groups([*rows, other])
    assert {row.drafter: row.block_efficiency for row in found if row.block_efficiency == 9.0} == {
        f"{other.drafter} (runs/other)": 9.0
    }
    assert len(found) == len(rows) + 1


def test_drafters_in_order_of_appearance():
    assert results.drafters(ROWS) == ["supervised", "control", "distilled"]


def drafted(**changes):
    """A line of a drafted row, with fields of it or of its parts changed (`timing.seconds`)."""
    line = json.loads(json.dumps(ROWS[1].to_json()))
    for name, value in changes.items():
        *parts, last = name.split("__")
        place = line
        for part in parts:
            place = place[part]
        place[last] = value
    return line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": 3}, "field task: expected str, got 3"),
        ({"task": "t" * 5000}, "field task: expected str of length <= 4096, got"),
        ({"top_k": -1}, "field top_k: expected int >= 0, got -1"),
        ({"top_p": 1.5}, "field top_p: expected float <= 1.0, got 1.5"),
        ({"temperature": None}, "field temperature: expected int | float, got None"),
        ({"temperature": 10**30}, "field temperature: "),
        ({"block_size": 10**30}, "field block_size: "),
        ({"block_size": 1025}, "field block_size: expected int <= 1024, got 1025"),
        ({"block_size": 0}, "field drafter: must be none at block_size 0 alone"),
        ({"block_size": 3}, "field acceptance_joint: must have 3 entries, as block_size"),
        ({"acceptance_joint": [0.5, 1.5]}, "field acceptance_joint[1]: expected float <= 1.0, got 1.5"),
        ({"acceptance_tested": "0.5"}, "field acceptance_tested: expected "),
        ({"block_efficiency": []}, "field block_efficiency: expected int | float, got a list of 0"),
        ({"speedup_ci95": [1.0]}, "field speedup_ci95: expected array of length >= 2, got a list of 1"),
        ({"speedup_ci95": [1.0, None]}, "field speedup_ci95[1]: expected int | float, got None"),
        ({"quality": {"rougeL": "good"}}, "field quality[...]: expected int | float, got str"),
        ({"primary_metric": "bleu"}, "field primary_metric: must be one of quality"),
        ({"prompts": 7}, "field per_prompt.emitted: must have 7 entries, as prompts"),
        ({"prompts": 0}, "field prompts: must be at least 1"),
        ({"per_prompt": None}, "field per_prompt: expected object, got None"),
        (
            {"per_prompt__emitted": [1.5] * 6},
            "per_prompt: not a row of a sweep: field emitted[0]: expected int, got 1.5",
        ),
        ({"per_prompt__accepted": [2**41] * 6}, "field accepted[0]: expected int "),
        ({"per_prompt__score": [1.0]}, "field per_prompt.score: must have 6 entries, as prompts"),
        ({"timing": []}, ", timing: not a row of a sweep: expected a JSON object, got list"),
        ({"timing": {}}, ", timing: not a row of a sweep: it has no field 'repeats'"),
        ({"timing__seconds": []}, "field timing.seconds: must have as many entries as timing.seconds"),
        ({"timing__emitted": [1]}, "field timing.emitted: must have as many entries as timing.seconds"),
        ({"timing__first_call_seconds": -1}, "field first_call_seconds: expected int >= 0, got -1"),
        ({"schema_version": [[]]}, "schema version a list of 1, this release reads 1"),
    ],
)
def test_a_row_whose_fields_are_others_is_one_line(path, change, said):
    """Each was a traceback, somewhere in a table or a plot; a block size of 10^30 was plotted for ever."""
    path.parent.mkdir()
    path.write_text(json.dumps(drafted(**change)) + "\n")
    with pytest.raises(UsageError) as caught:
        results.read([path])
    message = str(caught.value)
    assert message.startswith(f"{path}:1")
    assert said in message
    assert "\n" not in message


def test_fields_of_newer_releases_stay_where_they_were():
    line = drafted(later={"a": 1}, timing__later=2, per_prompt__later=[3])
    row = ResultRow.from_json(line, "f:1")
    assert json.dumps(row.to_json(), sort_keys=True) == json.dumps(line, sort_keys=True)


def test_rows_of_one_digest_and_two_numbers_of_prompts_do_not_compare():
    """Pairing them by prompt was a traceback."""
    other = simulated.rows(prompts=7, block_sizes=(2,))[2]
    with pytest.raises(
        UsageError, match=r"results on wiki_leads, prompts 0123456789abcdef: .* 6 of them .* 7"
    ):
        results.groups([*ROWS, other])
