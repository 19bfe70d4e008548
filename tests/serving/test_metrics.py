"""The counters of a server, as `watch` reads them."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest

from distillspec_jax.acceptance import Record
from distillspec_jax.cli.main import main
from distillspec_jax.serving.metrics import Metrics
from distillspec_jax.serving.sample import Ending


def test_a_server_that_has_answered_nothing_is_no_other_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its first scrape was taken for vLLM's, and every later one was refused."""
    metrics = Metrics("tiny", lambda: (0, 0), lambda: ["v1"])
    record = Record(
        emitted_tokens=9,
        target_calls=4,
        tested=7,
        accepted=5,
        drafted=8,
        tested_at=(4, 3),
        accepted_at=(3, 2),
    )
    sample = types.SimpleNamespace(
        ending=Ending("stop", record, "v1"),
        prompt=types.SimpleNamespace(ids=[2, 3]),
        arrived=1.0,
        first_token=2.0,
        ended=3.0,
    )
    scrape = tmp_path / "scrape.txt"
    for _ in range(3):
        scrape.write_bytes(metrics.text())
        status = main(["watch", str(scrape), "--at_least=0.1", f"--state={tmp_path / 'state.json'}"])
        assert status == 3, capsys.readouterr().err
        metrics.ended(sample)  # type: ignore[arg-type]
    (stream,) = json.loads((tmp_path / "state.json").read_text())["streams"]
    assert (stream["engine"], stream["texts"]) == ("distillspec", 2)
