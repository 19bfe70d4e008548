"""Request files: what is read, what is refused by file and line, and files that are whole or not there."""

import errno
import io
import json
import os

import pytest

from distillspec_jax.errors import UsageError
from distillspec_jax.generation.request_files import (
    GenerationRequest as Request,
)
from distillspec_jax.generation.request_files import (
    finished,
    options,
    output_lines,
    read_requests,
    write_line,
)
from distillspec_jax.generation.text_generator import Generation

GENERATION = Generation("Grüße", "ja", 3, 2, 1, 2, "eos")


def write(tmp_path, content: bytes) -> str:
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)
    return str(path)


# --- reading ---


def test_lines_come_in_order_with_their_place_and_their_other_fields(tmp_path):
    path = write(tmp_path, b'{"inputs": "a", "id": 7}\n\n  \n{"id": null, "inputs": ""}')
    assert read_requests(path) == [
        Request("a", f"{path}:1", {"id": 7}),
        Request("", f"{path}:4", {"id": None}),
    ]


def test_another_field_holds_the_text(tmp_path):
    path = write(tmp_path, b'{"question": "a", "inputs": "b"}\n')
    assert read_requests(path, "question") == [Request("a", f"{path}:1", {"inputs": "b"})]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("\ufeff" + '{"inputs": "a"}\n', "a"),  # a byte order mark
        ('{"inputs": "a"}\r\n', "a"),
        ('{"inputs": "a\u2028b"}\n', "a\u2028b"),  # a line for Unicode, not for JSON lines
        ('{"inputs": "½ Grüße \\n"}', "½ Grüße \n"),
    ],
)
def test_a_text_arrives_as_it_was(tmp_path, content, text):
    (found,) = read_requests(write(tmp_path, content.encode()))
    assert found.inputs == text


def test_standard_input_is_utf_8_whatever_the_locale(monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO('{"inputs": "ü"}\n{"inputs": 1}'.encode()), encoding="ascii")
    monkeypatch.setattr("sys.stdin", stdin)
    with pytest.raises(UsageError, match="standard input:2: field 'inputs' must be text, got int"):
        read_requests("-")
    stdin.seek(0)
    stdin.buffer.truncate(17)
    assert read_requests("-") == [Request("ü", "standard input:1", {})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"inputs": "a"}\n{"inputs": \n', "{}:2: malformed JSON (Expecting value, column 12)"),
        (b'{"inputs": "a"} {"inputs": "b"}', "{}:1: malformed JSON (Extra data, column 17)"),
        (b'\n["a"]', "{}:2: expected a JSON object, got list"),
        (b"null", "{}:1: expected a JSON object, got NoneType"),
        (
            b'{"input": "a", "id": 1}',
            "{}:1: no field 'inputs': did you mean 'input'? (valid: id, input)",
        ),
        (b'{"inputs": ["a"]}', "{}:1: field 'inputs' must be text, got list"),
        (b'{"inputs": null}', "{}:1: field 'inputs' must be text, got NoneType"),
        (b'{"inputs": "a"}\n{"inputs": "\xff"}', "{}:2: not UTF-8 text"),
        (b'{"inputs": "\\ud800"}', "{}:1: field 'inputs' holds a lone surrogate, no valid Unicode"),
        (b'{"inputs": "a", "id": "\\ud800"}', "{}:1: field 'id' holds a lone surrogate, no valid Unicode"),
        (b"", "{} holds no requests (one JSON object a line is expected)"),
        (b" \n\n", "{} holds no requests (one JSON object a line is expected)"),
    ],
)
def test_a_bad_line_is_named(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(UsageError) as caught:
        read_requests(path)
    assert str(caught.value) == message.format(path)


@pytest.mark.parametrize("value", [b"[" * 100_000, b"1" * 5_000])
def test_json_beyond_pythons_own_limits_is_named_too(tmp_path, value):
    path = write(tmp_path, b'{"inputs": "a", "n": ' + value + b"}")
    with pytest.raises(UsageError, match=r"in\.jsonl:1: JSON that cannot be read"):
        read_requests(path)


# --- writing ---


def test_a_line_holds_the_requests_own_fields_and_then_the_generation():
    line = write_line(Request("Grüße", "f:1", {"id": 7, "outputs": "old"}), GENERATION)
    assert "Grüße" in line  # readable, not escaped
    assert json.loads(line) == {
        "id": 7,
        "inputs": "Grüße",
        "outputs": "ja",
        "emitted_tokens": 3,
        "target_calls": 2,
        "accepted": 1,
        "tested": 2,
        "finish_reason": "eos",
    }


BEFORE = '{"inputs": "a", "outputs": "b", "finish_reason": "eos"}\n'
"""A line of an earlier run: a file of anything else is refused."""


def test_a_file_appears_when_it_is_whole(tmp_path):
    path, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    path.write_text(BEFORE)
    with output_lines(str(path)) as put:
        put("ü")
        assert partial.read_text(encoding="utf-8") == "ü\n"  # flushed: a long job can be watched
        put("two")
        assert path.read_text() == BEFORE
    assert path.read_text(encoding="utf-8") == "ü\ntwo\n"
    assert not partial.exists()


def put_one_and_fail(path: str, line: str = "one", **options) -> None:
    with output_lines(path, **options) as put:
        put(line)
        raise ZeroDivisionError


def test_after_an_error_the_lines_are_apart_and_the_file_is_as_it_was(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text(BEFORE)
    with pytest.raises(ZeroDivisionError):
        put_one_and_fail(str(path))
    assert path.read_text() == BEFORE
    assert (tmp_path / "out.jsonl.partial").read_text() == "one\n"


def test_standard_output(capsys):
    with output_lines("-") as put:
        put("one")
        assert capsys.readouterr().out == "one\n"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("no/such/folder/out", "No such file or directory"),
        ("file/out", "Not a directory"),
        ("", "it is a folder"),
    ],
)
def test_a_place_that_cannot_be_written_is_named_before_the_first_line(tmp_path, path, reason):
    (tmp_path / "file").touch()
    place = str(tmp_path / path)
    with pytest.raises(UsageError) as caught, output_lines(place):
        pytest.fail("nothing should be generated")
    assert str(caught.value) == f"cannot save to {place}: {reason}"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full, on Linux alone")
