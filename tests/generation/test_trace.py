"""Round by round, a text is the one that the target decodes."""

import numpy as np

from distillspec_jax.generation.prompt_format import tokenizer_of
from distillspec_jax.generation.trace import trace
from tests import pair, tiny


def test_rounds_add_up_to_the_greedy_text_of_the_whole_prompt():
    """Its last id is 0, which is a word here."""
    words, text, limit = pair.without_padding(), "the cat!", 4
    tokenizer = tokenizer_of(words)
    prompt = [*tokenizer.first_ids, *tokenizer.encode(text)]
    assert prompt[-1] == 0
    line_BT = np.zeros((1, len(prompt) + limit), np.int32)
    line_BT[0, : len(prompt)] = prompt
    for end in range(len(prompt), len(prompt) + limit):
        logits_BTV = tiny.logits(words.model, words.params, {"decoder_input_tokens": line_BT})
        line_BT[0, end] = np.asarray(logits_BTV)[0, end - 1].argmax()
    greedy = line_BT[0, len(prompt) :].tolist()
    rounds = trace(words, words, text, block_size=2, max_new_tokens=limit)
    found = "".join("".join(one.accepted) + one.added for one in rounds)
    assert found == "".join(map(tokenizer.piece, greedy))
    assert [(len(one.accepted), one.tested) for one in rounds] == [(2, 2), (1, 1)]
