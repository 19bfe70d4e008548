"""The checkpoint directory: self-describing, so that `--model=DIR` is all a user has to say.

    DIR/model.json        family and configuration, task, prefix, lengths, provenance
    DIR/tokenizer.model   the tokenizer's file, byte for byte (DIR/tokenizer.json, if it is of that kind)
    DIR/checkpoints/STEP/ Orbax: `params`, and while training `optimizer` and `progress`
    DIR/damaged/STEP/     a step that a restart could not read and passed over

Metadata is written before the first step; a directory without a finished step is refused by name.
Orbax writes a step under a temporary name and renames it, so what a kill leaves behind is never taken for a
step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from distillspec_jax import outputs, schema
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.files import saving, write_json, write_whole
from distillspec_jax.shapes import Params

MODEL_FILE, STEPS, DAMAGED = "model.json", "checkpoints", "damaged"

SENTENCEPIECE_FILE, TOKENIZERS_FILE = "tokenizer.model", "tokenizer.json"
_TOKENIZER_FILES = SENTENCEPIECE_FILE, TOKENIZERS_FILE
"""A tokenizer of SentencePiece, or of Hugging Face's library `tokenizers`."""


_FILE_BYTES, _FILE_SHARE = 1 << 23, 16
"""Least size of the files that `save_params` writes, and their share of the largest array; Orbax holds about
three in memory until they are full."""


class DamagedCheckpointError(UsageError):
    """A step is there and looks whole, but cannot be read as it was written."""


@dataclasses.dataclass(frozen=True)
class _Listed:
    """Whose shortlist it is, and of which step."""

    draft: str
    step: schema.Count


@dataclasses.dataclass(frozen=True)
class _Origin:
    """The parts of a provenance that are read again; the rest is for people."""

    parents: dict[str, str] = dataclasses.field(default_factory=dict)
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    deployment: dict[str, Any] | None = None
    shortlist: _Listed | None = None


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """A checkpoint directory's description of itself.

    Attributes:
      family: key of the model registry (`t5`).
      config: the family's configuration, as JSON values.
      tokenizer_fingerprint: sha256 of the tokenizer's file, or None where the tokenizer is unknown.
      task: the seqio task or mixture that it was trained on.
      prefix: put before raw inputs by `generate` unless stated otherwise.
      feature_lengths: `{"inputs": tokens, "targets": tokens}`, the lengths that it was built for.
      eos_ids: ids that end an output; empty: the tokenizer's own.
      prompts_end_with_eos: whether EOS follows a prompt, as in the embedded tasks.
      prompts_begin_with_eos: whether it stands before one, as in language modelling.
      chat: the Jinja `template` that wraps a message for a model that was taught to answer, and the words
        that it may name (`bos_token`, `eos_token`, …); empty where there is none.
      shortlist: the ids that it proposes as a draft, see `models.shortlist`; empty: all.
      mask_id: of a draft that proposes a block in one call, the id that stands for a token to be drafted
        (`distillation.one_pass`); None: a call a token.
      provenance: command, gin bindings, git revision, parent checkpoints, data fingerprint.
      unknown: what a newer release wrote, which is written again.

    Raises:
      UsageError: ids that the network does not have, a chat without its template, or a provenance whose parts
        are of other types.
    """

    family: str
    config: dict[str, Any]
    tokenizer_fingerprint: str | None = None
    task: str | None = None
    prefix: str = ""
    feature_lengths: dict[str, schema.Size] = dataclasses.field(default_factory=dict)
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    eos_ids: list[schema.Id] = dataclasses.field(default_factory=list)
    prompts_end_with_eos: bool = True
    prompts_begin_with_eos: bool = False
    chat: dict[str, str] = dataclasses.field(default_factory=dict)
    shortlist: list[schema.Id] = dataclasses.field(default_factory=list)
    mask_id: schema.Id | None = None
    unknown: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        masks = [] if self.mask_id is None else [self.mask_id]
        for field, ids in (("eos_ids", self.eos_ids), ("shortlist", self.shortlist), ("mask_id", masks)):
            check_ids(field, ids, self.config.get("vocab_size"))
        check_chat(self.chat)
        schema.read(_Origin, self.provenance, "provenance")


def check_ids(field: str, ids: Sequence[int], size: Any) -> None:
    """Refuses ids that a network of `size` logits (where that is a number) does not have."""
    largest = max(ids, default=0)
    if isinstance(size, int) and largest >= size:
        raise UsageError(f"field {field}: {largest} is not in the vocabulary of {size}")


def check_chat(chat: Mapping[str, str]) -> None:
    """Refuses the words of a chat template without the template, see `ModelCard.chat`."""
    if chat and "template" not in chat:
        raise UsageError(f"field chat: it has no template: {nearest('template', chat)}")


def fingerprint(tokenizer: bytes) -> str:
    """The digest that two models must share to exchange token ids."""
    return hashlib.sha256(tokenizer).hexdigest()


