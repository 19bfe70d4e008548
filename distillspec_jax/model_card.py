"""A checkpoint directory's description of itself, and its tokenizer's file; nothing here starts JAX."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillspec_jax import outputs, schema
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.files import write_json, write_whole

MODEL_FILE = "model.json"
SENTENCEPIECE_FILE, TOKENIZERS_FILE = "tokenizer.model", "tokenizer.json"
_TOKENIZER_FILES = SENTENCEPIECE_FILE, TOKENIZERS_FILE
"""A tokenizer of SentencePiece, or of Hugging Face's library `tokenizers`."""


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
