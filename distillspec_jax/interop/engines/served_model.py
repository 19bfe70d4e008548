"""A model as an inference engine will see it, read without its weights from any form that we know."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from distillspec_jax import model_card, outputs
from distillspec_jax.errors import UsageError
from distillspec_jax.interop import gguf_decoder, gguf_tokenizer, hf_folder, hf_tokenizer
from distillspec_jax.interop.gguf_file import GGUFFile
from distillspec_jax.models import pretrained, zoo_manifest
from distillspec_jax.models.decoder_only_config import DecoderOnlyConfig
from distillspec_jax.models.t5_config import T5Config
from distillspec_jax.models.t5gemma_config import T5GemmaConfig

FORMS = ("checkpoint", "hf", "gguf")

NEUTRAL: dict[str, float] = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "min_length": 0,
    "num_beams": 1,
}
"""Fields of a generation_config.json by which an engine would change texts, at the values that do not."""


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
      defaults: those fields of `NEUTRAL` that its generation_config.json sets to other values.
    """

    name: str
    form: str
    family: str
    config: DecoderOnlyConfig | T5Config | T5GemmaConfig
    tokenizer: bytes | None = dataclasses.field(repr=False, default=None)
    eos_ids: tuple[int, ...] = ()
    prefix: str = ""
    shortlisted: bool = False
    taught_by: str | None = None
    mask_id: int | None = None
    defaults: tuple[str, ...] = ()

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding, padding rows included."""
        return self.config.vocab_size

    @property
    def positions(self) -> int | None:
        """The longest sequence that it was made for; None where positions are relative."""
        return None if isinstance(self.config, T5Config) else self.config.max_positions


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
        _family(name, card.family, config),
        config,
        model_card.read_tokenizer(pretrained.resolve(model)),
        tuple(card.eos_ids),
        card.prefix,
        bool(card.shortlist),
        card.provenance.get("parents", {}).get("target"),
        card.mask_id,
    )


def taught(target: str, draft: ServedModel) -> bool:
    """Whether a draft was distilled from this target, as far as its card tells; True if it does not.

    A model of the zoo was exported from a training directory whose last part is its name.
    """
    named = draft.taught_by
    if named in (None, target):
        return True
    assert named is not None
    place = pretrained.resolve(target).resolve()
    if zoo_manifest.is_zoo_name(target):
        return place.name == Path(named.removeprefix(zoo_manifest.PREFIX)).name
    return not zoo_manifest.is_zoo_name(named) and Path(named).resolve() == place


def _family(name: str, family: str, config: Any) -> str:
    try:
        # A factorised embedding is multiplied out when it is written.
        return hf_folder.kind_of(family, dataclasses.replace(config, embedding_rank=0))
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error


def _from_hf(name: str) -> ServedModel:
    outputs.reads(name)
    kind, config = hf_folder.read_config(name)
    tokenizer = hf_tokenizer.find(name, sentencepiece_first=kind == "t5")
    return ServedModel(
        name,
        "hf",
        kind,
        config,
        None if tokenizer is None else tokenizer.read_bytes(),
        hf_tokenizer.eos_ids(name),
        mask_id=hf_folder.mask_id(name),
        defaults=_defaults(Path(name) / hf_tokenizer.GENERATION_FILE),
    )


def _defaults(path: Path) -> tuple[str, ...]:
    told = hf_folder.read_json(path) if path.is_file() else {}
    return tuple(name for name, none in NEUTRAL.items() if told.get(name) not in (None, none))


def _from_gguf(name: str) -> ServedModel:
    outputs.reads(name)
    file = GGUFFile(name)
    kind, config = gguf_decoder.read_config(file)
    return ServedModel(name, "gguf", kind, config, gguf_tokenizer.read(file), gguf_tokenizer.eos_ids(file))
