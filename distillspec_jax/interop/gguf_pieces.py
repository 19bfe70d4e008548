"""GGUF's tokenizer `llama`, SentencePiece's merging of pieces, as a tokenizer.json: Llama 2, Gemma.

The metadata has pieces and scores: among neighbours that together form a piece, those with the highest score
are merged first. A tokenizer.json has an ordered list of merges, so each split of a piece in two is a merge.
"""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers

UNKNOWN, BYTE = 2, 6
"""Token types, in addition to those of `gguf_tokenizer`."""
_SPACE = "▁"


def build(metadata: dict[str, Any]) -> tokenizers.Tokenizer:
    """Makes the library's tokenizer, without special tokens and post-processing.

    Args:
      metadata: the values under `tokenizer.ggml.`.

    Raises:
      KeyError, IndexError: the metadata are incomplete.
    """
    pieces: list[str] = metadata["tokens"]
    types: list[int] = metadata["token_type"]
    unknown = next((piece for piece, type_ in zip(pieces, types, strict=True) if type_ == UNKNOWN), None)
    library = tokenizers.Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces)},
            merges(pieces, metadata["scores"], types),
            unk_token=pieces[metadata["unknown_token_id"]] if "unknown_token_id" in metadata else unknown,
            fuse_unk=True,
            byte_fallback=BYTE in types,
        )
    )
    prefixed = metadata.get("add_space_prefix", True)
    steps: list[Any] = [normalizers.Prepend(_SPACE)] if prefixed else []
    library.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if prefixed else []
    library.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return library


def merges(pieces: list[str], scores: list[float], types: list[int]) -> list[tuple[str, str]]:
    """Lists all pairs of pieces that together form a piece, in merge order."""
    ordinary = {piece: score for piece, score, type_ in zip(pieces, scores, types, strict=True) if type_ == 1}
    found = [
        (-score, piece[:cut], piece[cut:])
        for piece, score in ordinary.items()
        for cut in range(1, len(piece))
        if piece[:cut] in ordinary and piece[cut:] in ordinary
    ]
    return [(first, second) for _, first, second in sorted(found)]
