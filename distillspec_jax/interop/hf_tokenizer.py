"""Tokenizers of Hugging Face folders: their files are kept byte for byte. SentencePiece models are also
written in the format of the library `tokenizers`, which transformers and most servers read. A tokenizer.json
is made to put EOS around texts if the model's prompts have it there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from distillspec_jax import model_card, schema
from distillspec_jax.errors import UsageError
from distillspec_jax.files import as_json, read_lines
from distillspec_jax.interop.hf_folder import CONFIG_FILE, read_json
from distillspec_jax.model_card import ModelCard
from distillspec_jax.models import registry
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.tokenization import foreign_tokenizer
from distillspec_jax.tokenization.tokenizer import Tokenizer

GENERATION_FILE, TOKENIZER_CONFIG = "generation_config.json", "tokenizer_config.json"
CHAT_FILE, _ADDED_FILE = "chat_template.jinja", "added_tokens.json"


@dataclasses.dataclass(frozen=True)
class _Template:
    """One of several chat templates."""

    name: str
    template: str


Word = str | dict[str, Any] | None
"""A special token, as a string or as the `content` of an object."""


@dataclasses.dataclass(frozen=True)
class _Told:
    """The fields read from tokenizer_config.json."""

    chat_template: str | list[dict[str, Any]] | None = None
    bos_token: Word = None
    eos_token: Word = None
    unk_token: Word = None
    pad_token: Word = None


_WORDS = ("bos_token", "eos_token", "unk_token", "pad_token")
"""Special tokens that a chat template may name."""

SENTENCEPIECE_FILES = ("spiece.model", "tokenizer.model")
"""T5's file name, and that of all other models."""

_SPACE = "\u2581"


class Origin(NamedTuple):
    """The SentencePiece model from which `files` wrote a tokenizer.json, and what that adds around a text."""

    path: Path
    ends_with_eos: bool
    begins_with_eos: bool


def origin(directory: str | Path) -> Origin | None:
    """Finds the model from which a folder's tokenizer.json was written here; None: it came from elsewhere."""
    written = Path(directory) / model_card.TOKENIZERS_FILE
    paths = [path for name in SENTENCEPIECE_FILES if (path := Path(directory) / name).is_file()]
    if not paths or not written.is_file() or b'"Unigram"' not in (expected := written.read_bytes()):
        return None
    for path, ends, begins in itertools.product(paths, (True, False), (False, True)):
        content = path.read_bytes()
        try:
            Tokenizer.from_bytes(content)  # checks in a separate process whether it can be read here
            found = from_sentencepiece(str(path), content, ends, begins)
        except UsageError:
            continue
        if found.to_str().encode() == expected:
            return Origin(path, ends, begins)
    return None


def left_out(directory: str | Path, taken: Tokenizer) -> tuple[str, ...]:
    """Describes the tokens that a folder's other files add to a SentencePiece model, one line at most."""
    if model_card.tokenizer_file(taken.model_bytes) != model_card.SENTENCEPIECE_FILE:
        return ()
    size, ids = taken.vocab_size, dict[str, set[int]]()
    for name in (model_card.TOKENIZERS_FILE, _ADDED_FILE):
        with contextlib.suppress(UsageError):  # a damaged file is not needed
            told = read_json(Path(directory) / name)
            added = told.get("added_tokens") if name == model_card.TOKENIZERS_FILE else [*told.values()]
            listed = added if isinstance(added, list) else []
            found = [one.get("id") if isinstance(one, dict) else one for one in listed]
            ids[name] = {i for i in found if type(i) is int and i >= size}
    for name, beyond in ids.items():
        if beyond:
            instead = Path(directory) / model_card.TOKENIZERS_FILE
            return (
                f"{len(beyond)} tokens that {name} adds to the SentencePiece model, ids {min(beyond):,} to "
                f"{max(beyond):,}: to have them, pass --tokenizer={instead}",
            )
    return ()


def find(directory: str | Path, sentencepiece_first: bool) -> Path | None:
    """Finds the tokenizer's file in a folder, or None.

    Args:
      sentencepiece_first: prefer SentencePiece if a folder has both kinds. T5's SentencePiece models have
        padding and EOS; others lack them, and tokenizer.json has the tokens added to the model. Where that
        is our own conversion of the model, the model is preferred in any case.
    """
    if (ours := origin(directory)) is not None:
        return ours.path
    names = [*SENTENCEPIECE_FILES, model_card.TOKENIZERS_FILE]
    paths = [Path(directory) / name for name in (names if sentencepiece_first else reversed(names))]
    return next(filter(Path.is_file, paths), None)


def eos_ids(directory: str | Path) -> tuple[int, ...]:
    """Returns the ids that end an output, from generation_config.json, else config.json; () if neither."""
    for name in (GENERATION_FILE, CONFIG_FILE):
        path = Path(directory) / name
        if path.is_file() and (found := read_json(path).get("eos_token_id")) is not None:
            found = schema.value(schema.Id | list[schema.Id], found, str(path), "eos_token_id")
            return tuple(found) if isinstance(found, list) else (found,)
    return ()


def chat(directory: str | Path) -> dict[str, str]:
    """See `ModelCard.chat`; the template is in a separate file or in tokenizer_config.json."""
    root, path = Path(directory), Path(directory) / TOKENIZER_CONFIG
    config = schema.read(_Told, read_json(path) if path.is_file() else {}, str(path))
    template = config.chat_template
    if (root / CHAT_FILE).is_file():
        template = "\n".join(line.removesuffix("\r") for line in read_lines(root / CHAT_FILE))
    if isinstance(template, list):  # several, by name
        named = [schema.read(_Template, one, f"{path}, chat_template") for one in template]
        template = {one.name: one.template for one in named}.get("default")
    if template is None:
        return {}
    words = {name: word for name in _WORDS if (word := getattr(config, name))}
    said = {name: word.get("content") if isinstance(word, dict) else word for name, word in words.items()}
    return {
        "template": template,
        **{name: schema.value(str, word, str(path), name) for name, word in said.items()},
    }


