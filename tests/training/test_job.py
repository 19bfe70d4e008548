"""What a job is made of: its card, its directory, its held-out loss."""

import dataclasses
import json

import jax
import pytest

from distillspec_jax import checkpoint, model_card
from distillspec_jax.data import catalog
from distillspec_jax.data.data_config import DataConfig
from distillspec_jax.distillation.divergences import ForwardKL
from distillspec_jax.errors import Unavailable, UsageError
from distillspec_jax.models.decoder_only import DecoderOnly, DecoderOnlyConfig
from distillspec_jax.models.t5 import EncoderDecoder, T5Config
from distillspec_jax.partitioning import make_partitioner
from distillspec_jax.tokenization.tokenizer import EMBEDDED_MODEL
from distillspec_jax.training import job
from distillspec_jax.training.step import row_tokens
from tests.data.hub import byte_level
from tests.data.toy import CONVENTIONS, LENGTHS, parent, said
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
    return job.describe_run(
        model, DataConfig(task), dict(parents), "TRAIN_STEPS = 3", {"divergence": ForwardKL()}
    )


# --- held-out loss ---


def test_held_out_loss_pools_the_examples(make_task):
    data = DataConfig(make_task({"train": said(3), "validation": said(5)}, **LENGTHS))

    def rows(params, batch, key):
        tokens = row_tokens(batch["decoder_loss_weights"])
        return tokens.total, tokens.count, {"row_tokens": tokens}

    found = job.held_out_loss(jax.tree_util.Partial(rows), data, 2, make_partitioner())({})
    ((_, batches),) = data.held_out_batches(2).items()
    tokens = sum(batch["decoder_loss_weights"].sum() for batch in batches)
    assert found == {"row_tokens": pytest.approx(tokens / 5), "loss": pytest.approx(tokens / 5)}


def test_a_task_without_validation_text_is_trained_without_evaluation(make_task):
    data = DataConfig(make_task({"train": said(3)}))
    assert job.held_out_loss(toy.LOSS, data, 2, make_partitioner()) is None


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


@pytest.mark.parametrize("pack", [False, True])
def test_rows_longer_than_the_models_positions_are_refused(pack):
    """A packed row may hold one example, and its positions count on past the table's end."""
    sizes = {"vocab_size": 4096, "emb_dim": 8, "num_heads": 2, "head_dim": 4, "num_layers": 1, "mlp_dim": 8}
    line = DecoderOnly(DecoderOnlyConfig(**sizes, positions="learned", max_positions=40))
    fits = DataConfig("wiki_leads", {"inputs": 24, "targets": 17}, pack=pack)
    job.describe_run(line, fits, {}, gin="")
    longer = dataclasses.replace(fits, feature_lengths={"inputs": 24, "targets": 18})
    with pytest.raises(UsageError, match=r"={'inputs': 24, 'targets': 18}: the model has .* 41 tokens"):
        job.describe_run(line, longer, {}, gin="")
    with pytest.raises(UsageError, match=r"={'inputs': 192, 'targets': 128} of wiki_leads: the model"):
        job.describe_run(line, dataclasses.replace(fits, mixture_or_task_name="embedded_mixture"), {}, gin="")


def test_a_parent_with_another_vocabulary_is_refused(tmp_path):
    card = dataclasses.replace(describe(), tokenizer_fingerprint="f" * 64)
    model_card.write_card(tmp_path, card, None)
    with pytest.raises(UsageError, match=rf"initial {tmp_path} was trained with another vocabulary"):
        describe(parents={"initial": str(tmp_path)})


def test_training_does_not_go_on_from_rounded_weights(tmp_path):
    known = parent(tmp_path, None)
    with pytest.raises(UsageError, match=rf"draft {known}@int8: training starts .* write {known}$"):
        describe(parents={"target": f"{known}@int8", "draft": f"{known}@int8"})


def test_a_run_hands_on_how_its_parent_reads(tmp_path):
    unknown, known = parent(tmp_path / "a", None), parent(tmp_path / "b", byte_level(), **CONVENTIONS)
    data = DataConfig("wiki_leads", chat=True).read_by(None, unknown, known)
    card = job.describe_run(MODEL, data, {"target": unknown, "draft": known}, gin="")
    assert {name: getattr(card, name) for name in CONVENTIONS} == CONVENTIONS
    assert card.tokenizer_fingerprint == model_card.fingerprint(byte_level())
    assert card.provenance["data"]["chat"]


