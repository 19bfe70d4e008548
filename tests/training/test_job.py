"""What a job is made of: its text, its card, its directory."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from distillspec_jax import checkpoint
from distillspec_jax.data import catalog
from distillspec_jax.data.tokenizer import EMBEDDED_MODEL
from distillspec_jax.errors import UsageError
from distillspec_jax.models.t5 import EncoderDecoder, T5Config
from distillspec_jax.partitioning import make_partitioner
from distillspec_jax.training import job
from distillspec_jax.training.loop import LoopConfig
from distillspec_jax.training.step import row_tokens
from tests.data.hub import BOS, EOS, byte_level
from tests.training import toy

MODEL = EncoderDecoder(
    T5Config(
        vocab_size=4096,
        emb_dim=8,
        num_heads=2,
        head_dim=4,
        num_encoder_layers=1,
        num_decoder_layers=1,
        mlp_dim=8,
    )
)


def describe(task="wiki_leads", parents=(), model=MODEL):
    return job.describe_run(model, job.DataConfig(task), dict(parents), gin="TRAIN_STEPS = 3")


# --- the text ---


def test_a_mixtures_rows_hold_the_longest_of_its_tasks():
    data = job.DataConfig("embedded_mixture")
    assert data.tasks == tuple(catalog.EMBEDDED_TASKS)
    assert data.lengths == {"inputs": 192, "targets": 288}
    assert job.DataConfig("wiki_leads", {"inputs": 9, "targets": 7}).lengths == {"inputs": 9, "targets": 7}


@pytest.mark.parametrize(
    ("name", "nearest"), [("wiki_lead", "wiki_leads"), ("embeded_mixture", "embedded_mixture")]
)
def test_an_unknown_task_names_the_nearest_task_or_mixture(name, nearest):
    with pytest.raises(UsageError, match=rf"{name!r}: did you mean {nearest!r}\?"):
        job.DataConfig(name).tasks  # noqa: B018


def test_the_fingerprint_follows_the_training_text(make_task, tmp_path):
    data = job.DataConfig(make_task({"train": 3}))
    before = data.fingerprint()
    assert data.fingerprint() == before
    (tmp_path / "train.jsonl").write_text('{"inputs": "a", "targets": "b"}\n')
    assert data.fingerprint() != before


def test_the_stream_goes_on_where_a_step_left_it(make_task):
    data = job.DataConfig(make_task({"train": 11}))
    batches = data.train_batches(LoopConfig(total_steps=9, batch_size=4, seed=5))
    whole = batches(0)
    for _ in range(3):
        next(whole)
    rest = batches(3)
    for _ in range(4):
        np.testing.assert_equal(next(rest), next(whole))


def test_held_out_text_is_read_whole_and_at_once(make_task):
    data = job.DataConfig(make_task({"train": 3, "validation": 5}))
    ((name, batches),) = data.held_out_batches(2).items()
    assert name == data.mixture_or_task_name
    real = [int((batch["decoder_loss_weights"].sum(1) > 0).sum()) for batch in batches]
    assert real == [2, 2, 1]
    limited = dataclasses.replace(data, eval_limit=3).held_out_batches(2)[name]
    assert [int((batch["decoder_loss_weights"].sum(1) > 0).sum()) for batch in limited] == [2, 1]


def test_a_task_without_validation_text_is_trained_without_evaluation(make_task):
    data = job.DataConfig(make_task({"train": 3}))
    assert data.held_out_batches(2) == {}
    assert job.held_out_loss(toy.LOSS, data, 2, make_partitioner()) is None


def test_held_out_loss_pools_the_examples(make_task):
    data = job.DataConfig(make_task({"train": 3, "validation": 5}))

    def rows(params, batch, key):
        tokens = row_tokens(batch["decoder_loss_weights"])
        return tokens.total, tokens.count, {"row_tokens": tokens}

    found = job.held_out_loss(jax.tree_util.Partial(rows), data, 2, make_partitioner())({})
    ((_, batches),) = data.held_out_batches(2).items()
    tokens = sum(batch["decoder_loss_weights"].sum() for batch in batches)
    assert found == {"row_tokens": pytest.approx(tokens / 5), "loss": pytest.approx(tokens / 5)}


# --- the card ---


def test_the_card_tells_model_text_and_origin():
    card = describe()
    assert card.config["emb_dim"] == 8
    assert (card.task, card.prefix) == ("wiki_leads", "summarize: ")
    assert card.feature_lengths == {"inputs": 192, "targets": 128}
    assert card.tokenizer_fingerprint == catalog.tokenizer(catalog.WIKI_LEADS).fingerprint
    assert card.provenance["gin"] == "TRAIN_STEPS = 3"
    assert card.provenance["data"]["name"] == "wiki_leads"
    json.dumps(dataclasses.asdict(card))


def test_a_mixture_has_no_prefix_of_its_own():
    assert describe("embedded_mixture").prefix == ""


def test_a_model_too_small_for_the_vocabulary_is_refused():
    small = EncoderDecoder(dataclasses.replace(MODEL.config, vocab_size=4000))
    with pytest.raises(UsageError, match=r"vocab_size 4000 is smaller than .*'wiki_leads' \(4096 pieces\)"):
        describe(model=small)


def test_a_parent_with_another_vocabulary_is_refused(tmp_path):
    card = dataclasses.replace(describe(), tokenizer_fingerprint="f" * 64)
    checkpoint.write_card(tmp_path, card, None)
    with pytest.raises(UsageError, match=rf"initial {tmp_path} was trained with another vocabulary"):
        describe(parents={"initial": str(tmp_path)})


CONVENTIONS = {
    "eos_ids": [EOS, BOS],
    "prompts_end_with_eos": False,
    "chat": {"template": "{{ bos_token }}{{ messages[0]['content'] }}", "bos_token": "<s>"},
}


def parent(folder, tokenizer, **conventions):
    known = None if tokenizer is None else checkpoint.fingerprint(tokenizer)
    card = checkpoint.ModelCard("t5", {}, known, **conventions)
    checkpoint.write_card(folder, card, tokenizer)
    return str(folder)


def test_a_run_reads_as_its_parent_does_and_hands_that_on(tmp_path):
    unknown, known = parent(tmp_path / "a", None), parent(tmp_path / "b", byte_level(), **CONVENTIONS)
    data = job.DataConfig("wiki_leads", chat=True).read_by(None, unknown, known)
    assert data.reader.prompt("cat") == [BOS, *data.tokenizer().encode("cat")]
    card = job.describe_run(MODEL, data, {"target": unknown, "draft": known}, gin="")
    assert {name: getattr(card, name) for name in CONVENTIONS} == CONVENTIONS
    assert card.tokenizer_fingerprint == checkpoint.fingerprint(byte_level())
    assert card.provenance["data"]["chat"]
    plain = dataclasses.replace(data, chat=False)
    assert plain.reader.prompt("cat") == [BOS, *plain.tokenizer().encode("cat")]  # no EOS
    assert plain.reader.chat is None
    named = dataclasses.replace(data, tokenizer_of="zoo:wiki_leads/draft")
    assert named.read_by(known) == named
    assert job.DataConfig("wiki_leads").read_by(unknown).reader == catalog.reader(catalog.WIKI_LEADS)


def test_a_task_that_was_given_a_vocabulary_keeps_it(make_task, tmp_path):
    known = parent(tmp_path / "parent", byte_level(), **CONVENTIONS)
    data = job.DataConfig(make_task({"train": 1}, vocabulary_path=str(EMBEDDED_MODEL))).read_by(known)
    with pytest.raises(UsageError, match="was trained with another vocabulary than 'job_task_"):
        job.describe_run(MODEL, data, {"initial": known}, gin="")


def test_a_chat_template_that_is_not_there_is_refused(tmp_path):
    chat = job.DataConfig("wiki_leads", chat=True)
    with pytest.raises(UsageError, match="CHAT=True: nobody's chat template; give TOKENIZER_OF"):
        chat.reader  # noqa: B018
    with pytest.raises(UsageError, match=f"{tmp_path / 'a'} has no chat template: leave CHAT out"):
        chat.read_by(parent(tmp_path / "a", byte_level(), eos_ids=[EOS])).reader  # noqa: B018


# --- the directory ---


@pytest.fixture
def opened(tmp_path):
    card = describe()
    assert job.open_directory(tmp_path / "run", card, b"tokenizer") == tmp_path / "run"
    return tmp_path / "run", card


def test_a_directory_is_described_before_the_first_step(opened):
    directory, _ = opened
    assert checkpoint.read_card(directory).task == "wiki_leads"
    assert (directory / "tokenizer.model").read_bytes() == b"tokenizer"
    assert checkpoint.latest_step(directory) is None


def test_the_same_run_may_go_on_with_other_steps_and_commands(opened):
    directory, card = opened
    changed = card.provenance | {"gin": "TRAIN_STEPS = 9", "command": "another"}
    job.open_directory(directory, dataclasses.replace(card, provenance=changed), b"tokenizer")
    assert checkpoint.read_card(directory).provenance["gin"] == "TRAIN_STEPS = 3"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"config": {"emb_dim": 16}}, "whose emb_dim is 8 and not 16"),
        ({"config": {"mlp_activations": ["relu"]}}, r"whose mlp_activations is \['gelu', 'linear'\] and not"),
        ({"task": "gsm_symbolic"}, "whose task is 'wiki_leads' and not 'gsm_symbolic'"),
        ({"tokenizer_fingerprint": "f" * 64}, "whose tokenizer is"),
        ({"provenance": {"parents": {"target": "t"}}}, "whose target model is None and not 't'"),
    ],
)
def test_another_run_in_the_same_directory_is_refused_by_what_differs(opened, change, says):
    directory, card = opened
    if "config" in change:
        change = {"config": card.config | change["config"]}
    with pytest.raises(UsageError, match=rf"MODEL_DIR={directory} holds another run, {says}"):
        job.open_directory(directory, dataclasses.replace(card, **change), b"tokenizer")


def test_a_run_may_not_write_over_what_it_starts_from(opened, tmp_path):
    directory, _ = opened
    card = describe(parents={"draft": str(directory)})
    with pytest.raises(UsageError, match="is the draft that the run starts from: choose another"):
        job.open_directory(tmp_path / "elsewhere" / ".." / "run", card, b"tokenizer")
