"""A small tokenizer.json of the byte-level kind, as GPT-2's, Qwen2's and SmolLM2's are."""

from __future__ import annotations

import functools

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

CORPUS = ["the cat sat on the mat", "the dog sat on the log", "cats and dogs", "a cat and a dog and a log"]
BOS, EOS = 272, 273


@functools.cache
def byte_level(bos: bool = True) -> bytes:
    """Trained on `CORPUS`; id 0 is an ordinary word, the exclamation mark."""
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BOS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(CORPUS, trainer)
    library.add_special_tokens(["<s>", "</s>"])
    if bos:
        library.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return library.to_str().encode()
