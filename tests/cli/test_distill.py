"""`distillspec distill` from its command line, on a tiny pair."""

import dataclasses
import hashlib
import json
import math
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from distillspec_jax import memory, model_card
from distillspec_jax.cli.distill import final_check
from distillspec_jax.cli.main import main
from distillspec_jax.evaluation.distilled_pair import DistilledPair
from distillspec_jax.models import pretrained, registry
from distillspec_jax.models.decoder_only import DecoderOnly, DecoderOnlyConfig
from tests import pair, tiny


@pytest.fixture(scope="session")
def base(my_task, target_dir, draft_dir) -> list[str]:
    return [
        "distill",
        "--gin_file=runs/distill.gin",
        *my_task,
        f"--gin.TARGET={target_dir}",
        f"--gin.DRAFT={draft_dir}",
        "--gin.TRAIN_STEPS=2",
        "--gin.loop.LoopConfig.log_period=1",
        "--check_prompts=0",  # test_algorithms.py has it
    ]


def content(directory: str) -> dict[str, str]:
    files = (path for path in Path(directory).rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def lines(directory: Path, split: str) -> list[dict]:
    found = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["split"] == split]


@pytest.fixture(scope="module")
def distilled(base, target_dir, draft_dir, tmp_path_factory) -> Path:
    """By the settings of `runs/distill.gin`: forward KL on the draft's own samples."""
    directory = tmp_path_factory.mktemp("runs") / "distilled"
    before = content(target_dir) | content(draft_dir)
    assert main([*base, f"--gin.MODEL_DIR={directory}"]) == 0
    assert content(target_dir) | content(draft_dir) == before, "a parent was written"
    return directory


def test_the_card_names_both_parents_and_the_text(distilled, target_dir, draft_dir):
    card = pretrained.load(str(distilled)).card
    assert card.provenance["parents"] == {"target": target_dir, "draft": draft_dir}
    assert (card.task, card.prefix, card.feature_lengths) == ("mine", "my: ", {"inputs": 16, "targets": 8})
    assert card.provenance["data"]["name"] == "mine"
    assert "DIVERGENCE = @divergences.ForwardKL()" in card.provenance["gin"]


def test_the_draft_has_learnt_and_kept_its_shape(distilled):
    before, after = pair.draft(), pretrained.load(str(distilled))
    assert after.model == before.model
    assert after.card.tokenizer_fingerprint == before.card.tokenizer_fingerprint
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before.params, after.params)
    assert max(jax.tree.leaves(moved)) > 1e-4
    (held_out,) = lines(distilled, "eval")
    assert 0 < held_out["acceptance_expected_T0"] <= 1
    assert 0 < held_out["acceptance_expected_T1"] < 1


def test_divergence_and_source_are_one_flag_each(base, tmp_path):
    flags = ["--gin.DIVERGENCE=@divergences.TotalVariation()", "--gin.SOURCE=@sources.Fixed()"]
    flags += ["--gin.REMAT=full"]
    assert main([*base, f"--gin.MODEL_DIR={tmp_path / 'run'}", *flags, "--gin.TRAIN_STEPS=1"]) == 0
    (line,) = lines(tmp_path / "run", "train")
    # Every reference is "NN is said" and EOS: of equal lengths, so that the loss is the pooled distance.
    assert math.isclose(line["loss"], 1 - line["acceptance_on_batch"], abs_tol=1e-6)
    assert 0 < line["loss"] < 1


def test_stale_samples_are_those_of_the_initial_draft_kept_beside_the_trained_one(base, distilled, tmp_path):
    """In the first step they are the on-policy ones; in the second the draft's own buffers are gone."""
    flags = ["--gin.SOURCE=stale", "--gin.WEIGHTING=@survival.Survival()"]
    assert main([*base, f"--gin.MODEL_DIR={tmp_path / 'run'}", *flags]) == 0
    first, second = lines(tmp_path / "run", "train")
    assert first["acceptance_on_batch"] == lines(distilled, "train")[0]["acceptance_on_batch"]
    assert 0 < second["survival_on_batch"] < 1


def test_reports_tell_how_fast_steps_were(distilled):
    first, second = lines(distilled, "train")
    assert "step_s" not in first  # it was compiled
    assert second["tokens_per_s"] > 0
    assert second["step_s"] > 0
    assert second["processor_s"] > 0
    assert 0 < second["input_wait"] < 1
    assert 0 < second["flops_utilisation"] < 1


def test_a_finished_run_is_left_as_it_is(base, distilled):
    before = (distilled / "metrics.jsonl").read_text()
    assert main([*base, f"--gin.MODEL_DIR={distilled}"]) == 0
    assert (distilled / "metrics.jsonl").read_text() == before


