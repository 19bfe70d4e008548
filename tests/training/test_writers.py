"""Where metrics go, and what a restart makes of what is there."""

import json
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from distillspec_jax.training.writers import ConsoleWriter, JsonlWriter, Reports, TensorBoardWriter


def jsonl(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_a_line_a_report(tmp_path):
    writer = JsonlWriter(tmp_path, 0)
    writer.write(3, {"loss": 0.1 + 0.2}, "train")
    writer.write(4, {"loss": 1}, "eval")
    assert jsonl(tmp_path) == [
        {"step": 3, "split": "train", "loss": 0.1 + 0.2},
        {"step": 4, "split": "eval", "loss": 1.0},
    ]


def test_lines_past_the_step_of_a_restart_are_forgotten(tmp_path):
    writer = JsonlWriter(tmp_path, 0)
    for step in (2, 4, 6):
        writer.write(step, {"loss": step}, "train")
    writer.write(4, {"nll": 0.0}, "eval")
    resumed = JsonlWriter(tmp_path, 4)
    assert [line["step"] for line in jsonl(tmp_path)] == [2, 4, 4]
    assert resumed.holds(4, "eval")
    assert resumed.holds(2, "train")
    assert not resumed.holds(6, "train")
    assert not resumed.holds(2, "eval")


@pytest.mark.parametrize("torn", ['{"step": 4, "spl', "[]", '{"loss": 1}'])
def test_a_torn_line_and_what_follows_it_are_dropped(tmp_path, torn):
    JsonlWriter(tmp_path, 0).write(2, {"loss": 1.0}, "train")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn + "\n" + '{"step": 3, "split": "train"}\n')
    JsonlWriter(tmp_path, 9).write(5, {}, "train")
    assert [line["step"] for line in jsonl(tmp_path)] == [2, 5]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def events(path):
    """TFRecord framing: length, its checksum, the event, its checksum."""
    content, found = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def test_tensorboard_gets_the_scalars(tmp_path):
    writer = TensorBoardWriter(tmp_path, 0)
    writer.write(3, {"loss": 0.5, "nll": 2}, "train")
    (file,) = (tmp_path / "tensorboard").iterdir()
    found = [(e.step, v.tag, v.simple_value) for e in events(file) for v in e.summary.value]
    assert found == [(3, "train/loss", 0.5), (3, "train/nll", 2.0)]
    writer.close()


def test_tensorboard_forgets_from_the_step_of_a_restart(tmp_path):
    TensorBoardWriter(tmp_path, 0).close()
    TensorBoardWriter(tmp_path, 4).close()  # within the same second: a file of its own
    files = sorted((tmp_path / "tensorboard").iterdir())
    starts = [e.step for file in files for e in events(file) if e.session_log.status == SessionLog.START]
    assert starts == [1, 5]


def test_the_console_tells_step_values_and_time_left(capsys, monkeypatch):
    clock = iter([0.0, 60.0, 90.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    writer = ConsoleWriter("training", 40, 10)
    writer.write(20, {"loss": 1.23456, "tokens_per_s": 12345.6}, "train")
    assert capsys.readouterr().err == "train     20/40  loss 1.235  tokens_per_s 12,346  left 2.0 min\n"
    writer.write(10, {"loss": 1.5}, "eval")
    assert capsys.readouterr().err == "eval      10/40  loss 1.5\n"


def test_a_note_is_not_taken_for_markup(capsys):
    ConsoleWriter("training", 1, 0).note("/a[bold]/b")
    assert capsys.readouterr().err == "/a[bold]/b\n"


def test_reports_reach_every_writer(tmp_path, capsys):
    with Reports(tmp_path, "training", 10, 0) as reports:
        reports.write(5, {"loss": 2.0}, "train")
    assert jsonl(tmp_path) == [{"step": 5, "split": "train", "loss": 2.0}]
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert [e.step for e in events(file) if e.summary.value] == [5]
    assert "loss 2" in capsys.readouterr().err


def test_what_is_no_number_is_null_and_old_lines_lose_theirs(tmp_path):
    """0.1 wrote NaN as it is, which no reader of JSON takes; its logs go on."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "split": "train", "loss": NaN, "nll": Infinity}\n')
    writer = JsonlWriter(tmp_path, 4)
    writer.write(4, {"loss": float("nan"), "nll": 2.0}, "train")
    assert writer.holds(2, "train")
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"step": 2, "split": "train", "loss": null, "nll": null}\n'
        '{"step": 4, "split": "train", "loss": null, "nll": 2.0}\n'
    )


@pytest.mark.parametrize(
    "line", ['{"step": "3", "split": "train"}', '{"step": 3, "split": ["a"]}', "[" * 10**5]
)
def test_a_line_of_other_types_is_a_torn_one(tmp_path, line):
    """Comparing its step was a traceback."""
    JsonlWriter(tmp_path, 0).write(2, {"loss": 1.0}, "train")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    JsonlWriter(tmp_path, 9)
    assert [found["step"] for found in jsonl(tmp_path)] == [2]


def test_a_note_and_a_description_command_no_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # Rich then takes any stream for a terminal
    writer = ConsoleWriter("[/b]\x1b]0;t\x07", 1, 0)
    writer.note("a\x1b[2Jb:smile:")
    writer.close()
    said = capsys.readouterr().err
    assert "a\\x1b[2Jb:smile:" in said
    assert "[/b]\\x1b]0;t\\x07" in said
