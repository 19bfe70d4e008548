"""A model as an inference engine will see it, read without its weights from any form that we know."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from distillspec_jax import model_card, outputs
from distillspec_jax.errors import UsageError, nearest, shown
from distillspec_jax.interop import (
    gguf_decoder,
    gguf_tokenizer,
    hf,
    hf_decoder_config,
    hf_folder,
    hf_tokenizer,
)
from distillspec_jax.interop.gguf_file import GGUFFile
from distillspec_jax.models import pretrained
from distillspec_jax.models.decoder_only_config import DecoderOnlyConfig
from distillspec_jax.models.t5_config import T5Config

FORMS = ("checkpoint", "hf", "gguf")


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """The facts that engines check, or ought to.

    Attributes:
      name: as the user gave it.
      form: one of `FORMS`.
      family: transformers' `model_type`.
      config: sizes.
      tokenizer: the tokenizer's file, or None.
      eos_ids: ids that end a text, if the model states them beside its tokenizer.
      prefix: what `generate` puts before every prompt, and an engine does not.
      shortlisted: it drafts some ids alone, which no engine does.
      taught_by: the target that it was distilled from, or None.
      mask_id: of a draft that proposes a block in one call, see `ModelCard`.
    """

    name: str
    form: str
    family: str
    config: DecoderOnlyConfig | T5Config
    tokenizer: bytes | None = dataclasses.field(repr=False, default=None)
    eos_ids: tuple[int, ...] = ()
    prefix: str = ""
    shortlisted: bool = False
    taught_by: str | None = None
    mask_id: int | None = None

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding, padding rows included."""
        return self.config.vocab_size

    @property
    def positions(self) -> int | None:
        """The longest sequence that it was made for; None where positions are relative."""
        return self.config.max_positions if isinstance(self.config, DecoderOnlyConfig) else None


def read(name: str) -> ServedModel:
    """Reads a checkpoint directory, a model of the zoo, a Hugging Face folder or a GGUF file.

    Raises:
      UsageError: there is no such model, its family is unknown, or its description is damaged.
    """
    path = Path(name)
    if path.is_file() or name.endswith(".gguf"):
        return _from_gguf(name)
    if (path / hf_folder.CONFIG_FILE).is_file() and not (path / model_card.MODEL_FILE).is_file():
        return _from_hf(name)
    return _from_checkpoint(name)


def _from_checkpoint(name: str) -> ServedModel:
    model, dtype = pretrained.split(name)
    if dtype is not None:
        raise UsageError(f"{name}: engines round weights by themselves: leave @{dtype} out")
    card = pretrained.read_card(model)
    config = pretrained.network(model, card).config
    return ServedModel(
        name,
        "checkpoint",
        "t5" if isinstance(config, T5Config) else _family(name, config),
        config,
        model_card.read_tokenizer(pretrained.resolve(model)),
        tuple(card.eos_ids),
        card.prefix,
        bool(card.shortlist),
        card.provenance.get("parents", {}).get("target"),
        card.mask_id,
    )


def _family(name: str, config: DecoderOnlyConfig) -> str:
    try:
        # A factorised embedding is multiplied out when it is written.
        return str(
            hf_decoder_config.config_to_hf(dataclasses.replace(config, embedding_rank=0))["model_type"]
        )
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error


def _from_hf(name: str) -> ServedModel:
    outputs.reads(name)
    where = Path(name) / hf_folder.CONFIG_FILE
    config = hf_folder.read_json(where)
    kind = str(config.get("model_type"))
    known = ("t5", *hf_decoder_config.ARCHITECTURES)
    if kind not in known:
        raise UsageError(f"{where}: unknown model_type {shown(kind)}: {nearest(kind, known)}")
    read_config = hf.config_from_hf if kind == "t5" else hf_decoder_config.config_from_hf
    tokenizer = hf_tokenizer.find(name, sentencepiece_first=kind == "t5")
    return ServedModel(
        name,
        "hf",
        kind,
        read_config(config, f"{where} is not the configuration of a {kind}"),
        None if tokenizer is None else tokenizer.read_bytes(),
        hf_tokenizer.eos_ids(name),
        mask_id=hf_folder.mask_id(name),
    )


def _from_gguf(name: str) -> ServedModel:
    outputs.reads(name)
    file = GGUFFile(name)
    kind, config = gguf_decoder.read_config(file)
    return ServedModel(name, "gguf", kind, config, gguf_tokenizer.read(file), gguf_tokenizer.eos_ids(file))
