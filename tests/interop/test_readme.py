"""What the README of an exported draft tells of its acceptance."""

import json

import pytest

from distillspec_jax.interop import readme
from distillspec_jax.models import layer_subset, pretrained
from tests import pair

LINES = [{"step": step, "split": "eval", "acceptance_expected_T0": step / 4} for step in (0, 1, 2)]
CHECKED = {"distribution": "T1", "prompts": 32, "positions": 1234, "accepted": 0.5, "expected": 0.6}


@pytest.fixture
def best(tmp_path):
    """The best of a run is of its step 1."""
    directory = tmp_path / "run" / "best"
    pair.write(directory, pair.draft())
    lines = "".join(json.dumps(line) + "\n" for line in LINES)
    (directory.parent / "metrics.jsonl").write_text(lines + '{"step": 1, "acc')  # a kill cut it short
    (directory / "selection.json").write_text("{}")
    return directory


def of(directory):
    model = pretrained.load(str(directory))
    return readme.text(model, model.num_parameters)


def test_the_best_of_a_run_has_the_acceptance_of_its_own_step(best):
    assert "held-out prompts:\n\n- acceptance_expected_T0: 0.2500\n\n## Provenance" in of(best)


def test_the_best_of_a_run_is_called_by_the_runs_name(best, monkeypatch):
    assert of(best).startswith("# run\n")
    monkeypatch.chdir(best.parent)
    assert of("best").startswith("# run\n")
    (best / "selection.json").unlink()
    assert of(best).startswith("# best\n")


def test_a_check_after_training_is_told_beside(best):
    (best / "agreement.json").write_text(json.dumps(CHECKED))
    checked = "- acceptance_expected_T1: 0.6000\n\nUnder T1 it accepted 0.5000 of the 1,234 drafted tokens"
    assert f"- acceptance_expected_T0: 0.2500\n{checked}" in of(best)
    (best.parent / "metrics.jsonl").unlink()
    assert f"held-out prompts:\n\n{checked}" in of(best)


def test_a_shortlist_leaves_what_was_measured_before_it(best, tmp_path):
    loaded = pretrained.load(str(best))
    pretrained.save(pretrained.with_shortlist(loaded, [1, 300], "texts"), str(tmp_path / "shortlisted"))
    assert "- acceptance_expected_T0: 0.2500\n" in of(tmp_path / "shortlisted")


def test_a_draft_of_some_layers_was_never_measured(best, tmp_path):
    cut = layer_subset.cut(pretrained.load(str(best)), [0])
    pretrained.save(pretrained.with_shortlist(cut, [1, 300], "texts"), str(tmp_path / "cut"))
    assert "Acceptance" not in of(tmp_path / "cut")
