"""The model card of a checkpoint directory, and its tokenizer's file; this module never initialises JAX."""

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
"""The files of a SentencePiece tokenizer, and of one of Hugging Face's library `tokenizers`."""


@dataclasses.dataclass(frozen=True)
class _Listed:
    """The draft that a shortlist was made for, and its step."""

    draft: str
    step: schema.Count


@dataclasses.dataclass(frozen=True)
class _Origin:
    """The parts of a provenance that programs read; the rest is only for people."""

    parents: dict[str, str] = dataclasses.field(default_factory=dict)
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    deployment: dict[str, Any] | None = None
    shortlist: _Listed | None = None


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """The description of a checkpoint directory.

    Attributes:
      family: key of the model registry (`t5`).
      config: the family's configuration, as JSON values.
      tokenizer_fingerprint: sha256 of the tokenizer's file, or None if the tokenizer is unknown.
      task: the seqio task or mixture that it was trained on.
      prefix: `generate` prepends it to raw inputs by default.
      feature_lengths: `{"inputs": tokens, "targets": tokens}`, the lengths that it was trained with.
      eos_ids: ids that end an output; empty: the tokenizer's own.
      prompts_end_with_eos: whether EOS follows a prompt, as in the embedded tasks.
      prompts_begin_with_eos: whether EOS precedes a prompt, as in language modelling.
      chat: the Jinja `template` that wraps a message for an instruction-tuned model, and the variables that
        it may use (`bos_token`, `eos_token`, …); empty if there is none.
      shortlist: the ids that it proposes as a draft, see `models.shortlist`; empty: all.
      mask_id: for a draft that proposes a block in one call, the id that stands for a token to be drafted
        (`distillation.one_pass`); None: one call per token.
      provenance: command, gin bindings, git revision, parent checkpoints, data fingerprint.
      unknown: fields of a newer release, preserved when the card is written again.

    Raises:
      UsageError: the network does not have some ids, chat has no template, or parts of the provenance have
        wrong types.
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
    """Rejects ids that a network with `size` logits (if that is a number) does not have."""
    largest = max(ids, default=0)
    if isinstance(size, int) and largest >= size:
        raise UsageError(f"field {field}: {largest} is not in the vocabulary of {size}")


def check_chat(chat: Mapping[str, str]) -> None:
    """Rejects chat variables without a template, see `ModelCard.chat`."""
    if chat and "template" not in chat:
        raise UsageError(f"field chat: it has no template: {nearest('template', chat)}")


def fingerprint(tokenizer: bytes) -> str:
    """Computes the digest that two models must share to exchange token ids."""
    return hashlib.sha256(tokenizer).hexdigest()


def tokenizer_file(tokenizer: bytes) -> str:
    """Determines the name of a tokenizer's file from its content."""
    return TOKENIZERS_FILE if tokenizer.lstrip()[:1] == b"{" else SENTENCEPIECE_FILE


def take_folder(directory: str | Path, card: str, tokenizer: bytes) -> None:
    """Takes a folder for a run that first writes the vocabulary, then the card (see `outputs.take_folder`).

    Raises:
      UsageError: the run may not take the folder. It may if there is only this same vocabulary, which a run
        leaves that was killed before it wrote the card.
    """
    left = Path(directory) / tokenizer_file(tokenizer)
    same = left.is_file() and left.read_bytes() == tokenizer
    outputs.take_folder(directory, card, leftovers=[left.name] if same else ())


def write_card(directory: str | Path, card: ModelCard, tokenizer: bytes | None) -> None:
    """Writes the metadata, each file atomically."""
    root = Path(directory)
    if tokenizer is not None:
        write_whole(root / tokenizer_file(tokenizer), tokenizer)
    fields = dataclasses.asdict(card)
    write_json(root / MODEL_FILE, fields | fields.pop("unknown"))


def read_card(directory: str | Path) -> ModelCard:
    """Reads the card of a checkpoint directory.

    Raises:
      UsageError: there is none, or it is not valid.
    """
    path = Path(directory) / MODEL_FILE
    if not path.is_file():
        there = "" if Path(directory).is_dir() else " (no such directory)"
        if (Path(directory) / "config.json").is_file():
            there = f"; convert it: distillspec convert --from=hf --input={directory} --output=DIR"
        raise UsageError(f"{directory} is not a checkpoint directory: it has no {MODEL_FILE}{there}")
    return schema.read_file(ModelCard, path, "a model card")


def find_tokenizer(directory: str | Path) -> Path | None:
    """Finds the tokenizer's file in a checkpoint directory; None if there is none."""
    return next(filter(Path.is_file, map(Path(directory).joinpath, _TOKENIZER_FILES)), None)


def read_tokenizer(directory: str | Path) -> bytes | None:
    """Reads the tokenizer's bytes and checks them against the card's fingerprint; None if there is none."""
    known = read_card(directory).tokenizer_fingerprint
    path = find_tokenizer(directory)
    if path is None:
        return None
    content = path.read_bytes()
    if known is not None and fingerprint(content) != known:
        raise UsageError(f"{path}: its fingerprint is not the one in {MODEL_FILE}: the file was changed")
    return content
