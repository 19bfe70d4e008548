"""Builds the embedded SentencePiece vocabulary: `python -m distillspec_jax.data.train_vocabulary`.

It trains on both fields of the three embedded training splits, about 15 s on one core. It is deterministic
(no sampling of sentences; one thread, so one order of summation): the same sentencepiece version gives the
same bytes.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece

from distillspec_jax.data import catalog
from distillspec_jax.tokenization.tokenizer import EMBEDDED_MODEL, Tokenizer

VOCABULARY_SIZE = 4_096


def training_lines() -> Iterator[str]:
    """Yields every line of both fields. Newline is a separate piece, so no piece can span two lines."""
    for spec in catalog.EMBEDDED_TASKS.values():
        for row in catalog.read_rows(spec, "train"):
            for text in row.values():
                yield from filter(None, text.split("\n"))


def train(lines: Iterable[str], vocabulary_size: int = VOCABULARY_SIZE) -> bytes:
    """Trains and serialises a unigram model: pad 0, eos 1, unk 2, newline, 256 bytes, then learned pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="unigram",
        vocab_size=vocabulary_size,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        # Lossless: no normalization, stripping or dummy prefix.
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        byte_fallback=True,
        user_defined_symbols=["\n"],
        split_digits=True,
        # Rare characters, one in 10,000 in total, are left to the byte pieces.
        character_coverage=0.9999,
        # In bytes; longer sentences would be skipped. The longest row has about 2,000.
        max_sentence_length=16_384,
        num_threads=1,
        minloglevel=1,
    )
    return model.getvalue()


def main() -> None:
    """Writes the model file and prints its fingerprint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=EMBEDDED_MODEL)
    output: Path = parser.parse_args().output
    tokenizer = Tokenizer.from_bytes(train(training_lines()))
    output.write_bytes(tokenizer.model_bytes)
    print(f"{output}: {tokenizer.vocab_size} pieces, fingerprint {tokenizer.fingerprint}")


if __name__ == "__main__":
    main()
