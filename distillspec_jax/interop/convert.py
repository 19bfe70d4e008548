"""Converts other frameworks' checkpoints to checkpoint directories, and exports to Hugging Face and GGUF."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from distillspec_jax import acceptance_profile, checkpoint, model_card, outputs, provenance
from distillspec_jax.buckets import copies
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.files import saving
from distillspec_jax.interop import (
    gguf_decoder,
    gguf_output,
    gguf_tokenizer,
    gguf_vocabulary,
    hf_folder,
    hf_tokenizer,
    readme,
    t5x,
    t5x_orbax,
)
from distillspec_jax.interop.gguf_file import GGUFFile
from distillspec_jax.model_card import ModelCard
from distillspec_jax.models import factorised, pretrained, registry
from distillspec_jax.models.decoder_only import DecoderOnly
from distillspec_jax.models.network import Network
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.models.t5 import EncoderDecoder
from distillspec_jax.new_folders import check_new_folder, new_folder
from distillspec_jax.shapes import Params
from distillspec_jax.tokenization.tokenizer import Tokenizer

FORMATS = ("gguf", "hf", "t5x")


@dataclasses.dataclass(frozen=True)
class Source:
    """The contents of another framework's checkpoint.

    Attributes:
      params: float32 arrays in the canonical tree.
      step: of its training, 0 if unknown.
      tokenizer: content of the tokenizer's file, or None.
      tokenizer_name: its name in errors.
      eos_ids, chat, mask_id: see `ModelCard`.
      around: whether EOS follows, and precedes, a prompt; None: as the family and the tokenizer say.
      skipped: descriptions of the skipped parts.
    """

    model: Network
    params: Params
    step: int = 0
    tokenizer: bytes | None = None
    tokenizer_name: str = ""
    eos_ids: tuple[int, ...] = ()
    chat: dict[str, str] = dataclasses.field(default_factory=dict)
    mask_id: int | None = None
    around: tuple[bool, bool] | None = None
    skipped: tuple[str, ...] = ()

    @property
    def num_parameters(self) -> int:
        return checkpoint.count_parameters(self.params)


@outputs.one_run
def convert(
    form: str,
    source: str,
    destination: str,
    *,
    tokenizer: str | None = None,
    eos_ids: Sequence[int] = (),
    **known: Any,
) -> tuple[ModelCard, Source]:
    """Converts another framework's checkpoint to a checkpoint directory.

    Args:
      form: one of `FORMATS`.
      source: the folder to read, or a GGUF file.
      destination: the directory to write; it must be empty or not exist.
      tokenizer: the tokenizer's file; default: the source's own.
      eos_ids: ids that end an output; default: those of the source or the tokenizer.
      known: fields of `T5Config` that the shapes of a T5X checkpoint do not determine.

    Returns:
      The card that was written, and the source that was read.

    Raises:
      UsageError: the form is unknown, the source is no such checkpoint or damaged, a field is missing or
        superfluous, the tokenizer is unreadable or has no such EOS ids, or the destination is not empty.
    """
    destination = outputs.place(destination, folder=True)
    check_new_folder(destination)
    if form not in FORMATS:
        raise UsageError(f"unknown format {form!r}: {nearest(form, FORMATS)}")
    if form != "t5x" and known:
        stated_by = f"the folder's {hf_folder.CONFIG_FILE}" if form == "hf" else "the file's metadata"
        raise UsageError(f"{next(iter(known))} is stated by {stated_by}: leave it out")
    outputs.reads(source)
    source = str(copies.local(source))
    own = None if tokenizer is None else _read_file(tokenizer)
    with _reading(source):
        if form == "t5x":
            read = _from_t5x(source, known)
        else:
            read = _from_hf(source) if form == "hf" else _from_gguf(source, with_tokenizer=own is None)
    if own is not None:
        named = f"--tokenizer={tokenizer}"
        read = dataclasses.replace(read, tokenizer=own, tokenizer_name=named, around=None)
    if eos_ids:
        read = dataclasses.replace(read, eos_ids=tuple(eos_ids))
    vocabulary = _checked_vocabulary(read, eos_ids)
    if form == "hf" and own is None and vocabulary is not None:
        read = dataclasses.replace(read, skipped=hf_tokenizer.left_out(source, vocabulary))
    appended = vocabulary is not None and vocabulary.appends_eos
    ends, begins = read.around or (read.model.prompts_end_with_eos or appended, False)
    family, config = registry.describe(read.model)
    card = ModelCard(
        family=family,
        config=config,
        tokenizer_fingerprint=None if read.tokenizer is None else model_card.fingerprint(read.tokenizer),
        provenance=provenance.of_process(converted={"format": form, "input": str(source), "step": read.step}),
        eos_ids=list(read.eos_ids),
        prompts_end_with_eos=ends,
        prompts_begin_with_eos=begins,
        chat=read.chat,
        mask_id=read.mask_id,
    )
    _to_jax(read.params)
    with new_folder(destination) as folder:
        model_card.write_card(folder, card, read.tokenizer)
        checkpoint.save_params(folder, read.step, read.params)
    return card, read


@contextlib.contextmanager
def _reading(source: str) -> Iterator[None]:
    """Converts any exception from reading a damaged source into a one-line error that names it.

    Readers report the damage that they check for; otherwise corrupted headers can cause any exception.
    """
    try:
        yield
    except (UsageError, OSError):
        raise
    except Exception as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        message = f"{source} is damaged, or of a kind that is not read: {type(error).__name__}: {said[:200]}"
        raise UsageError(message) from error


def _checked_vocabulary(read: Source, given_ids: Sequence[int]) -> Tokenizer | None:
    """Rejects vocabularies that `pretrained.load` would accept but that cannot generate text."""
    size, vocabulary = read.model.vocab_size, None
    if read.tokenizer is not None:
        try:
            vocabulary = Tokenizer.from_bytes(read.tokenizer, read.eos_ids)
        except UsageError as error:
            raise UsageError(f"{read.tokenizer_name}: {error}") from error
        if (known := vocabulary.vocab_size) > size:
            raise UsageError(
                f"{read.tokenizer_name}: it has {known:,} ids, but the network has logits for {size:,}: "
                "it is another model's"
            )
        size = known
    for token in given_ids:
        if not 0 <= token < size:
            raise UsageError(f"--eos_ids={token}: the vocabulary has ids from 0 to {size - 1}")
    return vocabulary


def _from_hf(source: str) -> Source:
    model, params = hf_folder.read(source)
    # A T5's own tokenizer is the SentencePiece model; a tokenizer.json next to it is derived from that.
    tokenizer = hf_tokenizer.find(source, sentencepiece_first=registry.family_of(model) == "t5")
    ours = hf_tokenizer.origin(source)
    return Source(
        model,
        params,
        tokenizer=None if tokenizer is None else tokenizer.read_bytes(),
        tokenizer_name=str(tokenizer),
        eos_ids=hf_tokenizer.eos_ids(source),
        chat=hf_tokenizer.chat(source),
        mask_id=hf_folder.mask_id(source),
        around=None if ours is None else (ours.ends_with_eos, ours.begins_with_eos),
    )


def _from_gguf(source: str, with_tokenizer: bool) -> Source:
    file = GGUFFile(source)
    tokenizer = gguf_tokenizer.read(file) if with_tokenizer else None  # before the weights, which are slower
    model, params = gguf_decoder.read(file)
    return Source(
        model,
        params,
        tokenizer=tokenizer,
        tokenizer_name=str(file.path),
        eos_ids=gguf_tokenizer.eos_ids(file),
        chat=gguf_tokenizer.chat(file),
    )


def _from_t5x(source: str, known: dict[str, Any]) -> Source:
    written = t5x_orbax.folder_of(source)
    found = t5x.read(source) if written is None else t5x_orbax.read(written)
    if "mlp_activations" not in known:
        raise UsageError(
            f"{source}: a T5X checkpoint does not tell its activations: pass --mlp_activations "
            "(gelu,linear for T5 1.1, relu for T5 1.0)"
        )
    config = t5x.infer_config(found.params, **known)
    model = EncoderDecoder(config)
    checkpoint.check_shapes(source, found.params, registry.shapes(model))
    return Source(model, found.params, step=found.step or 0, skipped=found.skipped)


@outputs.one_run
def export(source: str, destination: str) -> Pretrained:
    """Writes a checkpoint directory, or a model of the zoo, as a Hugging Face folder.

    The folder has float32 weights, the configuration, the tokenizer if there is one, a README with the
    model's provenance and measured acceptance, and the draft's acceptance profile.

    Raises:
      UsageError: the model does not exist, transformers has no architecture for it, or the destination is not
        empty.
    """
    destination = outputs.place(destination, folder=True)
    check_new_folder(destination)
    model = pretrained.load(source)
    special, files = hf_tokenizer.files(model)
    if model.card.mask_id is not None:
        special[hf_folder.MASK_FIELD] = model.card.mask_id
    network, params = factorised.expanded(model.model, jax.device_get(model.params))
    card = readme.text(model, checkpoint.count_parameters(params))
    profile = readme.profile_of(model)
    with new_folder(destination) as folder:
        hf_folder.write(folder, network, params, **special)
        with saving(destination):
            for name, content in files.items():
                (folder / name).write_bytes(content)
            (folder / "README.md").write_text(card, encoding="utf-8")
            if profile is not None:
                (folder / acceptance_profile.FILE).write_bytes(profile)
    return model


@outputs.one_run
def export_gguf(source: str, destination: str, kind: str = "f32") -> Pretrained:
    """Writes a checkpoint directory as a GGUF file: weights, sizes, tokenizer and chat template.

    Args:
      kind: a key of `gguf_output.TYPES`.

    Raises:
      UsageError: the model does not exist, llama.cpp has no architecture for it or would silently compute it
        differently, the type cannot hold its weights, or the destination is another file.
    """
    destination = outputs.place(destination, folder=False)
    gguf_output.check(destination, kind)
    model = pretrained.load(source)
    network, params = factorised.expanded(model.model, jax.device_get(model.params))
    if not isinstance(network, DecoderOnly):
        raise UsageError(
            f"{source} is a {model.card.family}; GGUF is written of decoder-only models: use --to=hf"
        )
    architecture, sizes, tensors = gguf_decoder.to_gguf(network.config, params)
    told = {"general.name": Path(source).name, **sizes, **gguf_vocabulary.metadata(model)}
    gguf_output.write(destination, architecture, told, tensors, kind)
    return model


def _to_jax(params: Params) -> None:
    """Replaces NumPy arrays with JAX arrays, in place: Orbax would copy all of them before writing.

    It converts one array at a time; aligned arrays are not copied.
    """
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS names accelerators only
        return
    for name, value in params.items():
        if isinstance(value, dict):
            _to_jax(value)
        else:
            params[name] = jax.block_until_ready(jax.device_put(value, host))


def _read_file(path: str) -> bytes:
    outputs.reads(path)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"--tokenizer={path}: {error.strerror}") from error