def test_a_full_disk_is_one_line(tmp_path):
    """Closing the file tries to write once more, and fails again."""
    path = str(tmp_path / "out.jsonl")
    os.symlink("/dev/full", path + ".partial")
    with pytest.raises(UsageError) as caught, output_lines(path) as put:
        put("one")
    assert str(caught.value) == f"cannot save to {path}: {os.strerror(errno.ENOSPC)}"
    assert not os.path.exists(path)


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with output_lines(str(path)) as put:
        put("one")
        assert os.read(reader, 100) == b"one\n"
    os.close(reader)
    assert path.is_fifo()
    assert list(tmp_path.iterdir()) == [path]


def test_equal_ids_are_refused_by_both_lines(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"id": 1, "inputs": "a"}\n{"id": "1", "inputs": "b"}\n{"id": 1, "inputs": "c"}\n')
    with pytest.raises(UsageError, match=rf"{path}:3: id 1 is that of {path}:1 already"):
        read_requests(str(path))


def test_samples_of_a_prompt_share_its_id_and_are_not_sampled_again(tmp_path):
    served = [Request("a", "f:1", {"id": 1}), Request("b", "f:2", {"id": 2})]
    path = tmp_path / "out.jsonl"
    lines = [write_line(one, GENERATION) + "\n" for request in served for one in request.repeated(2)]
    path.write_text("".join(lines))
    asked = read_requests(str(path))
    assert [(one.extra["id"], one.extra["sample"]) for one in asked] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert asked[0].repeated(1) == asked[:1]
    with pytest.raises(UsageError, match=rf"{path}:1 has a field 'sample', .* 3 outputs .*: rename it, or"):
        asked[0].repeated(3)
    path.write_text("".join([*lines, lines[1]]))
    with pytest.raises(UsageError, match=rf"{path}:5: id 1, sample 1 is that of {path}:2 already"):
        read_requests(str(path))


DEFAULTS = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 9}


def test_a_line_may_bring_a_distribution_and_a_length_of_its_own():
    asked = [
        Request("a", "f:1", {"temperature": 1}),
        Request("b", "f:2", {"max_new_tokens": 3}),
    ]
    own = {"temperature": [1, 0.0], "max_new_tokens": [9, 3]}
    assert options(asked, DEFAULTS) == DEFAULTS | own
    assert options([Request("a", "f:1", {"note": "x"})], DEFAULTS) == DEFAULTS


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"temperature": "hot"}, "f:7: field 'temperature' is 'hot', must be a number"),
        ({"temperature": -1}, "f:7: temperature is -1.0, must be 0 or more"),
        ({"temperature": 10**400}, "f:7: temperature is inf, must be 0 or more"),
        ({"top_k": 1.5}, "f:7: field 'top_k' is 1.5, must be a whole number"),
        ({"top_p": True}, "f:7: field 'top_p' is True, must be a number"),
        ({"top_p": 0}, r"f:7: top_p is 0.0, must be in \(0, 1\]"),
        ({"max_new_tokens": 0}, "f:7: max_new_tokens is 0, must be at least 1"),
        ({"max_new_tokens": 2**32 + 5}, "f:7: max_new_tokens is 4294967301, .* at most 2147483647"),
    ],
)
def test_an_impossible_option_is_named_by_its_line(extra, message):
    with pytest.raises(UsageError, match=message):
        options([Request("a", "f:1", {}), Request("b", "f:7", extra)], DEFAULTS)


