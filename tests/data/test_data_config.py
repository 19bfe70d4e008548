"""Which text a run sees."""

import dataclasses

import numpy as np
import pytest

from distillspec_jax.data import catalog
from distillspec_jax.data.data_config import DataConfig
from distillspec_jax.errors import UsageError
from distillspec_jax.models.interface import prompt_lengths
from tests.data.hub import BOS, EOS, byte_level
from tests.data.toy import CONVENTIONS, LENGTHS, parent, said


def real_rows(batches):
    return [int((batch["decoder_loss_weights"].sum(1) > 0).sum()) for batch in batches]


def test_a_mixtures_rows_hold_the_longest_of_its_tasks():
    data = DataConfig("embedded_mixture")
    assert data.tasks == tuple(catalog.EMBEDDED_TASKS)
    assert data.lengths == {"inputs": 192, "targets": 288}
    assert DataConfig("wiki_leads", {"inputs": 9, "targets": 7}).lengths == {"inputs": 9, "targets": 7}


@pytest.mark.parametrize(
    ("name", "nearest"), [("wiki_lead", "wiki_leads"), ("embeded_mixture", "embedded_mixture")]
)
def test_an_unknown_task_names_the_nearest_task_or_mixture(name, nearest):
    with pytest.raises(UsageError, match=rf"{name!r}: did you mean {nearest!r}\?"):
        DataConfig(name).tasks  # noqa: B018


def test_the_fingerprint_follows_the_training_text(make_task, tmp_path):
    data = DataConfig(make_task({"train": said(3)}))
    before = data.fingerprint()
    assert data.fingerprint() == before
    (tmp_path / "train.jsonl").write_text('{"inputs": "a", "targets": "b"}\n')
    assert data.fingerprint() != before


def test_the_stream_goes_on_where_a_step_left_it(make_task):
    data = DataConfig(make_task({"train": said(11)}, **LENGTHS))
    whole = data.train_batches(4, seed=5)
    for _ in range(3):
        next(whole)
    rest = data.train_batches(4, seed=5, start_step=3)
    for _ in range(4):
        np.testing.assert_equal(next(rest), next(whole))


def test_held_out_text_is_read_whole_and_at_once(make_task):
    data = DataConfig(make_task({"train": said(3), "validation": said(5)}, **LENGTHS))
    ((name, batches),) = data.held_out_batches(2).items()
    assert name == data.mixture_or_task_name
    assert real_rows(batches) == [2, 2, 1]
    assert real_rows(dataclasses.replace(data, eval_limit=3).held_out_batches(2)[name]) == [2, 1]


def test_a_task_without_validation_text_holds_none_out(make_task):
    assert DataConfig(make_task({"train": said(3)}, **LENGTHS)).held_out_batches(2) == {}


def test_text_is_read_as_the_first_parent_that_has_a_tokenizer_reads(tmp_path):
    unknown, known = parent(tmp_path / "a", None), parent(tmp_path / "b", byte_level(), **CONVENTIONS)
    data = DataConfig("wiki_leads", chat=True).read_by(None, unknown, known)
    assert data.tokenizer_of == known
    assert data.conventions() == CONVENTIONS
    assert data.reader.prompt("cat") == [BOS, *data.tokenizer().encode("cat")]
    plain = dataclasses.replace(data, chat=False)
    assert plain.reader.prompt("cat") == [BOS, *plain.tokenizer().encode("cat")]  # no EOS
    assert plain.reader.chat is None
    named = dataclasses.replace(data, tokenizer_of="zoo:wiki_leads/draft")
    assert named.read_by(known) == named
    assert DataConfig("wiki_leads").read_by(unknown).reader == catalog.reader(catalog.WIKI_LEADS)


def test_a_prompt_keeps_the_id_0_at_its_end(make_task, tmp_path):
    """The exclamation mark of this vocabulary."""
    known = parent(tmp_path / "a", byte_level(), **CONVENTIONS)
    rows = [("cat!", "a dog")]
    data = DataConfig(make_task({"train": rows, "validation": rows}, **LENGTHS), tokenizer_of=known)
    prompt = data.reader.prompt("cat!")
    assert prompt[-1] == 0
    ((_, (held_out,)),) = data.held_out_batches(2).items()
    for batch in (next(data.train_batches(1, seed=0)), held_out):
        assert batch["encoder_input_tokens"][0].tolist() == [*prompt, *[-1] * (16 - len(prompt))]
    np.testing.assert_array_equal(prompt_lengths(held_out["encoder_input_tokens"]), [len(prompt), 0])


def test_a_chat_template_that_is_not_there_is_refused(tmp_path):
    chat = DataConfig("wiki_leads", chat=True)
    with pytest.raises(UsageError, match="CHAT=True needs TOKENIZER_OF, whose chat template is used"):
        chat.reader  # noqa: B018
    with pytest.raises(UsageError, match=f"{tmp_path / 'a'} has no chat template: leave CHAT out"):
        chat.read_by(parent(tmp_path / "a", byte_level(), eos_ids=[EOS])).reader  # noqa: B018
