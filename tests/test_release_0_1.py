"""Checkpoints, stored sets and results that 0.1.0 wrote are read (tests/fixtures/release_0_1 says how)."""

import json
from pathlib import Path

import numpy as np
import pytest

from distillspec_jax.data.target_set import TargetSet, token_mass
from distillspec_jax.evaluation import results
from distillspec_jax.models import fingerprints, pretrained
from distillspec_jax.reports.html import report

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "fixtures" / "release_0_1"
RESULTS = [FOLDER / "results.jsonl"] + [
    path
    for path in sorted((ROOT / "docs" / "results").rglob("results.jsonl"))
    if '"version": "0.1.0"' in path.read_text()
]


def test_a_checkpoint_is_read_to_the_last_bit():
    model = pretrained.load(str(FOLDER / "target"))
    header = TargetSet(FOLDER / "set").header
    assert fingerprints.of_params(model.params) == header.target_fingerprint, "as 0.1.0 itself reckoned it"
    assert model.card.tokenizer_fingerprint == header.tokenizer_fingerprint
    assert (model.card.family, model.card.prefix) == ("t5", "say: ")
    assert model.card.feature_lengths == {"inputs": 16, "targets": 6}


def test_a_stored_set_is_read_with_its_log_probabilities():
    stored = TargetSet(FOLDER / "set")
    header = stored.header
    assert (header.task, header.rows, header.samples, header.top_logprobs) == ("mine", 3, 2, 4)
    assert header.temperature == [0.0, 1.0]
    assert [len(text["tokens"]) for text in stored.texts] == [6, 6, 6, 6, 6, 3]
    found = list(stored.logprobs())
    assert sum(len(one.ids_NK) for one in found) == 33
    for text, one in zip(
        stored.texts, np.split(np.concatenate([f.ids_NK for f in found]), [6, 12, 18, 24, 30]), strict=True
    ):
        assert one.shape == (len(text["tokens"]), 4)
        if text["sample"] == 0:  # greedy: each token is the likeliest
            assert one[:, 0].tolist() == text["tokens"]
    assert 0.5 < token_mass(stored).sum() <= 1 + 1e-6


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_results_are_read_and_written_as_they_were(path):
    rows = results.read([path])
    assert {row.version for row in rows} == {"0.1.0"}
    assert [row.to_json() for row in rows] == [json.loads(line) for line in path.read_text().splitlines()]
    assert not any(row.unknown for row in rows)


def test_results_make_a_page(tmp_path):
    rows = results.read(RESULTS[:1])
    assert [(row.drafter, row.temperature) for row in rows] == [
        ("none", 0.0),
        ("none", 1.0),
        ("itself", 0.0),
        ("itself", 1.0),
    ]
    assert "6 held-out prompts of prompts" in report(rows, tmp_path / "r.html").read_text()
