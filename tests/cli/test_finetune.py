"""`distillspec finetune` from its command line: a model of a few thousand parameters on twelve rows."""

import json
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from distillspec_jax import checkpoint
from distillspec_jax.cli.main import main
from distillspec_jax.data.data_config import DataConfig
from distillspec_jax.models import pretrained
from distillspec_jax.tokenization.tokenizer import embedded_tokenizer


@pytest.fixture(scope="session")
def base(tiny_gin, my_task) -> list[str]:
    steps = [
        "--gin.TRAIN_STEPS=4",
        "--gin.SAVE_PERIOD=2",
        "--gin.EVAL_PERIOD=2",
        "--gin.loop.LoopConfig.log_period=1",
    ]
    return ["finetune", tiny_gin, "--gin_file=runs/finetune.gin", *my_task, *steps]


@pytest.fixture(scope="session")
def trained(base, tmp_path_factory) -> Path:
    """Four steps at one go."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    assert main([*base, f"--gin.MODEL_DIR={directory}"]) == 0
    return directory


def losses(directory: Path) -> list[tuple]:
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [(line["split"], line["step"], line["loss"]) for line in lines]


def assert_same_params(one: Path, other: Path) -> None:
    jax.tree.map(np.testing.assert_array_equal, *(pretrained.load(str(d)).params for d in (one, other)))


def test_a_run_leaves_a_model_that_describes_itself(trained):
    model = pretrained.load(str(trained))
    card = model.card
    assert checkpoint.latest_step(trained) == 4
    assert (card.task, card.prefix, card.feature_lengths) == ("mine", "my: ", {"inputs": 16, "targets": 8})
    assert model.tokenizer_bytes == embedded_tokenizer().model_bytes
    assert (model.model.config.emb_dim, model.model.config.num_encoder_layers) == (8, 1)
    assert "TRAIN_STEPS = 4" in card.provenance["gin"]
    assert card.provenance["parents"] == {}
    assert [place[:2] for place in losses(trained)] == [
        ("train", 1),
        ("train", 2),
        ("eval", 2),
        ("train", 3),
        ("train", 4),
        ("eval", 4),
    ]
    first, last = (losses(trained)[i][2] for i in (0, 4))
    assert last < first


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(base, trained, tmp_path, monkeypatch, capsys):
    directory = tmp_path / "stopped"
    command = [*base, f"--gin.MODEL_DIR={directory}"]
    whole = DataConfig.train_batches

    def interrupted(self, batch_size, seed, start):
        for step, batch in enumerate(whole(self, batch_size, seed, start), start=start + 1):
            if step == 3:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(DataConfig, "train_batches", interrupted)
        assert main(command) == 75
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert last_line == "distillspec finetune: stopped by SIGTERM: resumable, step 3 of 4 is saved"
    assert checkpoint.latest_step(directory) == 3
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(directory)
    assert losses(directory) == losses(trained)
    assert_same_params(directory, trained)


def test_a_sigterm_before_the_first_step_is_no_failure(base, trained, tmp_path, monkeypatch, capsys):
    loading = "distillspec_jax.training.job.initial_params"
    monkeypatch.setattr(loading, lambda *arguments: signal.raise_signal(signal.SIGTERM))
    for directory, step in ((tmp_path / "new", 0), (trained, 4)):
        assert main([*base, f"--gin.MODEL_DIR={directory}"]) == 75
        error = capsys.readouterr().err
        assert error == f"distillspec finetune: stopped by SIGTERM: resumable, step {step}\n"


def test_a_finished_run_trains_no_more(base, trained, capsys):
    before = (trained / "metrics.jsonl").read_text()
    assert main([*base, f"--gin.MODEL_DIR={trained}"]) == 0
    assert (trained / "metrics.jsonl").read_text() == before
    assert main([*base, f"--gin.MODEL_DIR={trained}", "--gin.TRAIN_STEPS=3"]) == 2
    assert "TRAIN_STEPS=3, but" in capsys.readouterr().err


def test_a_run_from_another_checkpoint_names_it_as_its_parent(base, trained, tmp_path):
    directory = tmp_path / "second"
    flags = [f"--gin.INITIAL_CHECKPOINT_PATH={trained}", f"--gin.MODEL_DIR={directory}"]
    assert main([*base, *flags, "--gin.LEARNING_RATE=1e-30"]) == 0
    assert pretrained.load(str(directory)).card.provenance["parents"] == {"initial": str(trained)}
    # At no learning rate to speak of, weight decay included, it is where it started.
    assert_same_params(directory, trained)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gin.TRAIN_STEPS=0"], "LoopConfig.total_steps=0: must be at least 1"),
        (["--gin.TRAIN_STEPS=1e3"], "TRAIN_STEPS=1000.0: must be a whole number"),
        (["--gin.LEARNING_RATE=fast"], "LEARNING_RATE='fast': must be a number"),
        (["--gin.UNLIKELIHOOD=-1"], "UNLIKELIHOOD=-1: must be at least 0"),
        (["--gin.SEED=4294967296"], "LoopConfig.seed=4294967296: must be at most 4294967295"),
        (
            ["--gin.TRAIN_STEP=9"],
            "--gin.TRAIN_STEP=9: no gin file sets or uses a macro TRAIN_STEP: did you mean 'TRAIN_STEPS'?",
        ),
        (
            ["--gin_file=tasks/wiki_lead.gin"],
            "--gin_file=tasks/wiki_lead.gin: no such file: did you mean 'tasks/wiki_leads.gin'?",
        ),
        (
            ["--gin.MIXTURE_OR_TASK_NAME=wiki_leeds"],
            "unknown task or mixture 'wiki_leeds': did you mean 'wiki_leads'?",
        ),
        (
            ["--gin.TASK_NAME=mine2", "--gin.TRAIN_FILE=nope.jsonl"],
            "task 'mine2': train_path 'nope.jsonl' is not a file",
        ),
        (
            ["--gin.TASK_NAME=mine3", "--gin.TRAIN_FILE=BAD", "--gin.TARGETS_FIELD=answer"],
            "BAD:1: no field 'answer': did you mean 'answers'? (valid: answers, inputs)",
        ),
        (["--gin.TASK_NAME=mine4", "--gin.VALIDATION_FILE=BAD"], "BAD:1: no field 'targets': "),
        (
            ["--gin.TASK_NAME=mine5", "--gin.TRAIN_FILE=BAD", "--gin.TARGETS_FIELD=answers"],
            "BAD:2: malformed JSON (Expecting value",
        ),
        (
            ["--gin.INITIAL_CHECKPOINT_PATH=zoo:drafft"],
            "the zoo has no model 'drafft': did you mean 'zoo:draft'?",
        ),
        (
            ["--gin.t5.T5Config.vocab_size=100"],
            "the model's vocab_size 100 is smaller than the vocabulary of 'mine'",
        ),
        (["--gin.INITIAL_CHECKPOINT_PATH=TRAINED", "--gin.t5.T5Config.mlp_dim=20"], "TRAINED: parameter "),
    ],
)
def test_bad_input_is_one_line_and_makes_no_directory(
    base, trained, pair_in_zoo, tmp_path, capsys, flags, message
):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"inputs": "a", "answers": "b"}\n{"inputs": \n')

    def filled(text: str) -> str:
        return text.replace("BAD", str(bad)).replace("TRAINED", str(trained))

    directory = tmp_path / "run"
    assert main([*base, f"--gin.MODEL_DIR={directory}", *map(filled, flags)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("distillspec finetune: error: ")
    assert filled(message) in error
    assert error.count("\n") == 1
    assert not directory.exists()


def test_a_directory_that_cannot_be_made_is_named(base, tmp_path, capsys):
    (tmp_path / "file").touch()
    directory = tmp_path / "file" / "run"
    assert main([*base, f"--gin.MODEL_DIR={directory}"]) == 2
    error = capsys.readouterr().err
    assert error == f"distillspec finetune: error: cannot save to {directory}: Not a directory\n"
