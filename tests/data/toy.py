"""Small rows of a task, and the cards of models that read them."""

from distillspec_jax import model_card
from tests.data.hub import BOS, EOS

LENGTHS = {"inputs_length": 16, "targets_length": 8}
"""Of a task of `said`."""

CONVENTIONS = {
    "eos_ids": [EOS, BOS],
    "prompts_end_with_eos": False,
    "prompts_begin_with_eos": False,
    "chat": {"template": "{{ bos_token }}{{ messages[0]['content'] }}", "bos_token": "<s>"},
}


def said(rows):
    return [(f"say {i}", f"{i} is said") for i in range(rows)]


def parent(folder, tokenizer, **conventions):
    """A checkpoint directory that a run may start from, as far as its text is concerned."""
    known = None if tokenizer is None else model_card.fingerprint(tokenizer)
    card = model_card.ModelCard("t5", {}, known, **conventions)
    model_card.write_card(folder, card, tokenizer)
    return str(folder)