def files(model: Pretrained) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Makes the rest of a folder besides weights: special token ids for config.json, and files by name.

    Raises:
      UsageError: the tokenizer cannot be read; or see `from_sentencepiece`.
    """
    content, found = model.tokenizer_bytes, {}
    if content is not None:
        foreign_tokenizer.opened(content)  # checks in a separate process whether it can be read here
    special: dict[str, Any] = {}
    eos = list(model.card.eos_ids)
    if content is not None and model_card.tokenizer_file(content) == model_card.SENTENCEPIECE_FILE:
        processor = sentencepiece.SentencePieceProcessor(model_proto=content)
        eos, pad = eos or [processor.eos_id()], processor.pad_id()
        special = {"pad_token_id": pad} if pad >= 0 else {}
        found["spiece.model"] = content
        card = model.card
        around = card.prompts_end_with_eos, card.prompts_begin_with_eos
        written = from_sentencepiece(model.name, content, *around)
        found[model_card.TOKENIZERS_FILE] = written.to_str().encode()
        names = {"pad": pad, "eos": processor.eos_id(), "unk": processor.unk_id()}
        words = {f"{name}_token": processor.id_to_piece(i) for name, i in names.items() if i >= 0}
        found[TOKENIZER_CONFIG] = _tokenizer_config(words)
    elif content is not None:
        library = tokenizers.Tokenizer.from_str(content.decode())
        word = library.id_to_token(eos[0]) if eos else None
        found[model_card.TOKENIZERS_FILE] = _surrounding(model.card, library, content)
        words = {} if word is None else {"eos_token": word}
        words |= {"chat_template" if k == "template" else k: v for k, v in model.card.chat.items()}
        found[TOKENIZER_CONFIG] = _tokenizer_config(words)
    if eos:
        special["eos_token_id"] = eos[0] if len(eos) == 1 else eos
    _, config = registry.describe(model.model)
    start = config.get("decoder_start_id")
    ids = special if start is None else {**special, "decoder_start_token_id": start}
    found[GENERATION_FILE] = _json(ids)
    return special, found


def from_sentencepiece(
    name: str, content: bytes, ends_with_eos: bool, begins_with_eos: bool = False
) -> tokenizers.Tokenizer:
    """Converts a SentencePiece unigram model to a tokenizer of the library `tokenizers`.

    Args:
      name: its name in errors.
      ends_with_eos: append EOS to every text, as T5's tokenizer does.
      begins_with_eos: prepend EOS.

    Raises:
      UsageError: the model is of another type, which splits texts by other rules.
    """
    proto = sentencepiece_model_pb2.ModelProto.FromString(content)
    spec, trainer = proto.normalizer_spec, proto.trainer_spec
    if trainer.model_type != trainer.UNIGRAM:
        kind = trainer.ModelType.Name(trainer.model_type)
        raise UsageError(
            f"{name}: its SentencePiece model is of type {kind}; only UNIGRAM can be written as "
            f"{model_card.TOKENIZERS_FILE}: convert anew with --tokenizer={model_card.TOKENIZERS_FILE}"
        )
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    library = tokenizers.Tokenizer(
        models.Unigram(pieces, unk_id=trainer.unk_id, byte_fallback=trainer.byte_fallback)
    )
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    if steps:
        library.normalizer = normalizers.Sequence(steps)
    prepend = "always" if spec.add_dummy_prefix else "never"
    split = trainer.split_by_whitespace
    library.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=prepend, split=split)
    metaspace = decoders.Metaspace(replacement=_SPACE, prepend_scheme=prepend, split=split)
    library.decoder = decoders.Sequence([decoders.ByteFallback(), metaspace, decoders.Fuse()])
    control = [p.piece for p in proto.pieces if p.type == p.CONTROL]
    library.add_special_tokens([tokenizers.AddedToken(piece, normalized=False) for piece in control])
    if ends_with_eos or begins_with_eos:
        eos = proto.pieces[trainer.eos_id].piece
        single, pair = (
            [eos] * begins_with_eos + [part for text in texts for part in [text] + [eos] * ends_with_eos]
            for texts in (["$A"], ["$A", "$B"])
        )
        library.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=[(eos, trainer.eos_id)]
        )
    return library


def _surrounding(card: ModelCard, library: tokenizers.Tokenizer, content: bytes) -> bytes:
    """Returns a tokenizer.json that puts EOS around texts as a model's prompts have it."""
    if not card.eos_ids or not (card.prompts_end_with_eos or card.prompts_begin_with_eos):
        return content
    ours, eos = Tokenizer.from_bytes(content, card.eos_ids), card.eos_ids[0]
    before = [eos] if card.prompts_begin_with_eos else ours.first_ids
    behind = [eos] if card.prompts_end_with_eos else []
    if before == ours.first_ids and bool(behind) == ours.appends_eos:
        return content
    pieces = {i: library.id_to_token(i) for i in [*before, *behind]}
    library.post_processor = processors.TemplateProcessing(
        single=[*(pieces[i] for i in before), "$A", *(pieces[i] for i in behind)],
        special_tokens=[(piece, i) for i, piece in pieces.items()],
    )
    return library.to_str().encode()


def _tokenizer_config(words: Mapping[str, str]) -> bytes:
    return _json(
        {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **words}
    )


def _json(value: Any) -> bytes:
    return (as_json(value, indent=2) + "\n").encode()