def provenance(**more: Any) -> dict[str, Any]:
    """Command and git revision of this process, and whatever the caller adds.

    The revision is None where the package is not part of a git checkout (installed from a wheel).
    """
    # An installed package may lie inside somebody else's checkout, whose revision says nothing.
    tracked = _git("ls-files", "--error-unmatch", Path(__file__).name)
    revision = _git("rev-parse", "--short", "HEAD") if tracked else None
    return {"command": _command(), "git_revision": revision, **more}


def _command() -> str:
    """This process's command, quoted for a shell; a program by its name, a module as `python -m` ran it."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["python", "-m", module.name.removesuffix(".__main__")] if module else [Path(sys.argv[0]).name]
    return shlex.join([*program, *sys.argv[1:]])


def _git(*arguments: str) -> str | None:
    """Asks git in this package's folder; None where it refuses, or is not installed."""
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def tokenizer_file(tokenizer: bytes) -> str:
    """The name of a tokenizer's file, by its content."""
    return TOKENIZERS_FILE if tokenizer.lstrip()[:1] == b"{" else SENTENCEPIECE_FILE


def take_folder(directory: str | Path, card: str, tokenizer: bytes) -> None:
    """Takes a folder for a run that writes its vocabulary, and then its card (see `outputs.take_folder`).

    Raises:
      UsageError: it is not the run's to take. A vocabulary alone is, if it is this one: a run that was killed
        before it wrote the card leaves it.
    """
    left = Path(directory) / tokenizer_file(tokenizer)
    same = left.is_file() and left.read_bytes() == tokenizer
    outputs.take_folder(directory, card, leftovers=[left.name] if same else ())


def write_card(directory: str | Path, card: ModelCard, tokenizer: bytes | None) -> None:
    """Writes the metadata, each file whole or not at all."""
    root = Path(directory)
    if tokenizer is not None:
        write_whole(root / tokenizer_file(tokenizer), tokenizer)
    fields = dataclasses.asdict(card)
    write_json(root / MODEL_FILE, fields | fields.pop("unknown"))


def read_card(directory: str | Path) -> ModelCard:
    """The card of a checkpoint directory.

    Raises:
      UsageError: there is none, or it is not one of ours.
    """
    path = Path(directory) / MODEL_FILE
    if not path.is_file():
        there = "" if Path(directory).is_dir() else " (no such directory)"
        raise UsageError(f"{directory} is not a checkpoint directory: it has no {MODEL_FILE}{there}")
    return schema.read_file(ModelCard, path, "a model card")


def find_tokenizer(directory: str | Path) -> Path | None:
    """The tokenizer's file in a folder of ours; None where there is none."""
    return next(filter(Path.is_file, map(Path(directory).joinpath, _TOKENIZER_FILES)), None)


def read_tokenizer(directory: str | Path) -> bytes | None:
    """The tokenizer's bytes, checked against the card's fingerprint; None where there is none."""
    known = read_card(directory).tokenizer_fingerprint
    path = find_tokenizer(directory)
    if path is None:
        return None
    content = path.read_bytes()
    if known is not None and fingerprint(content) != known:
        raise UsageError(f"{path}: its fingerprint is not the one in {MODEL_FILE}: the file was changed")
    return content


def latest_step(directory: str | Path) -> int | None:
    """The newest finished step, or None."""
    return next(iter(finished_steps(directory)), None)


def finished_steps(directory: str | Path) -> list[int]:
    """The finished steps, the newest first."""
    return sorted((int(p.name) for p in _step_folders(directory) if _has_params(p)), reverse=True)


def set_aside(directory: str | Path, step: int) -> None:
    """Moves a damaged step to `DAMAGED`, out of the way of new ones."""
    aside = Path(directory) / DAMAGED / str(step)
    shutil.rmtree(aside, ignore_errors=True)  # of an earlier restart
    aside.parent.mkdir(exist_ok=True)
    os.replace(Path(directory) / STEPS / str(step), aside)


def discard_unfinished(directory: str | Path) -> list[Path]:
    """Removes steps without whole parameters (half copied, half deleted), which a new save would trip over.

    Returns:
      What was removed. Orbax itself removes its own temporary folders.
    """
    unfinished = [path for path in _step_folders(directory) if not _has_params(path)]
    for path in unfinished:
        shutil.rmtree(path, ignore_errors=True)
    return unfinished


def _step_folders(directory: str | Path) -> list[Path]:
    """Folders named by a number; anything else is temporary, or not ours."""
    return [path for path in (Path(directory) / STEPS).glob("*") if path.name.isdecimal() and path.is_dir()]


def _has_params(step: Path) -> bool:
    return (step / "params" / "_METADATA").is_file()  # Orbax's own list of what was saved


def abstract(shapes: Params, shardings: Any = None) -> Params:
    """Shapes (and shardings) to restore into, as Orbax wants them."""
    if shardings is None:
        local = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: local, shapes)
    return jax.tree.map(lambda s, d: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=d), shapes, shardings)