def test_a_sigterm_during_the_final_check_is_no_failure(base, distilled, monkeypatch, capsys):
    checking = "distillspec_jax.evaluation.agreement.check"
    monkeypatch.setattr(checking, lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    assert main([*base, f"--gin.MODEL_DIR={distilled}", "--check_prompts=1"]) == 75
    assert capsys.readouterr().err.endswith("distillspec distill: stopped by SIGTERM: resumable, step 2\n")


def test_several_hosts_are_told_that_nothing_is_checked(monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    assert final_check("run", 4) == "no final check: 2 hosts trained together, and it runs on one"


def test_a_target_that_one_device_cannot_hold_is_not_loaded_for_the_check(tmp_path, monkeypatch):
    """Training had split it; the check ended the finished run with status 2."""
    draft, target = (pretrained.read_card(f"zoo:wiki_leads/{role}") for role in ("draft", "target"))
    parents = {"target": "zoo:wiki_leads/target"}
    model_card.write_card(tmp_path, dataclasses.replace(draft, provenance={"parents": parents}), None)
    count = sum(registry.build(card.family, card.config).config.num_parameters for card in (draft, target))
    monkeypatch.setattr(memory, "available", lambda: 4 * count - 1)
    said = "no final check and no profile: target and draft do not fit on one device"
    assert final_check(tmp_path, 4) == said
    monkeypatch.setattr(memory, "available", lambda: 4 * count)
    assert DistilledPair.fits(tmp_path)


@pytest.fixture(scope="module")
def other_vocabulary(tmp_path_factory) -> str:
    card = dataclasses.replace(pair.draft().card, tokenizer_fingerprint="0" * 64)
    other = dataclasses.replace(pair.draft(), card=card, tokenizer_bytes=None)
    return pair.write(tmp_path_factory.mktemp("models") / "other", other)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--gin.TARGET=zoo:wiki_leads/targets"],
            "the zoo has no model 'wiki_leads/targets': did you mean 'zoo:wiki_leads/target'?",
        ),
        (["--gin.DRAFT=OTHER"], "draft OTHER has another vocabulary than target "),
        (
            ["--gin.DRAFT=OTHERS"],
            "OTHERS is not a checkpoint directory (no such folder): did you mean 'OTHER'?",
        ),
        (
            ["--gin.DIVERGENCE=@divergences.TotalVariation"],
            "DIVERGENCE is the class TotalVariation: write @divergences.TotalVariation()",
        ),
        (["--gin.DIVERGENCE=@divergences.ForwardKLL()"], "--gin.DIVERGENCE=@divergences.ForwardKLL(): "),
        (
            ["--gin.SOURCE=@sources.OnPolicy()", "--gin.sources.OnPolicy.temperature=-1"],
            "OnPolicy.temperature=-1",
        ),
        (
            ["--gin_file=experiments/algorithms/imitkd.gin", "--gin.MICROBATCHES=4"],
            "Mixture: MICROBATCHES=4 would deal 4 rows out as [0, 4] and not as [2, 2]; take 2",
        ),
        (["--gin.MIXTURE_OR_TASK_NAME=gsm"], "unknown task or mixture 'gsm': "),
        (
            ["--gin.data_config.DataConfig.pack=True"],
            "DataConfig.pack=True: sequences are not packed in distillation",
        ),
        (["--gin.LEARNING_RATE=0"], "LEARNING_RATE=0: must be positive"),
        (
            ["--gin.DIVERGENCE=@divergences.ReverseKL()", "--gin.divergences.ReverseKL.top_k=5"],
            "ReverseKL.top_k=5: takes only distributions over the whole vocabulary",
        ),
        (
            ["--gin.PATIENCE=2"],
            "PATIENCE=2 needs DEPLOYMENT, the distribution by which the best is chosen, and",
        ),
        (["--gin.NORMALIZATION=tokens"], "unknown normalization 'tokens': did you mean 'token'?"),
        (
            ["--gin_file=experiments/algorithms/adaspec.gin", "--gin.REFERENCE=OTHER"],
            "reference draft OTHER has another vocabulary than draft ",
        ),
        (
            [
                "--gin_file=experiments/algorithms/lk_hybrid.gin",
                "--gin.divergences.LKHybrid.eta=-1",
            ],
            "LKHybrid.eta=-1: must be at least 0",
        ),
        (
            ["--gin.WEIGHTING=@divergences.ForwardKL()"],
            "WEIGHTING=@ForwardKL(): is none; take @block_efficiency.BlockEfficiency(), @survival.Su",
        ),
        (
            ["--gin.OWN_TEXTS=2", "--gin.TASK_NAME=unseen", "--gin.VALIDATION_FILE=None"],
            "OWN_TEXTS=2 continues held-out prompts, but 'unseen' has no validation split",
        ),
        (
            [
                *("--gin.TASK_NAME=asked", "--gin.TARGETS_FIELD=None"),
                *(
                    "--gin.SOURCE=@sources.Mixture()",
                    "--gin.sources.Mixture.sources=(@sources.OnPolicy(), @sources.Fixed())",
                ),
                "--gin.sources.Mixture.weights=(0.5, 0.5)",
            ],
            "task 'asked' has prompts and no references to learn from: let a target write texts",
        ),
        (["--gin.NUM_PARTITIONS=3"], "NUM_PARTITIONS=3 does not divide the 1 devices: use one of [1]"),
        (["--gin.DIVERGENCE=fkll"], "unknown divergence 'fkll': did you mean 'fkl'?"),
        (["--gin.SOURCE=on_polcy"], "unknown source 'on_polcy': did you mean 'on_policy'?"),
        (["--gin.PROFILE=True"], "--gin.PROFILE=True: PROFILE was removed: trace a run with jax.profiler"),
        (["--gin.REMAT=fill"], "REMAT='fill': did you mean 'full'?"),
        (["--gin.FROZEN=encoder"], "FROZEN='encoder': must be a list of texts in quotes"),
        (["--gin.ON_NON_FINITE=skp"], "LoopConfig.on_non_finite='skp': did you mean 'skip'?"),
    ],
)
def test_bad_input_is_one_line_and_makes_no_directory(
    base, pair_in_zoo, other_vocabulary, tmp_path, capsys, flags, message
):
    directory = tmp_path / "run"
    flags = [flag.replace("OTHER", other_vocabulary) for flag in flags]
    assert main([*base, f"--gin.MODEL_DIR={directory}", *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"distillspec distill: error: {message.replace('OTHER', other_vocabulary)}")
    assert error.count("\n") == 1
    assert not directory.exists()


def test_rows_longer_than_the_targets_positions_are_refused(base, tmp_path, capsys):
    sizes = {"vocab_size": 4096, "emb_dim": 8, "num_heads": 2, "head_dim": 4, "num_layers": 1, "mlp_dim": 8}
    model = DecoderOnly(DecoderOnlyConfig(**sizes, positions="learned", max_positions=22))
    family, config = registry.describe(model)
    card = dataclasses.replace(pair.target().card, family=family, config=config)
    short = dataclasses.replace(pair.target(), model=model, params=tiny.params(model), card=card)
    target, directory = pair.write(tmp_path / "target", short), tmp_path / "run"
    assert main([*base, f"--gin.TARGET={target}", f"--gin.MODEL_DIR={directory}"]) == 2
    says = f"TASK_FEATURE_LENGTHS={{'inputs': 16, 'targets': 8}}: target {target} has positions for 23 tokens"
    assert says in capsys.readouterr().err
    assert not directory.exists()


@pytest.mark.parametrize("parent", ["target", "draft"])
def test_a_parent_is_never_written_over(base, target_dir, parent, capsys):
    directory = Path(target_dir).parent / parent
    assert main([*base, f"--gin.MODEL_DIR={directory}"]) == 2
    assert f"MODEL_DIR={directory} is the {parent} that the run starts from" in capsys.readouterr().err


def test_stored_distributions_stand_for_a_target_that_is_not_loaded(
    distilled, base, target_dir, draft_dir, tmp_path
):
    texts, run = tmp_path / "texts", tmp_path / "run"
    collect = ["collect", f"--model={target_dir}", "--task=mine", f"--output={texts}", "--top_logprobs=4"]
    assert main(collect) == 0
    stored = [flag for flag in base if not flag.startswith(("--gin.TARGET=", "--gin_file=runs"))]
    stored += ["--gin_file=runs/distill_stored.gin", f"--gin.TARGET_SET={texts}", f"--gin.MODEL_DIR={run}"]
    stored += ["--gin.WEIGHTING=@token_selection.TokenSelection()"]
    stored += [f"--gin.token_selection.TokenSelection.reference={draft_dir}"]
    assert main(stored) == 0
    assert [line["step"] for line in lines(run, "train")] == [1, 2]
    parents = pretrained.load(str(run)).card.provenance["parents"]
    assert parents == {"draft": draft_dir, "reference draft": draft_dir}
