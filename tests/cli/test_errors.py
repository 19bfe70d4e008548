"""How commands end: exit statuses and the one line on stderr."""

import contextlib
import errno
import os
import subprocess
import sys
import threading

import jax
import pytest

from distillspec_jax.cli import bindings, distributed, errors
from distillspec_jax.cli.flags import CommandParser
from distillspec_jax.errors import Unavailable, UsageError
from tests.cli import gin_toy


def ends(raised: BaseException, capsys: pytest.CaptureFixture) -> tuple[int, str]:
    def main(argv: list[str]) -> int:
        raise raised

    status = errors.run(main, [], command="distill")
    return status, capsys.readouterr().err


class Preempted(BaseException):
    exit_status = 75


def test_success_passes_through(capsys):
    assert errors.run(lambda argv: len(argv), ["a"] * 3, command="distill") == 3
    assert capsys.readouterr().err == ""


def test_a_usage_error_is_one_line(capsys):
    status, stderr = ends(UsageError("--block_size=0: must be\n  at least 1"), capsys)
    assert (status, stderr) == (2, "distillspec distill: error: --block_size=0: must be at least 1\n")


def test_a_usage_error_that_explains_another_error_is_still_one_line(capsys):
    def main(argv: list[str]) -> int:
        try:
            return int("five")
        except ValueError as error:
            raise UsageError("--block_size=five: a whole number") from error

    assert errors.run(main, [], command="distill") == 2
    assert capsys.readouterr().err == "distillspec distill: error: --block_size=five: a whole number\n"


def test_preemption_is_news_and_not_an_error(capsys):
    assert ends(Preempted("resumable, step 120"), capsys) == (
        75,
        "distillspec distill: resumable, step 120\n",
    )


def test_what_may_pass_is_an_error_that_launchers_try_again(capsys):
    said = "distillspec distill: error: cannot save to gs://b: reset\n"
    assert ends(Unavailable("cannot save to gs://b: reset"), capsys) == (75, said)


def test_interrupt(capsys):
    assert ends(KeyboardInterrupt(), capsys) == (130, "distillspec distill: interrupted\n")


def test_a_missing_file_names_its_neighbour(tmp_path, capsys):
    (tmp_path / "prompts.jsonl").touch()
    path = tmp_path / "promts.jsonl"
    status, stderr = ends(FileNotFoundError(errno.ENOENT, "No such file or directory", str(path)), capsys)
    assert status == 2
    assert f"{str(path)!r}; in {tmp_path}: did you mean 'prompts.jsonl'?" in stderr
    assert stderr.count("\n") == 1


def test_a_missing_folder_is_told_from_a_missing_file(tmp_path, capsys):
    path = tmp_path / "nowhere" / "prompts.jsonl"
    _, stderr = ends(FileNotFoundError(errno.ENOENT, "No such file or directory", str(path)), capsys)
    assert f"there is no folder {str(path.parent)!r} either" in stderr


@pytest.mark.parametrize(
    "raised",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("RESOURCE_EXHAUSTED: Error writing 'd/0': No space left on device [os_error_code='28']"),
    ],
)
def test_a_full_disk(raised, capsys):
    status, stderr = ends(raised, capsys)
    assert (status, stderr) == (2, "distillspec distill: error: no space left on the device\n")


def test_a_full_disk_behind_another_error_names_the_file(capsys):
    wrapped = RuntimeError("saving failed")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device", "runs/a/params")
    assert ends(wrapped, capsys)[1].endswith("no space left on the device while writing 'runs/a/params'\n")


