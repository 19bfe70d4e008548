"""The demo of a language model that comes with a package, here a small one, and of its shipped draft."""

import json

import pytest

from distillspec_jax import model_card
from distillspec_jax.cli.main import main
from distillspec_jax.interop import packaged
from distillspec_jax.models import layer_subset, pretrained
from distillspec_jax.showcase import smollm2, timed_training
from tests.interop import tiny_package


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    tiny_package.install(tmp_path, monkeypatch)
    target = pretrained.load(smollm2.TARGET)
    draft = pretrained.with_shortlist(layer_subset.cut(target, (1,)), range(200), "texts")
    packaged.ship(draft, target, tmp_path / "zoo" / "smollm2" / "draft")
    monkeypatch.setattr(smollm2, "BLOCK_SIZES", (2,))
    monkeypatch.setattr(smollm2, "HEADLINE_BLOCK_SIZE", 2)
    monkeypatch.setattr(smollm2, "MAX_NEW_TOKENS", 8)
    monkeypatch.setattr(smollm2, "TIMED", 1)
    monkeypatch.setattr(smollm2, "BATCH_SIZE", 2)
    monkeypatch.setattr(timed_training, "steps_in", lambda *args, **kwargs: 1)


def test_it_measures_the_shipped_draft_and_with_minutes_one_trained_on(shipped, tmp_path, capsys):
    flags = ["demo", "--family=smollm2", f"--output_dir={tmp_path / 'out'}", "--prompts=2"]
    assert main(flags) == 0
    found = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert found["task"] == "open_prompts"
    assert {row["drafter"] for row in found["rows"]} == {"none", "lookup", "distilled"}
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    greedy = [row for row in rows if row["temperature"] == 0 and row["drafter"] != "none"]
    assert [row["matches_autoregressive"] for row in greedy] == [2, 2]
    assert "<html" in (tmp_path / "out" / "report.html").read_text()

    assert main([*flags, "--minutes=1"]) == 0
    found = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {row["drafter"] for row in found["rows"]} >= {"shipped", "distilled"}
    trained = tmp_path / "out" / "models" / "open_prompts-distilled-1"
    assert model_card.read_card(trained).shortlist == list(range(200))  # the target was in memory
    assert main(["demo", "--family=smolm2"]) == 2
    assert "no family 'smolm2'" in capsys.readouterr().err
