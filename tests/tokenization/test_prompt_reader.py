"""Texts as a model with a tokenizer, a chat template and an end of its own reads them."""

import pytest

from distillspec_jax.data import features
from distillspec_jax.data.tensorflow_setup import seqio
from distillspec_jax.errors import UsageError
from distillspec_jax.tokenization.chat_template import ChatTemplate
from distillspec_jax.tokenization.prompt_reader import Reader
from distillspec_jax.tokenization.tokenizer import Tokenizer
from tests.data.hub import BOS, EOS, byte_level

TOKENIZER = Tokenizer.from_bytes(byte_level(), [EOS, BOS])
CHAT = ChatTemplate("{{ bos_token }}{{ messages[0]['content'] }} and{{ eos_token }}", {"bos_token": "<s>"})
AND = TOKENIZER.encode(" and")
BANG = 0
"""The exclamation mark: an id that elsewhere fills rows up."""


def test_a_chat_is_cut_inside_its_template():
    reader = Reader(TOKENIZER, chat=CHAT)
    said = TOKENIZER.encode("the cat sat")
    assert reader.prompt("the cat sat") == [BOS, *said, *AND]
    short = reader.prompt("the cat sat", len(said) + len(AND))
    assert short == [BOS, *said[:-1], *AND]
    euro = TOKENIZER.encode("€")
    assert len(euro) == 3  # one a byte
    assert reader.prompt("€", 1 + 2 + len(AND)) == [BOS, *AND]
    with pytest.raises(UsageError, match=f"template alone takes {1 + len(AND)} tokens, a prompt may have 1"):
        reader.prompt("", 1)


def test_a_target_ends_with_the_first_of_the_ends():
    assert Reader(TOKENIZER).target("a dog") == [*TOKENIZER.encode("a dog"), EOS]
    ids = TOKENIZER.encode("a dog")
    assert Reader(TOKENIZER).target("a dog", len(ids) + 1) == [*ids, EOS]


def test_a_cut_target_does_not_end():
    ids = TOKENIZER.encode("a dog")
    assert Reader(TOKENIZER).target("a dog", len(ids)) == ids
    assert Reader(TOKENIZER).target("a dog", 1) == ids[:1]
    assert Reader(TOKENIZER).target("a dog", ended=False) == ids
    assert Reader(TOKENIZER).target("", ended=False) == [EOS]  # no row without a token


@pytest.mark.parametrize("pack", [False, True])
def test_a_task_is_read_by_another_model(make_task, pack):
    task = make_task({"train": [("cat", "!dog!")]}, prefix="the ")
    lengths = {"inputs": 40, "targets": 20}
    dog = TOKENIZER.encode("dog")
    for reader, prompt in (
        (Reader(TOKENIZER, chat=CHAT), [BOS, *TOKENIZER.encode("the cat"), *AND]),
        (Reader(TOKENIZER, ends_with_eos=False), [BOS, *TOKENIZER.encode("the cat")]),
        (Reader(TOKENIZER, False, begins_with_eos=True), [EOS, *TOKENIZER.encode("the cat")]),
    ):
        settings = {"lengths": lengths, "batch_size": 1, "seed": 0, "pack": pack, "reader": reader}
        batch = next(features.train_batches(task, **settings))
        assert batch["encoder_input_tokens"][0, : len(prompt)].tolist() == prompt
        said = [BANG, *dog, BANG, EOS]
        assert batch["decoder_target_tokens"][0, : len(said)].tolist() == said
        assert batch["decoder_loss_weights"][0, : len(said)].all()  # a word, wherever it stands
        assert batch["decoder_loss_weights"][0, len(said) :].any() == pack
    assert task in seqio.TaskRegistry.names()


def test_a_mixture_is_read_by_another_model():
    reader = Reader(TOKENIZER, ends_with_eos=False)
    (batch,) = features.eval_batches(
        "embedded_mixture",
        split="test",
        lengths={"inputs": 8, "targets": 4},
        batch_size=1,
        limit=1,
        reader=reader,
    )
    assert TOKENIZER.decode(batch["encoder_input_tokens"][0, 1:]) == "solve: "  # its first task by name
    assert EOS not in batch["decoder_target_tokens"]  # its text was cut


def test_what_seqio_cannot_hold_and_templates_that_fail_are_refused_at_once(make_task):
    task = make_task({"train": [("cat", "dog")]})
    settings = {"split": "train", "lengths": {"inputs": 8, "targets": 10}, "batch_size": 1}
    with pytest.raises(UsageError, match="ends texts with id 0"):
        features.eval_batches(task, **settings, reader=Reader(Tokenizer.from_bytes(byte_level(), [0])))
    with pytest.raises(UsageError, match="the checkpoint's chat template: "):
        features.eval_batches(task, **settings, reader=Reader(TOKENIZER, chat=ChatTemplate("{% for %}")))


def test_a_row_that_a_template_refuses_is_one_line(make_task):
    """TensorFlow, which asks for the row, wraps what its reader raises in pages of its own."""
    task = make_task({"train": [("cat", "dog"), ("bad", "dog")]})
    source = "{% if 'bad' in messages[0].content %}{{ raise_exception('no bad words') }}{% endif %}x"
    settings = {"split": "train", "lengths": {"inputs": 8, "targets": 10}, "batch_size": 2}
    with pytest.raises(UsageError) as caught:
        list(features.eval_batches(task, **settings, reader=Reader(TOKENIZER, chat=ChatTemplate(source))))
    assert str(caught.value) == "the checkpoint's chat template: no bad words"
