"""Admits drafts to a registry: loads them, checks their target, and copies them without training state."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

from distillspec_jax import acceptance_profile, checkpoint, model_card, outputs, schema
from distillspec_jax.errors import UsageError
from distillspec_jax.models import fingerprints, pretrained
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.operations import draft_registry
from distillspec_jax.operations.draft_registry import VERSIONS, DraftRegistry
from distillspec_jax.operations.lineage import Lineage, Training
from distillspec_jax.schema import Text

_KEPT = (acceptance_profile.FILE, "agreement.json")
"""Files next to a draft that are copied with it."""


@dataclasses.dataclass(frozen=True)
class _Data:
    name: Text | None = None
    sha256: Text | None = None


@dataclasses.dataclass(frozen=True)
class _Origin:
    """The parts of a draft's provenance that its lineage includes."""

    command: str | None = None
    gin: str | None = None
    parents: dict[str, str] = dataclasses.field(default_factory=dict)
    data: _Data = _Data()


def create(
    path: str | Path,
    target: str,
    draft: str,
    version: str | None = None,
    assume_same_vocabulary: bool = False,
) -> DraftRegistry:
    """Creates a registry for a target's drafts, with one draft that serves.

    Args:
      path: of its folder.
      target, draft: checkpoint directories or `zoo:NAME`.
      version: name of the draft's version.
      assume_same_vocabulary: assert that the vocabularies agree although one tokenizer is unknown.

    Raises:
      UsageError: see `draft_registry.create` and `pretrained.check_pair`.
    """
    teacher = pretrained.load(target)
    student = _load(draft)
    pretrained.check_pair(teacher, student, assume_same_vocabulary)
    known = target, fingerprints.of_params(teacher.params)

    def write(folder: Path) -> Lineage:
        return _copy(folder, student, known, None)

    return draft_registry.create(path, write, teacher.card.tokenizer_fingerprint, version)


def add(
    registry: DraftRegistry,
    draft: str,
    version: str | None = None,
    *,
    target: str | None = None,
    seconds: float | None = None,
    gate: dict[str, Any] | None = None,
    assume_same_vocabulary: bool = False,
) -> str:
    """Adds a draft as a version that does not serve yet.

    Args:
      draft: checkpoint directory or `zoo:NAME`.
      version: its name.
      target: the draft's target, to check against the registry's.
      seconds: duration of its training.
      gate: the result of the gate that it passed.
      assume_same_vocabulary: assert that the vocabularies agree although one tokenizer is unknown.

    Returns:
      The version's name.

    Raises:
      UsageError: the target or vocabulary differs; or see `DraftRegistry.add`.
    """
    if version is not None:
        draft_registry.check_name(version)
    student, history = _load(draft), registry.history
    if target is not None:
        check_target(registry, target)
    pretrained.check_vocabularies(
        (history.target, draft),
        (history.vocabulary, student.card.tokenizer_fingerprint),
        assume_same_vocabulary,
    )
    known = history.target, history.target_fingerprint

    def write(folder: Path) -> Lineage:
        return _copy(folder, student, known, registry, seconds, gate)

    return registry.add(write, version)


def check_target(registry: DraftRegistry, target: str) -> Pretrained:
    """Loads a target and checks that it is the registry's.

    Raises:
      UsageError: its parameters differ.
    """
    found, history = pretrained.load(target), registry.history
    given = fingerprints.of_params(found.params)
    if given != history.target_fingerprint:
        raise UsageError(
            f"{registry.path} holds drafts of another target, {history.target} "
            f"({history.target_fingerprint}), than {target} ({given})"
        )
    return found


def _load(draft: str) -> Pretrained:
    """Loads a draft completely, so a damaged one is never admitted.

    Raises:
      UsageError: see `pretrained.load`; or the name has a dtype, which a version cannot store.
    """
    stored, dtype = pretrained.split(draft)
    if dtype is not None:
        raise UsageError(f"{draft}: a registry keeps what is stored, write {stored}")
    return pretrained.load(draft)


def _copy(
    folder: Path,
    draft: Pretrained,
    target: tuple[str, str],
    registry: DraftRegistry | None,
    seconds: float | None = None,
    gate: dict[str, Any] | None = None,
) -> Lineage:
    """Copies the newest step's parameters, the card, the tokenizer and the profile into a new folder."""
    source = pretrained.resolve(draft.name)
    step = checkpoint.latest_step(source)
    assert step is not None  # it was loaded
    origin = schema.read(_Origin, draft.card.provenance, f"{draft.name}, provenance")
    started = origin.parents.get("draft")
    model_card.write_card(folder, draft.card, draft.tokenizer_bytes)
    params = Path(checkpoint.STEPS) / str(step) / "params"
    shutil.copytree(source / params, folder / params)
    for name in _KEPT:
        if (source / name).is_file():
            outputs.reads(source / name)
            shutil.copyfile(source / name, folder / name)
    if (folder / acceptance_profile.FILE).is_file():
        acceptance_profile.read(folder / acceptance_profile.FILE)  # to raise its errors now
    name, fingerprint = target
    return Lineage(
        source=draft.name,
        step=step,
        parent=None if registry is None or started is None else _version_at(registry, started),
        started_from=started,
        added=time.time(),
        target=name,
        target_fingerprint=fingerprint,
        vocabulary=draft.card.tokenizer_fingerprint,
        training=Training(
            command=origin.command,
            gin=origin.gin,
            steps=step,
            seconds=seconds,
            data=origin.data.name,
            data_fingerprint=origin.data.sha256,
        ),
        gate=gate,
    )


def _version_at(registry: DraftRegistry, path: str) -> str | None:
    """Returns the version whose folder a path is, if any."""
    found = outputs.resolved(path) if not path.startswith("zoo:") else None
    there = outputs.resolved(registry.path / VERSIONS)
    return found.name if found is not None and found.parent == there else None
