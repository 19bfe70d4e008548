"""DecodingProgress lines: overwritten on a terminal, at a steady interval in a log."""

from __future__ import annotations

import pytest

from distillspec_jax.cli.progress import ProgressLine
from distillspec_jax.decoding.engine import DecodingProgress


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