def test_a_device_without_memory(capsys):
    said = (
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.\nBufferAssignment: …"
    )
    status, stderr = ends(jax.errors.JaxRuntimeError(said), capsys)
    assert status == 2
    begin = "distillspec distill: error: a device ran out of memory (Out of memory while trying to allocate"
    assert stderr.startswith(
        f"{begin} 17179869184 bytes.): in training, raise NUM_PARTITIONS or MICROBATCHES"
    )
    assert stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("raised", "status"), [(UsageError("bad"), 2), (Preempted("stopped"), 75), (KeyError(1), 1)]
)
def test_a_host_that_ends_does_not_wait_for_the_others(raised, status, capsys, monkeypatch):
    """They may wait for it in a collective operation, and JAX for them, for five minutes."""
    left, stuck = [], threading.Event()
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax.distributed, "shutdown", stuck.wait)
    monkeypatch.setattr(distributed, "LEAVES_WITHIN", 0.0)
    monkeypatch.setattr(os, "_exit", left.append)
    with contextlib.suppress(KeyError):
        ends(raised, capsys)
    stuck.set()
    assert left == [status]


@pytest.mark.parametrize(
    "raised", [ZeroDivisionError("ours"), OSError(errno.EIO, "ours"), ValueError("ours")]
)
def test_a_defect_keeps_its_traceback(raised, capsys):
    with pytest.raises(type(raised), match="ours"):
        ends(raised, capsys)


def test_the_traceback_on_request(capsys, monkeypatch):
    monkeypatch.setenv("DISTILLSPEC_TRACEBACK", "1")
    status, stderr = ends(UsageError("bad"), capsys)
    assert status == 2
    assert "Traceback" in stderr
    assert stderr.endswith("distillspec distill: error: bad\n")


def run_job(job, *argv: str) -> int:
    """Runs a job as a command does, configured by gin, which wraps whatever the job raises."""

    def main(argv: list[str]) -> int:
        configured, _ = bindings.bind(job, CommandParser("distill", "", gin=True).parse(argv).gin)
        configured()
        return 0

    return errors.run(main, list(argv), command="distill")


def raise_usage_error() -> None:
    raise UsageError("no such task")


def raise_preempted() -> None:
    raise Preempted("resumable, step 7")


@pytest.mark.parametrize(
    ("job", "argv", "status", "says"),
    [
        (raise_usage_error, [], 2, "error: no such task\n"),
        (raise_preempted, [], 75, "distill: resumable, step 7\n"),
        (
            gin_toy.read_missing_file,
            ["--gin.read_missing_file.path=/nowhere/x"],
            2,
            "no such file or directory",
        ),
    ],
)
def test_gin_hides_neither_class_nor_text_of_an_error(job, argv, status, says, capsys):
    assert run_job(job, *argv) == status
    stderr = capsys.readouterr().err
    assert says in stderr
    assert "configurable" not in stderr


def test_a_function_called_by_gin_without_a_value(tmp_path, capsys):
    config = tmp_path / "a.gin"
    config.write_text(
        "from __gin__ import dynamic_registration\nfrom tests.cli import gin_toy\n"
        "gin_toy.train.model = @gin_toy.schedule()\ngin_toy.train.model_dir = 'x'\n"
    )
    assert run_job(gin_toy.train, f"--gin_file={config}") == 2
    assert "schedule needs a value for 'peak': bind it in a gin file" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error():
    code = (
        "import sys\n"
        "from distillspec_jax.cli import errors\n"
        "def main(argv):\n"
        "    print('first', flush=True)\n"
        "    sys.stdin.read()\n"
        "    print('second')\n"
        "    return 0\n"
        "raise SystemExit(errors.run(main, [], command='generate'))"
    )
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code], env=buffered, **pipes) as process:
        assert process.stdout.readline() == b"first\n"
        process.stdout.close()
        process.stdin.close()  # only now may it print again
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_message_that_quotes_a_name_commands_no_terminal(capsys):
    status, stderr = ends(UsageError("unknown model '\x1b[2J\u202exam\udcff\r'"), capsys)
    assert status == 2
    assert stderr == "distillspec distill: error: unknown model '\\x1b[2J\\u202exam\\udcff '\n"
