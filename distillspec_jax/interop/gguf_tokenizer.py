"""Converts the tokenizer in a GGUF's metadata to a tokenizer.json.

It is byte-level BPE, as in SmolLM2, Qwen2 and Llama 3, or SentencePiece's merges (`gguf_pieces.py`). For the
former, the metadata has the vocabulary and the merges, but only a name for the pre-tokenizer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from distillspec_jax import schema
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.interop import gguf_pieces
from distillspec_jax.interop.gguf_file import GGUFFile

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Token types: ordinary, special, other tokens that are never split, and unused rows of the table."""

_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_LLAMA3_SPLIT = _QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


class Kind(NamedTuple):
    """The settings behind a pre-tokenizer's name.

    Attributes:
      split: the regular expression that splits a text, if not GPT-2's own.
      digits: split digits individually.
      normalizer: applied first.
      whole: a word of the vocabulary is one token even if no merges lead to it.
      bos: prepend BOS to a text, unless the file says otherwise.
    """

    split: str | None = None
    digits: bool = False
    normalizer: normalizers.Normalizer | None = None
    whole: bool = False
    bos: bool = False


_LLAMA3 = Kind(_LLAMA3_SPLIT, whole=True, bos=True)
KINDS = {
    "default": Kind(),
    "gpt-2": Kind(),
    "smollm": Kind(digits=True),
    "qwen2": Kind(_QWEN2_SPLIT, normalizer=normalizers.NFC()),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
}
"""Settings by `tokenizer.ggml.pre`."""


def read(file: GGUFFile) -> bytes | None:
    """Makes a tokenizer.json, or None if the file has no tokenizer.

    Raises:
      UsageError: the tokenizer is of another kind or incomplete.
    """
    metadata = _metadata(file)
    if "model" not in metadata:
        return None
    where = f"{file.path}: metadata tokenizer.ggml"
    if metadata["model"] not in ("gpt2", "llama"):
        raise UsageError(
            f"{where}.model is {metadata['model']!r}, only 'gpt2' (byte-level BPE) and 'llama' "
            "(SentencePiece's merges) are read: pass --tokenizer=FILE"
        )
    name = str(metadata.get("pre", "default"))
    if metadata["model"] == "gpt2" and name not in KINDS:
        hint = nearest(name, KINDS)
        raise UsageError(f"{where}.pre is {name!r}, which is unknown: {hint}; or pass --tokenizer=FILE")
    try:
        return _build(metadata, KINDS.get(name)).to_str().encode()
    except BaseException as error:  # the library raises plain Exception, or panics, which are not Exceptions
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{where}: not a whole tokenizer: {reason}; or pass --tokenizer=FILE") from error


def eos_ids(file: GGUFFile) -> tuple[int, ...]:
    """Returns the ids that end an output: a text, a turn or a message; () if the file has none."""
    metadata = _metadata(file)
    named = {name: metadata.get(name) for name in ("eos_token_id", "eot_token_id", "eom_token_id")}
    where = f"{file.path}: metadata tokenizer.ggml"
    found = [schema.value(schema.Id | None, token, where, name) for name, token in named.items()]
    return tuple(dict.fromkeys(i for i in found if i is not None))


def chat(file: GGUFFile) -> dict[str, str]:
    """See `ModelCard.chat`."""
    template = file.metadata.get("tokenizer.chat_template")
    if template is None:
        return {}
    schema.value(str, template, f"{file.path}: metadata", "tokenizer.chat_template")
    metadata = _metadata(file)
    ids = {f"{name}_token": metadata.get(f"{key}_token_id") for name, key in WORDS.items()}
    tokens = metadata.get("tokens")
    pieces = dict(enumerate(tokens)) if isinstance(tokens, list) else {}
    words = {name: pieces[i] for name, i in ids.items() if isinstance(i, int) and i in pieces}
    return {"template": template, **{name: word for name, word in words.items() if isinstance(word, str)}}


WORDS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Special tokens by transformers' name and by GGUF's."""


def _metadata(file: GGUFFile) -> dict[str, Any]:
    prefix = "tokenizer.ggml."
    return {k.removeprefix(prefix): v for k, v in file.metadata.items() if k.startswith(prefix)}


def prepare(library: tokenizers.Tokenizer, kind: Kind) -> None:
    """Sets a tokenizer's normalizer, pre-tokenizer and decoder according to the kind."""
    if kind.normalizer is not None:
        library.normalizer = kind.normalizer
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind.split is None)
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if kind.digits else []
    if kind.split is not None:
        steps.append(pre_tokenizers.Split(tokenizers.Regex(kind.split), behavior="isolated"))
    library.pre_tokenizer = pre_tokenizers.Sequence([*steps, byte_level])
    library.decoder = decoders.ByteLevel()


def _build(metadata: dict[str, Any], kind: Kind | None) -> tokenizers.Tokenizer:
    pieces: list[str] = metadata["tokens"]
    types = metadata.get("token_type", [1] * len(pieces))
    of_pieces = metadata["model"] == "llama"
    if of_pieces:
        library = gguf_pieces.build(metadata)
    else:
        assert kind is not None
        vocabulary = {piece: i for i, piece in enumerate(pieces) if types[i] != UNUSED}
        merges = [(first, second) for first, second in (merge.split(" ") for merge in metadata["merges"])]
        library = tokenizers.Tokenizer(models.BPE(vocabulary, merges, ignore_merges=kind.whole))
        prepare(library, kind)
    # SentencePiece matches user-defined words after spaces are replaced; a prefix would precede each word.
    replaced = of_pieces and not metadata.get("add_space_prefix", True)
    added = [
        tokenizers.AddedToken(piece, normalized=replaced and type_ == USER_DEFINED, special=type_ == CONTROL)
        for piece, type_ in zip(pieces, types, strict=True)
        if type_ in (CONTROL, USER_DEFINED)
    ]
    library.add_tokens(added)
    begins = metadata.get("add_bos_token", of_pieces or (kind is not None and kind.bos))
    before = [metadata["bos_token_id"]] if begins else []
    behind = [metadata["eos_token_id"]] if metadata.get("add_eos_token", False) else []
    if around := before + behind:
        library.post_processor = processors.TemplateProcessing(
            single=[*(pieces[i] for i in before), "$A", *(pieces[i] for i in behind)],
            special_tokens=[(pieces[i], i) for i in dict.fromkeys(around)],
        )
    return library
