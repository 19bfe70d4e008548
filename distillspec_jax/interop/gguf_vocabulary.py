"""Converts a checkpoint's byte-level BPE tokenizer to GGUF metadata, the inverse of `gguf_tokenizer`.

llama.cpp is only given the name of a pre-tokenizer and implements it in its own code (0c1e57098,
src/llama-vocab.cpp). A name is chosen only if that code does what the tokenizer.json says: any difference
would silently give texts other ids. All other tokenizers are rejected, including SentencePiece models: for
unigram models llama.cpp has no byte pieces (characters outside the vocabulary become <unk>), and for others
it merges pieces by their scores.
"""

from __future__ import annotations

import json
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers

from distillspec_jax import model_card
from distillspec_jax.errors import UsageError, shown
from distillspec_jax.interop import gguf_tokenizer
from distillspec_jax.interop.gguf_tokenizer import CONTROL, KINDS, NORMAL, UNUSED, USER_DEFINED, WORDS, Kind
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.tokenization.tokenizer import Tokenizer

_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
"""The ids that end a text in llama.cpp, in the order in which `gguf_tokenizer.eos_ids` reads them."""


def metadata(model: Pretrained) -> dict[str, Any]:
    """Makes the keys under `tokenizer.`.

    Raises:
      UsageError: there is no tokenizer, or llama.cpp would not reproduce it; says why.
    """
    content, where = model.tokenizer_bytes, f"{model.name} as GGUF"
    if content is None:
        raise UsageError(
            f"{where}: it has no tokenizer, and llama.cpp wants one: convert the original again, with its "
            "--tokenizer=FILE"
        )
    if model_card.tokenizer_file(content) == model_card.SENTENCEPIECE_FILE:
        raise UsageError(
            f"{where}: its tokenizer is a SentencePiece model, of which llama.cpp would silently make other "
            "ids; only byte-level BPE (a tokenizer.json) is written: use --to=hf"
        )
    ours = Tokenizer.from_bytes(content, model.card.eos_ids)  # in a separate process, which may reject it
    if ours.vocab_size > model.model.vocab_size:
        raise UsageError(f"{where}: {ours.vocab_size:,} ids, but logits for {model.model.vocab_size:,}")
    library = tokenizers.Tokenizer.from_str(content.decode())
    spec = json.loads(library.to_str())
    name = _pre_tokenizer(where, spec)
    if len(ours.eos_ids) > len(_ENDS):
        raise UsageError(
            f"{where}: {len(ours.eos_ids)} ids end a text, llama.cpp is told {len(_ENDS)} at most"
        )
    pieces, types = _pieces(where, library, model.model.vocab_size)
    ids = _special_ids(model, ours, pieces)
    found: dict[str, Any] = {
        "model": "gpt2",
        "pre": name,
        "tokens": pieces,
        "token_type": types,
        "merges": [" ".join(merge) for merge in spec["model"]["merges"]],
        **ids,
        "add_bos_token": bool(ours.first_ids) or model.card.prompts_begin_with_eos,
        "add_eos_token": model.card.prompts_end_with_eos,
        "add_space_prefix": False,
    }
    written = {f"tokenizer.ggml.{key}": value for key, value in found.items()}
    if model.card.chat:
        written["tokenizer.chat_template"] = model.card.chat["template"]
    return written