def test_a_task_that_was_given_a_vocabulary_keeps_it(make_task, tmp_path):
    known = parent(tmp_path / "parent", byte_level(), **CONVENTIONS)
    data = DataConfig(make_task({"train": said(1)}, vocabulary_path=str(EMBEDDED_MODEL))).read_by(known)
    with pytest.raises(UsageError, match="was trained with another vocabulary than 'test_task_"):
        job.describe_run(MODEL, data, {"initial": known}, gin="")


# --- the directory ---


@pytest.fixture
def opened(tmp_path):
    card = describe()
    assert job.open_directory(tmp_path / "run", card, b"tokenizer") == tmp_path / "run"
    return tmp_path / "run", card


def test_a_directory_is_described_before_the_first_step(opened):
    directory, _ = opened
    assert model_card.read_card(directory).task == "wiki_leads"
    assert (directory / "tokenizer.model").read_bytes() == b"tokenizer"
    assert checkpoint.latest_step(directory) is None


def test_the_same_run_may_go_on_with_other_steps_and_commands(opened):
    directory, card = opened
    changed = card.provenance | {"gin": "TRAIN_STEPS = 9", "command": "another"}
    job.open_directory(directory, dataclasses.replace(card, provenance=changed), b"tokenizer")
    assert model_card.read_card(directory).provenance["gin"] == "TRAIN_STEPS = 3"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"config": {"emb_dim": 16}}, "whose emb_dim is 8 and not 16"),
        ({"config": {"mlp_activations": ["relu"]}}, r"whose mlp_activations is \['gelu', 'linear'\] and not"),
        ({"task": "gsm_symbolic"}, "whose task is 'wiki_leads' and not 'gsm_symbolic'"),
        ({"tokenizer_fingerprint": "f" * 64}, "whose tokenizer is"),
        ({"provenance": {"parents": {"target": "t"}}}, "whose target model is None and not 't'"),
        ({"feature_lengths": {"inputs": 8, "targets": 8}}, "whose feature lengths is "),
        (
            {"provenance": {"data": {"sha256": "0" * 16}}},
            "whose training data is '[0-9a-f]{16}' and not '0{16}'",
        ),
        (
            {"provenance": {"settings": {"divergence": "ReverseKL()"}}},
            r"whose divergence is 'ForwardKL\(\)' and",
        ),
    ],
)
def test_another_run_in_the_same_directory_is_refused_by_what_differs(opened, change, says):
    directory, card = opened
    if "config" in change:
        change = {"config": card.config | change["config"]}
    with pytest.raises(UsageError, match=rf"MODEL_DIR={directory} holds another run, {says}"):
        job.open_directory(directory, dataclasses.replace(card, **change), b"tokenizer")


def test_another_run_that_saved_nothing_may_be_removed(opened):
    directory, card = opened
    other = dataclasses.replace(card, task="gsm_symbolic")
    with pytest.raises(UsageError, match=r"choose an empty one, or remove it: no step is saved there$"):
        job.open_directory(directory, other, b"tokenizer")
    checkpoint.save_params(directory, 3, toy.fresh_params())
    with pytest.raises(UsageError, match=r"choose an empty one$"):
        job.open_directory(directory, other, b"tokenizer")


@pytest.mark.parametrize(
    ("place", "says"),
    [
        # Outside a run, which would publish it and end.
        ("gs://bucket/draft", "cannot save to gs://bucket/draft: this writes folders and files"),
        ("zoo:mine", "MODEL_DIR=zoo:mine: that is how a model of the zoo is named"),
    ],
)
def test_a_place_that_is_no_folder(opened, place, says):
    with pytest.raises(UsageError, match=says):
        job.open_directory(place, opened[1], b"tokenizer")


def test_a_directory_is_one_runs_at_a_time(tmp_path):
    """Of two that saved the same step at once, one's was taken for damaged."""
    with job.alone(tmp_path):
        refused = pytest.raises(Unavailable, match=r"MODEL_DIR=.*: another process is training in it")
        with refused, job.alone(tmp_path):
            pytest.fail("two at once")
    with job.alone(tmp_path):
        pass


def test_a_run_may_not_write_over_what_it_starts_from(opened, tmp_path):
    directory, _ = opened
    card = describe(parents={"draft": str(directory)})
    with pytest.raises(UsageError, match="is the draft that the run starts from: choose another"):
        job.open_directory(tmp_path / "elsewhere" / ".." / "run", card, b"tokenizer")


def test_a_run_may_have_another_dropout_rate_than_its_model():
    model = EncoderDecoder(T5Config(64, dropout_rate=0.1))
    assert job.with_dropout(model, None) is model
    assert job.with_dropout(model, 0.0) == EncoderDecoder(T5Config(64))
    with pytest.raises(UsageError, match="dropout_rate"):
        job.with_dropout(model, 1.5)
