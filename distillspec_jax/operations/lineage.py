"""The lineage of a draft's version: its origin, its gate result, and a digest of each file.

It is `lineage.json` in the version's folder, written last, before the folder gets its name.
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
      command, gin: the command and its gin bindings.
      steps: of training.
      seconds: duration; None if not measured.
      data, data_fingerprint: the task, and the fingerprint of its rows.
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
      parent: the version that its training started from; None if that is not in this registry.
      started_from: the initial draft of its training, as named in the call.
      added: seconds since 1970.
      target, target_fingerprint: the draft's target; see `models.fingerprints.of_params`.
      vocabulary: fingerprint of its tokenizer; None if it has none and the user asserted a match.
      training: how it was trained, as far as known.
      gate: the gate's result, if it passed one.
      files: digest of every file of the version except this one, by its path in the folder.
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
    """The part of a model's card that is checked."""

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
    """Writes a version's lineage, with digests of the existing files."""
    fields = dataclasses.asdict(dataclasses.replace(lineage, files=digests(folder)))
    unknown = fields.pop("unknown")
    files.write_json(folder / FILE, {"lineage_version": VERSION, **fields, **unknown})


def digests(folder: Path) -> dict[str, str]:
    """Computes the digest of every file in a version's folder except its lineage."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != FILE:
            with path.open("rb") as content:
                found[name] = hashlib.file_digest(content, "sha256").hexdigest()[:32]
    return found


def check(folder: Path) -> Lineage:
    """Checks that a version is complete and unchanged since it was added.

    Raises:
      UsageError: a file is missing, was changed or was added later (names the first), or the vocabulary
        differs.
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
