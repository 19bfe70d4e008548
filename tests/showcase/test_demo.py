"""The demo end to end, on a zoo of tiny untrained models."""

import json
import math

import jax
import pytest
from markupsafe import escape

from distillspec_jax import checkpoint, model_card
from distillspec_jax.cli.main import main
from distillspec_jax.data.examples import examples
from distillspec_jax.models import registry, zoo_manifest
from distillspec_jax.models.t5 import EncoderDecoder, T5Config, init_params
from distillspec_jax.showcase import demo, recipes
from distillspec_jax.tokenization.tokenizer import embedded_tokenizer


@pytest.fixture(scope="module")
def tiny_zoo(tmp_path_factory):
    """A zoo whose target and draft have one layer and 8 or 16 dimensions."""
    root = tmp_path_factory.mktemp("zoo")
    tokenizer = embedded_tokenizer()
    for number, (name, width) in enumerate({"target": 16, "draft": 8}.items()):
        config = T5Config(tokenizer.vocab_size, width, 2, 4, 1, 1, 16, logits_via_embedding=True)
        model = EncoderDecoder(config)
        family, described = registry.describe(model)
        card = model_card.ModelCard(family, described, model_card.fingerprint(tokenizer.model_bytes))
        model_card.write_card(root / name, card, tokenizer.model_bytes)
        checkpoint.save_params(root / name, 1, init_params(model, jax.random.key(number)))
    models = {name: {"description": name, "parameters": 1} for name in ("target", "draft")}
    aliases = {f"wiki_leads/{name}": name for name in models}
    (root / "zoo.json").write_text(json.dumps({"models": models, "aliases": aliases}))
    return root


@pytest.fixture
def in_tiny_zoo(tiny_zoo, monkeypatch):
    monkeypatch.setattr(zoo_manifest, "ROOT", tiny_zoo)
    zoo_manifest.manifest.cache_clear()
    monkeypatch.setattr(demo, "BLOCK_SIZES", (2,))
    monkeypatch.setattr(demo, "HEADLINE_BLOCK_SIZE", 2)
    monkeypatch.setattr(demo, "MAX_NEW_TOKENS", 8)
    monkeypatch.setattr(demo, "SHORTLIST_PROMPTS", 2)
    monkeypatch.setattr(recipes, "BATCH_SIZE", 3)
    recipe = recipes.Recipe("wiki_leads", {"inputs": 32, "targets": 8}, steps=2, eval_limit=3)
    monkeypatch.setattr(demo, "RECIPES", {"wiki_leads": recipe})
    yield
    zoo_manifest.manifest.cache_clear()


def test_demo_writes_its_report_and_a_summary_that_agrees_with_its_results(in_tiny_zoo, tmp_path, capsys):
    assert main(["demo", f"--output_dir={tmp_path}", "--prompts=6"]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    page = (tmp_path / "report.html").read_text()
    assert "<html" in page
    for shown in examples("wiki_leads", split="test", limit=demo.EXAMPLES):
        assert page.count(str(escape(shown.inputs_text))) == 2  # decoded with the draft before and after
    assert summary["task"] == "wiki_leads"
    drafters = {row["drafter"] for row in summary["rows"]}
    assert drafters == {"none", "supervised", "control", "distilled", demo.SAME_TIME, demo.SHORTLISTED}
    for row in summary["rows"]:
        if row["drafter"] == "none":
            assert row["block_efficiency"] == 1.0
            continue
        (measured,) = [
            r for r in rows if all(r[k] == row[k] for k in ("drafter", "temperature", "block_size"))
        ]
        assert math.isclose(row["block_efficiency"], measured["emitted_tokens"] / measured["target_calls"])
        low, high = row["block_efficiency_ci95"]
        assert low <= row["block_efficiency"] <= high
    greedy = [row for row in rows if row["temperature"] == 0 and row["drafter"] != "none"]
    assert greedy
    assert all(row["matches_autoregressive"] == row["prompts"] for row in greedy)

    # A second call finds everything done: nothing is trained or measured again.
    before = (tmp_path / "results.jsonl").read_text()
    assert main(["demo", f"--output_dir={tmp_path}", "--prompts=6"]) == 0
    assert (tmp_path / "results.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task=wiki_leeds"], "did you mean 'wiki_leads'"),
        (["--minutes=0"], "--minutes=0.0: must be positive"),
        (["--prompts=0"], "--prompts=0: must be at least 1"),
        (["--family=t4"], "the zoo has no family 't4': did you mean 't5'?"),
        (["--family=decoder"], "the zoo has no model 'wiki_leads/decoder_target'"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(in_tiny_zoo, tmp_path, capsys, flags, message):
    output = tmp_path / "out"
    assert main(["demo", f"--output_dir={output}", *flags]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not output.exists()