def manager(
    directory: str | Path, keep: int | None = None, asynchronous: bool = False, alone: bool = False
) -> ocp.CheckpointManager:
    """Orbax's manager over the directory's steps; with `alone` other hosts have no part in what it does."""
    steps = (Path(directory) / STEPS).absolute()
    steps.mkdir(parents=True, exist_ok=True)
    processes = _processes(alone)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        enable_async_checkpointing=asynchronous,
        create=False,
        cleanup_tmp_directories=True,
        multiprocessing_options=processes,
    )
    kinds = {"params": ocp.StandardCheckpointHandler, "optimizer": ocp.StandardCheckpointHandler}
    kinds |= {"progress": ocp.JsonCheckpointHandler}
    handlers = {name: kind(multiprocessing_options=processes) for name, kind in kinds.items()}
    return ocp.CheckpointManager(steps, options=options, item_handlers=handlers)


def _processes(alone: bool) -> ocp.options.MultiprocessingOptions:
    """Whom Orbax waits for: all hosts, of which the first writes what is one file, or none but this."""
    if not alone or jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    here = jax.process_index()
    return ocp.options.MultiprocessingOptions(here, {here}, f"host{here}")


def load_params(
    directory: str | Path, shapes: Params, step: int | None = None, shardings: Any = None
) -> Params:
    """Parameters of a finished step, in the shapes and dtypes that the model expects (float32).

    Args:
      shapes: a tree of `jax.ShapeDtypeStruct`; parameters stored in another dtype are converted.
      step: the newest by default.
      shardings: a tree like `shapes`; the first device by default.

    Raises:
      UsageError: no finished step, a damaged one, or parameters that are missing, unused or of another shape
        (the first is named).
    """
    newest = latest_step(directory)
    found = newest if step is None else step
    if found is None:
        raise UsageError(f"{directory} holds no finished checkpoint (nothing whole under {STEPS}/)")
    folder = (Path(directory) / STEPS / str(found)).absolute()
    if not _has_params(folder):
        raise UsageError(f"{directory} has no checkpoint at step {found} (newest: {newest})")
    check_shapes(str(directory), stored_shapes(folder / "params"), shapes)
    with reading(folder), ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(folder / "params", abstract(shapes, shardings))


def stored_shapes(path: Path) -> Any:
    """The tree that Orbax saved at `path`; its leaves have `shape` and `dtype`."""
    handler = ocp.StandardCheckpointHandler()
    with reading(path.parent), contextlib.closing(handler):
        return handler.metadata(path).tree


def save_params(
    directory: str | Path, step: int, params: Params, dtype: str | None = None, alone: bool = False
) -> None:
    """Writes a finished step of parameters and nothing else; with `alone` other hosts have no part in it."""
    if dtype is not None:
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.dtype(dtype)), params)
    path = (Path(directory) / STEPS / str(step) / "params").absolute()
    # StandardCheckpointer copies everything before it writes, and large files gather in memory.
    processes = _processes(alone)
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=processes)
    size = max(_FILE_BYTES, max(leaf.nbytes for leaf in jax.tree.leaves(params)) // _FILE_SHARE)
    checkpointing = ocp.Checkpointer(handler, multiprocessing_options=processes)
    with saving(Path(directory)), checkpointing as checkpointer:
        arguments = ocp.args.PyTreeSave(params, ocdbt_target_data_file_size=size)
        checkpointer.save(path, args=arguments, force=True)


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
            shapes = f"{tuple(have[key].shape)}, the model wants {tuple(want[key].shape)}"
            raise UsageError(f"{name}: parameter {key} has shape {shapes}")


def _leaves(tree: Any) -> list[Any]:
    return jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))


def checksums(tree: Any) -> dict[str, int]:
    """Path to the sum of a leaf's bits, modulo 2³²: the same however the leaf is sharded.

    Compression in a checkpoint has none, and a flipped bit in a weight would go unseen.
    """
    sums = jax.device_get(_bit_sums([leaf for _, leaf in _leaves(tree)]))
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in _leaves(tree)]
    return {name: int(value) for name, value in zip(names, sums, strict=True)}


@jax.jit
def _bit_sums(leaves: list[Any]) -> list[Any]:
    def bits(leaf: Any) -> Any:
        return jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * leaf.dtype.itemsize}"))

    return [jnp.sum(bits(leaf), dtype=jnp.uint32) for leaf in leaves]


@contextlib.contextmanager
def reading(step: Path) -> Iterator[None]:
    """Turns what Orbax says of a damaged step into one line that names it."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # TensorStore has no class of its own
        said = (str(error) or type(error).__name__).splitlines()[0].split(" [tensorstore_spec=")[0]
        message = f"{step} is damaged or not a checkpoint of ours: {said[:200]}"
        raise DamagedCheckpointError(message) from error


def count_parameters(params: Params) -> int:
    """Numbers in a tree of parameters."""
    return int(sum(np.prod(x.shape) for x in jax.tree.leaves(params)))