def _pre_tokenizer(where: str, spec: dict[str, Any]) -> str:
    """Finds llama.cpp's name of the pre-tokenizer, if all other settings match llama.cpp's."""
    inner = spec["model"]
    if inner.get("byte_fallback"):
        raise UsageError(
            f"{where}: its tokenizer is of SentencePiece's merges with byte pieces, as Gemma's and Llama 2's "
            "are, which are read but not written: use --to=hf"
        )
    ordinary = {
        "type": "BPE",
        "dropout": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
    }
    for field, only in ordinary.items():
        if (inner.get(field) or only) != only:
            raise UsageError(f"{where}: its tokenizer has {field} {shown(inner[field])}, llama.cpp {only!r}")
    if [step["type"] for step in _steps(spec["decoder"])] != ["ByteLevel"]:
        raise UsageError(f"{where}: its tokenizer is not byte-level, as llama.cpp's BPE is: use --to=hf")
    lacking = set(pre_tokenizers.ByteLevel.alphabet()) - set(inner["vocab"])
    if inner.get("unk_token") and lacking:
        raise UsageError(
            f"{where}: {len(lacking)} bytes are no pieces of its tokenizer and become "
            f"{shown(inner['unk_token'])}; llama.cpp leaves them out"
        )
    for name, kind in KINDS.items():
        if name != "default" and _settings(spec) == _settings_of(kind):
            return name
    steps = ", ".join(step["type"] for step in _steps(spec["normalizer"]) + _steps(spec["pre_tokenizer"]))
    names = ", ".join(name for name in KINDS if name != "default")
    raise UsageError(
        f"{where}: its tokenizer cuts texts up ({steps or 'not at all'}) by no rule that llama.cpp is known "
        f"to have a name for: {names}; use --to=hf"
    )


def _settings_of(kind: Kind) -> Any:
    library = tokenizers.Tokenizer(models.BPE(ignore_merges=kind.whole))
    gguf_tokenizer.prepare(library, kind)
    return _settings(json.loads(library.to_str()))


def _settings(spec: dict[str, Any]) -> Any:
    """Returns the settings that determine how a text is split; `trim_offsets` only affects offsets."""
    steps = _steps(spec["normalizer"]), _steps(spec["pre_tokenizer"])
    known = [[{k: v for k, v in step.items() if k != "trim_offsets"} for step in part] for part in steps]
    return *known, bool(spec["model"].get("ignore_merges"))


def _steps(spec: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Flattens nested sequences of steps."""
    if spec is None:
        return []
    inside = next((spec[key] for key in ("pretokenizers", "normalizers", "decoders") if key in spec), None)
    return [spec] if inside is None else [step for part in inside for step in _steps(part)]


def _pieces(where: str, library: tokenizers.Tokenizer, size: int) -> tuple[list[str], list[int]]:
    """Lists piece and type of every row of the embedding: llama.cpp expects a piece per row."""
    pieces, types = [f"[PAD{i}]" for i in range(size)], [UNUSED] * size
    for piece, i in library.get_vocab(with_added_tokens=True).items():
        pieces[i], types[i] = piece, NORMAL
    for i, token in library.get_added_tokens_decoder().items():
        if token.single_word or token.lstrip or token.rstrip:
            raise UsageError(
                f"{where}: its token {shown(token.content)} takes spaces beside it along, or stands for "
                "whole words alone, which llama.cpp is not told"
            )
        types[i] = CONTROL if token.special else USER_DEFINED
    if len(set(pieces)) < size:
        twice = next(piece for i, piece in enumerate(pieces) if piece in pieces[:i])
        raise UsageError(f"{where}: two of its ids are {shown(twice)}, llama.cpp wants different pieces")
    return pieces, types


def _special_ids(model: Pretrained, ours: Tokenizer, pieces: list[str]) -> dict[str, int]:
    words = model.card.chat
    number = {piece: i for i, piece in enumerate(pieces)}
    told = {
        f"{theirs}_token_id": number[words[f"{name}_token"]]
        for name, theirs in WORDS.items()
        if words.get(f"{name}_token") in number
    }
    first = ours.first_ids or ([ours.eos_id] if model.card.prompts_begin_with_eos else [])
    if len(first) > 1:
        raise UsageError(
            f"{model.name} as GGUF: its tokenizer begins texts with the {len(first)} ids {first}, llama.cpp "
            "with one"
        )
    if first:
        told["bos_token_id"] = first[0]
    return told | dict(zip(_ENDS, ours.eos_ids, strict=False))
