"""A small package `tiny-words` with a GGUF, which stands for the one that SmolLM2's weights come with."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillspec_jax.models import zoo_manifest
from tests.interop import tiny_gguf


def install(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Installs it below a folder, which has the zoo and the cache, too; returns where packages are."""
    site = root / "site"
    (site / "tiny_words").mkdir(parents=True)
    (site / "tiny_words" / "__init__.py").touch()
    (site / "tiny_words-1.2.dist-info").mkdir()
    (site / "tiny_words-1.2.dist-info" / "METADATA").write_text("Name: tiny-words\nVersion: 1.2\n")
    tiny_gguf.write(site / "tiny_words" / "tiny.gguf", "qwen2")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("DISTILLSPEC_CACHE", str(root / "cache"))
    monkeypatch.setattr(zoo_manifest, "ROOT", root / "zoo")
    found = zoo_manifest.Package("tiny-words", "1.2", "tiny_words", "tiny.gguf", "tiny")
    monkeypatch.setattr(zoo_manifest, "PACKAGED", {"smollm2/target": found})
    return site
