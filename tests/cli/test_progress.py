"""Progress lines: overwritten on a terminal, at a steady interval in a log."""

from __future__ import annotations

import time

import pytest

from distillspec_jax.cli import sweep
from distillspec_jax.cli.progress import ProgressLine, heartbeat
from distillspec_jax.decoding.engine import DecodingProgress
from distillspec_jax.evaluation.sweep import SweepProgress


def test_a_log_gets_a_line_an_interval(capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    line = ProgressLine(interval=30.0, clock=lambda: now[0])
    for now[0] in (101.0, 129.9, 130.0, 159.0, 171.0):
        line(f"at {now[0]:g}")
    line("the end", last=True)
    assert capsys.readouterr() == ("", "at 130\nat 171\n")


def test_a_terminal_gets_one_line_that_is_overwritten(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    line = ProgressLine()
    line.prompts(DecodingProgress(done_prompts=1, total_prompts=2, emitted_tokens=5))
    line.prompts(DecodingProgress(done_prompts=2, total_prompts=2, emitted_tokens=9))
    assert capsys.readouterr() == ("", "\r1/2 prompts, 5 tokens\r2/2 prompts, 9 tokens\n")


def wait_for(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed to standard error until the words were."""
    seen, end = "", time.monotonic() + 60
    while words not in seen and time.monotonic() < end:
        time.sleep(0.001)
        seen += capsys.readouterr().err
    return seen


def test_a_log_hears_of_a_step_that_calls_nobody_back(capsys: pytest.CaptureFixture[str]) -> None:
    with heartbeat("reading", interval=0.001) as doing:
        assert "reading: 0 s\n" in wait_for("reading: 0 s\n", capsys)
        doing("writing")
        assert "writing: 0 s\n" in wait_for("writing: 0 s\n", capsys)
    capsys.readouterr()
    time.sleep(0.01)
    assert capsys.readouterr().err == "", "it ends with its job"


def test_a_heartbeat_is_silent_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with heartbeat("reading", interval=0.001) as doing:
        doing("writing")
        time.sleep(0.01)
    assert capsys.readouterr() == ("", "")


def test_a_sweep_names_its_cells_and_how_long_they_take(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with sweep.shown(0.001) as progress:
        progress(SweepProgress(3, 12, "block size 5"))
        assert "[3/12] block size 5: 0 s\n" in wait_for("block size 5: 0 s\n", capsys)
