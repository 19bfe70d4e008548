"""Drafts that are taken into a registry: what comes along, and what stays out."""

import dataclasses

import jax
import numpy as np
import pytest

from distillspec_jax import model_card
from distillspec_jax.errors import UsageError
from distillspec_jax.models import pretrained
from distillspec_jax.operations import admission
from tests import pair


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    target = pair.write(folder / "target", pair.target())
    draft = pair.write(folder / "draft", pair.draft())
    (folder / "draft" / "checkpoints" / "1" / "optimizer").mkdir()
    (folder / "draft" / "metrics.jsonl").write_text("")
    return folder, target, draft


def test_a_version_is_the_draft_without_what_training_needs(tmp_path, models):
    """Moments of the optimizer were copied into each version, or its tokenizer was not."""
    _, target, draft = models
    registry = admission.create(tmp_path / "drafts", target, draft)
    folder = registry.path_of(registry.state().stable)
    served = pretrained.load(str(folder))
    jax.tree.map(np.testing.assert_array_equal, served.params, pair.draft().params)
    assert served.tokenizer_bytes == pair.draft().tokenizer_bytes
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoints",
        "lineage.json",
        "model.json",
        "tokenizer.model",
    ]
    assert [path.name for path in (folder / "checkpoints" / "1").iterdir()] == ["params"]
    registry.check("v1")


def test_the_parent_is_the_version_that_training_began_with(tmp_path, models):
    _, target, draft = models
    registry = admission.create(tmp_path / "drafts", target, draft)
    parents = {"draft": str(registry.path_of("v1")), "target": target}
    provenance = {"command": "distillspec distill", "gin": "X = 1", "parents": parents}
    card = dataclasses.replace(pair.draft().card, provenance=provenance)
    child = pair.write(tmp_path / "child", dataclasses.replace(pair.draft(), card=card))
    assert admission.add(registry, child, seconds=12.5) == "v2"
    found = registry.check("v2")
    assert (found.parent, found.training.seconds, found.training.gin) == ("v1", 12.5, "X = 1")
    assert registry.lineage("v1").parent is None
    assert registry.state().stable == "v1"


def test_what_is_refused(tmp_path, models):
    _, target, draft = models
    registry = admission.create(tmp_path / "drafts", target, draft)
    foreign = dataclasses.replace(pair.draft().card, tokenizer_fingerprint="b" * 64)
    other = pair.write(
        tmp_path / "other", dataclasses.replace(pair.draft(), card=foreign, tokenizer_bytes=None)
    )
    unknown = dataclasses.replace(foreign, tokenizer_fingerprint=None)
    nameless = pair.write(
        tmp_path / "nameless", dataclasses.replace(pair.draft(), card=unknown, tokenizer_bytes=None)
    )
    empty = tmp_path / "empty"
    model_card.write_card(empty, pair.draft().card, None)
    for name, options, said in (
        (other, {}, "has another vocabulary than target"),
        (nameless, {}, "vocabulary of .*nameless is unknown"),
        (str(empty), {}, "holds no finished checkpoint"),
        (f"{draft}@int8", {}, "keeps what is stored, write"),
        (draft, {"target": draft}, "drafts of another target"),
        (draft, {"version": "a/b"}, "a name has up to 64"),
    ):
        with pytest.raises(UsageError, match=said):
            admission.add(registry, name, **options)
    assert registry.versions() == ["v1"]
    assert admission.add(registry, nameless, assume_same_vocabulary=True, target=target) == "v2"
    registry.check("v2")
    with pytest.raises(UsageError, match="choose an empty directory"):
        admission.create(tmp_path / "drafts", target, draft)
