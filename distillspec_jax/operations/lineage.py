"""The lineage of a draft's version: what it was made of, how it was judged, and a digest of each file.

It is `lineage.json` in the version's folder and is written last, before the folder gets its name.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillspec_jax import files, schema
from distillspec_jax.errors import UsageError
from distillspec_jax.model_card import MODEL_FILE
from distillspec_jax.schema import Amount, Count, Text

FILE = "lineage.json"
VERSION = 1
_WHAT = "a draft's lineage"
_CHECKPOINTS, _WHOLE = "checkpoints", "params/_METADATA"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How a draft was trained.

    Attributes:
      command, gin: what was called, with which bindings.
      steps: of training.
      seconds: that it took; None where nobody measured it.
      data, data_fingerprint: the task, and what its source says of its rows.
    """

    command: str | None = None
    gin: str | None = None
    steps: Count | None = None
    seconds: Amount | None = None
    data: Text | None = None
    data_fingerprint: Text | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lineage:
    """The lineage of one version.

    Attributes:
      source: the draft that was copied.
      step: of its parameters.
      parent: the version that its training began with; None where that was none of this registry.
      started_from: the same as it was called.
      added: seconds since 1970.
      target, target_fingerprint: whose draft it is; see `models.fingerprints.of_params`.
      vocabulary: fingerprint of its tokenizer; None where it has none, and somebody vouched for it.
      training: how it was trained, as far as it is known.
      gate: the gate's result, where it passed one.
      files: digest of every file of the version but this one, by its path in the folder.
      unknown: fields of newer releases.
    """

    source: Text
    step: Count
    parent: Text | None = None
    started_from: Text | None = None
    added: Amount
    target: Text
    target_fingerprint: Text
    vocabulary: Text | None
    training: Training
    gate: dict[str, Any] | None = None
    files: dict[str, Text] = dataclasses.field(default_factory=dict)
    unknown: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)


@dataclasses.dataclass(frozen=True)
class _Card:
    """The part of a model's card that is compared."""

    tokenizer_fingerprint: Text | None = None


def read(folder: Path) -> Lineage:
    """Reads a version's lineage.

    Raises:
      UsageError: there is none, or it is damaged.
    """
    path = folder / FILE
    found = schema.read_object(path, _WHAT)
    if (version := found.pop("lineage_version", None)) != VERSION:
        raise UsageError(f"{path}: not {_WHAT}: lineage version {version!r}, this release reads {VERSION}")
    return schema.read(Lineage, found, str(path), _WHAT)


def write(folder: Path, lineage: Lineage) -> None:
    """Writes a version's lineage, with digests of the files that are there."""
    fields = dataclasses.asdict(dataclasses.replace(lineage, files=digests(folder)))
    unknown = fields.pop("unknown")
    files.write_json(folder / FILE, {"lineage_version": VERSION, **fields, **unknown})


def digests(folder: Path) -> dict[str, str]:
    """Computes the digest of every file in a version's folder but its lineage."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != FILE:
            with path.open("rb") as content:
                found[name] = hashlib.file_digest(content, "sha256").hexdigest()[:32]
    return found


def check(folder: Path) -> Lineage:
    """Checks that a version is as it was added: immutable, and whole.

    Raises:
      UsageError: names the first file that is missing, was changed or came later, or says that the vocabulary
        is another.
    """
    name = folder.name
    lineage = read(folder)
    if not any((folder / _CHECKPOINTS).glob(f"*/{_WHOLE}")):
        raise UsageError(f"version {name} has no whole checkpoint in {folder / _CHECKPOINTS}")
    card = schema.read_file(_Card, folder / MODEL_FILE, "a model card")
    if card.tokenizer_fingerprint != lineage.vocabulary:
        raise UsageError(
            f"version {name} has another vocabulary than its lineage says (tokenizer "
            f"{_short(card.tokenizer_fingerprint)} against {_short(lineage.vocabulary)})"
        )
    there = digests(folder)
    for path in sorted(lineage.files.keys() | there.keys()):
        if there.get(path) != lineage.files.get(path):
            what = "is missing" if path not in there else "was changed"
            what = "was not part of it" if path not in lineage.files else what
            raise UsageError(f"version {name}: {path} {what}; versions are never changed: add a new one")
    return lineage


def _short(fingerprint: str | None) -> str:
    return "unknown" if fingerprint is None else fingerprint[:12]