def test_whole_lines_of_a_run_that_was_cut_off_are_kept_and_the_torn_one_is_not(tmp_path):
    path = str(tmp_path / "out.jsonl")
    asked = [
        Request("ä", "f:1", {"id": 1, "outputs": "old"}),
        Request("b", "f:2", {"id": 2}),
        Request("c", "f:3", {}),
    ]
    assert finished(path, asked) == 0
    lines = [
        '{"id": 1, "inputs": "ä", "outputs": "x\u2028y"}\n',
        '{"id": 2, "inputs": "b", "outputs": "y"}\n',
    ]
    partial = tmp_path / "out.jsonl.partial"
    partial.write_text("".join(lines) + '{"inputs": "c", "outp', encoding="utf-8")
    assert finished(path, asked) == 2
    assert partial.read_text(encoding="utf-8") == "".join(lines)
    with output_lines(path, resume=True) as put:
        put("{}")
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == "".join(lines) + "{}\n"


def test_a_file_that_is_whole_answers_all_requests(tmp_path):
    path, asked = (
        tmp_path / "out.jsonl",
        [Request("a", "f:1", {}), Request("b", "f:2", {})],
    )
    path.write_text('{"inputs": "a"}\n')
    assert finished(str(path), asked[:1]) == 1
    with pytest.raises(UsageError, match=r"out.jsonl is whole with 1 of 2 outputs"):
        finished(str(path), asked)
    path.write_text('{"inputs": "a"}\n{}\n')
    with pytest.raises(UsageError, match=r"out.jsonl:2 is of another input"):
        finished(str(path), asked)
    path.write_text('{"inputs": "a"}\n{"inp')
    with pytest.raises(UsageError, match=r"out.jsonl:2 is cut off"):
        finished(str(path), asked)


def test_lines_made_otherwise_are_not_resumed(tmp_path):
    path, asked = (
        str(tmp_path / "out.jsonl"),
        [Request("a", "f:1", {}), Request("b", "f:2", {})],
    )
    made = {"model": "m", "seed": 0, "stop": ["x"]}
    with pytest.raises(ZeroDivisionError):
        put_one_and_fail(path, '{"inputs": "a"}', settings=made)
    with pytest.raises(UsageError, match=r"out.jsonl.partial was made with seed 0 and not 1: resume with"):
        finished(path, asked, made | {"seed": 1})
    assert finished(path, asked, made) == 1
    with output_lines(path, resume=True, settings=made) as put:
        put('{"inputs": "b"}')
    assert [file.name for file in tmp_path.iterdir()] == ["out.jsonl"]
    assert finished(path, asked, made) == 2


@pytest.mark.parametrize("asked", [[Request("b", "f:1", {})], [Request("a", "f:1", {"id": 2})], []])
def test_lines_of_other_requests_are_not_resumed(tmp_path, asked):
    (tmp_path / "out.partial").write_text('{"id": 1, "inputs": "a"}\n')
    with pytest.raises(UsageError, match=r"out.partial:1 is of another input"):
        finished(str(tmp_path / "out"), asked)


@pytest.mark.parametrize("resume", [False, True])
def test_two_processes_do_not_write_one_output(tmp_path, resume):
    """The lines of both came into one file, in turn."""
    path = str(tmp_path / "out")
    refused = pytest.raises(UsageError, match="another process is writing it")
    with output_lines(path, settings={"seed": 0}) as put:
        put(BEFORE.strip())
        with refused, output_lines(path, resume, settings={"seed": 0}):
            pytest.fail("nothing should be generated")
        with refused:
            finished(path, [])
        put("two")
    assert (tmp_path / "out").read_text() == f"{BEFORE.strip()}\ntwo\n"
    assert [there.name for there in tmp_path.iterdir()] == ["out"]
