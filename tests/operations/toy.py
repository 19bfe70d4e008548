"""Registries of drafts that are a few files: what is under test is which of them serve."""

import json
import os
import signal
import sys
from pathlib import Path

from distillspec_jax.operations import draft_registry
from distillspec_jax.operations.draft_registry import DraftRegistry
from distillspec_jax.operations.lineage import Lineage, Training

VOCABULARY = "a" * 64


def draft(
    content: str = "weights", *, target: str = "f00d", vocabulary: str = VOCABULARY
) -> draft_registry.Write:
    """Writes what a registry looks at of a draft."""

    def write(folder: Path) -> Lineage:
        whole = folder / "checkpoints" / "1" / "params"
        whole.mkdir(parents=True)
        (folder / "model.json").write_text(json.dumps({"tokenizer_fingerprint": vocabulary}))
        (whole / "_METADATA").write_text("{}")
        (whole / "arrays").write_text(content)
        return Lineage(
            source="runs/distilled",
            step=1,
            added=float(len(list(folder.parent.iterdir()))),
            target="the target",
            target_fingerprint=target,
            vocabulary=vocabulary,
            training=Training(),
        )

    return write


def registry(path: Path, versions: int = 1) -> DraftRegistry:
    """Makes a registry of the versions v1, v2, ..., of which the first serves."""
    made = draft_registry.create(path, draft(), VOCABULARY)
    for number in range(1, versions):
        made.add(draft(f"weights {number}"))
    return made


def die_before(count: int) -> None:
    """Has this process killed before its next change of the file system but `count`."""
    left = [count]

    def hook(event, arguments):
        opens = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
        if opens or event in ("os.mkdir", "os.rename", "os.rmdir", "os.remove"):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
