"""The checkpoint directory: self-describing, so that `--model=DIR` is all a user has to say.

    DIR/model.json        family and configuration, task, prefix, lengths, provenance
    DIR/tokenizer.model   the tokenizer's file, byte for byte
    DIR/checkpoints/STEP/ Orbax: `params`, and while training `optimizer` and `progress`

Metadata is written before the first step; a directory without a finished step is refused by name.
Orbax writes a step under a temporary name and renames it, so a kill leaves no half step behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from distillspec_jax.errors import UsageError
from distillspec_jax.shapes import Params

MODEL_FILE, TOKENIZER_FILE, STEPS = "model.json", "tokenizer.model", "checkpoints"


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """What a checkpoint directory says of itself.

    Attributes:
      family: key of the model registry (`t5`).
      config: the family's configuration, as JSON values.
      tokenizer_fingerprint: sha256 of `tokenizer.model`, or None where the tokenizer is unknown.
      task: the seqio task or mixture that it was trained on.
      prefix: put before raw inputs by `generate` unless told otherwise.
      feature_lengths: `{"inputs": tokens, "targets": tokens}`, the lengths that it was built for.
      provenance: command, gin bindings, git revision, parent checkpoints, data fingerprint.
    """

    family: str
    config: dict[str, Any]
    tokenizer_fingerprint: str | None = None
    task: str | None = None
    prefix: str = ""
    feature_lengths: dict[str, int] = dataclasses.field(default_factory=dict)
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)


def fingerprint(tokenizer: bytes) -> str:
    """What two models must share to exchange token ids."""
    return hashlib.sha256(tokenizer).hexdigest()


def provenance(**more: Any) -> dict[str, Any]:
    """Command and git revision of this process, and whatever the caller adds."""
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        check=False,
    ).stdout.strip()
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {"command": command, "git_revision": revision or None, **more}


def write_card(directory: str | Path, card: ModelCard, tokenizer: bytes | None) -> None:
    """Writes the metadata, each file whole or not at all."""
    root = Path(directory)
    with saving(root):
        root.mkdir(parents=True, exist_ok=True)
        if tokenizer is not None:
            _write(root / TOKENIZER_FILE, tokenizer)
        _write(root / MODEL_FILE, json.dumps(dataclasses.asdict(card), indent=1, ensure_ascii=False).encode())


def read_card(directory: str | Path) -> ModelCard:
    path = Path(directory) / MODEL_FILE
    if not path.is_file():
        there = "" if Path(directory).is_dir() else " (no such directory)"
        raise UsageError(f"{directory} is not a checkpoint directory: it has no {MODEL_FILE}{there}")
    try:
        return ModelCard(**json.loads(path.read_text()))
    except (json.JSONDecodeError, TypeError) as error:
        raise UsageError(f"{path}: not a model card ({error})") from error


def read_tokenizer(directory: str | Path) -> bytes | None:
    """The tokenizer's bytes, checked against the card's fingerprint; None where there is none."""
    path, known = Path(directory) / TOKENIZER_FILE, read_card(directory).tokenizer_fingerprint
    if not path.is_file():
        return None
    content = path.read_bytes()
    if known is not None and fingerprint(content) != known:
        raise UsageError(f"{path}: its fingerprint is not the one in {MODEL_FILE}: the file was changed")
    return content


def latest_step(directory: str | Path) -> int | None:
    """The newest finished step, or None. Anything but an integer name is an unfinished save."""
    steps = Path(directory) / STEPS
    done = [int(p.name) for p in steps.glob("*") if p.name.isdigit() and (p / "params").is_dir()]
    return max(done, default=None)


def abstract(shapes: Params, shardings: Any = None) -> Params:
    """Shapes (and shardings) to restore into, as Orbax wants them."""
    if shardings is None:
        local = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shardings = jax.tree.map(lambda _: local, shapes)
    return jax.tree.map(lambda s, d: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=d), shapes, shardings)


def manager(directory: str | Path, keep: int | None = None, asynchronous: bool = False) -> ocp.CheckpointManager:
    """Orbax's manager over the directory's steps."""
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, enable_async_checkpointing=asynchronous, create=True, cleanup_tmp_directories=True
    )
    return ocp.CheckpointManager((Path(directory) / STEPS).absolute(), options=options)


def load_params(directory: str | Path, shapes: Params, step: int | None = None, shardings: Any = None) -> Params:
    """Parameters of a finished step in the shapes that the model expects, as float32 (or as `shapes` say).

    Raises:
      UsageError: no finished step, or parameters of another shape (the first is named).
    """
    found = latest_step(directory) if step is None else step
    if found is None:
        raise UsageError(f"{directory} holds no finished checkpoint (nothing whole under {STEPS}/)")
    path = (Path(directory) / STEPS / str(found) / "params").absolute()
    if not path.is_dir():
        raise UsageError(f"{directory} has no checkpoint at step {found} (newest: {latest_step(directory)})")
    with ocp.StandardCheckpointer() as checkpointer:
        stored = checkpointer.metadata(path).item_metadata.tree
        check_shapes(str(directory), stored, shapes)
        return checkpointer.restore(path, abstract(shapes, shardings))


def save_params(directory: str | Path, step: int, params: Params, dtype: str | None = None) -> None:
    """Writes a finished step of parameters alone (a zoo model, a converted checkpoint)."""
    if dtype is not None:
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.dtype(dtype)), params)
    path = (Path(directory) / STEPS / str(step) / "params").absolute()
    with saving(Path(directory)), ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, params, force=True)


def check_shapes(name: str, stored: Any, expected: Any) -> None:
    """Raises on the first parameter that is missing, unused or of another shape."""
    have = {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in _leaves(stored)}
    want = {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in _leaves(expected)}
    for key in sorted(want.keys() | have.keys()):
        if key not in have:
            raise UsageError(f"{name}: parameter {key} is missing")
        if key not in want:
            raise UsageError(f"{name}: parameter {key} is not part of the configured model")
        if tuple(have[key].shape) != tuple(want[key].shape):
            raise UsageError(
                f"{name}: parameter {key} has shape {tuple(have[key].shape)}, the model wants {tuple(want[key].shape)}"
            )


def _leaves(tree: Any) -> list[Any]:
    return jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))


@contextlib.contextmanager
def saving(directory: str | Path) -> Iterator[None]:
    """Turns a full disk, or one without permission, into one line that names the directory."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        text = str(error)
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in text
        if full or isinstance(error, OSError) or "File too large" in text:
            reason = "no space left on the device" if full else text.splitlines()[0]
            raise UsageError(f"cannot save to {directory}: {reason}") from error
        raise


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def count_parameters(params: Params) -> int:
    return int(sum(np.prod(x.shape) for x in jax.tree.leaves(params)))
