"""The recipe of experiments/smollm2 on a tiny model with a tokenizer, a chat template and EOS of its own."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax import model_card
from distillspec_jax.cli.main import main
from distillspec_jax.data.examples import Example
from distillspec_jax.data.target_set import TargetSet
from distillspec_jax.decoding import Engine, SamplingParams, StopOnEos
from distillspec_jax.evaluation import prompts
from distillspec_jax.evaluation.held_out import reference_loss
from distillspec_jax.generation import own_prompts
from distillspec_jax.generation.prompt_format import tokenizer_of
from distillspec_jax.model_card import ModelCard
from distillspec_jax.models import pretrained, registry
from distillspec_jax.models.decoder_only import DecoderOnly, DecoderOnlyConfig
from distillspec_jax.models.pretrained import Pretrained
from tests import pair, tiny
from tests.data.hub import BOS, EOS, byte_level

TEMPLATE = "{{ bos_token }}cat: {{ messages[0]['content'] }}{% if add_generation_prompt %} dog:{% endif %}"
CONVENTIONS = {
    "eos_ids": [EOS, BOS],
    "prompts_end_with_eos": False,
    "chat": {"template": TEMPLATE, "bos_token": "<s>"},
}
SPOKEN = (0, 70, 80, 90, BOS, EOS)
"""Ids with logits; the first is the exclamation mark, and not padding."""
RECIPE = "experiments/smollm2"
LENGTHS = "--gin.TASK_FEATURE_LENGTHS={'inputs': 192, 'targets': 6}"


MODEL = DecoderOnly(DecoderOnlyConfig(EOS + 1, 8, 1, 1, 8, 2, 16))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The whole recipe, in its own order, by commands and gin files."""
    root = tmp_path_factory.mktemp("smollm2")
    family, config = registry.describe(MODEL)
    card = ModelCard(family, config, model_card.fingerprint(byte_level()), **CONVENTIONS)
    params = jax.tree.map(jnp.copy, tiny.params(MODEL, seed=3))
    kernel = np.zeros((8, EOS + 1), np.float32)
    kernel[:, SPOKEN] = np.random.default_rng(5).normal(0.0, 2.0, (8, len(SPOKEN)))
    params["decoder"]["logits_dense"]["kernel"] = jnp.asarray(kernel)
    target = pair.write(root / "target", Pretrained("target", MODEL, params, card, byte_level()))
    asked = [f"--model={target}", "--task=gsm_symbolic", "--chat"]
    collect = [
        "collect",
        *asked,
        "--top_logprobs=4",
        "--batch_size=4",
        "--max_new_tokens=6",
        "--temperature=0,1",
    ]
    sets = {"TARGET_SET": root / "texts", "HELD_OUT_SET": root / "held_out", "DRAFT": root / "draft"}
    run = [f"--gin.{name}={path}" for name, path in sets.items()]
    run += ["--gin.TRAIN_STEPS=1", "--gin.BATCH_SIZE=2", LENGTHS]
    asked[0] = f"--target={target}"
    sweep = ["sweep", *asked, "--limit=2", "--max_new_tokens=3", "--block_sizes=2", "--temperatures=1"]
    sweep += ["--timing_prompts=0"]
    listed = [f"--draft={root / 'distilled'}", "--shortlist=3", f"--texts={root / 'texts'}"]
    drafters = [f"--drafter={root / name}" for name in ("distilled", "listed")]
    for command in (
        ["draft", f"--target={target}", "--layers=1", f"--output={root / 'draft'}"],
        [*collect, "--limit=4", f"--output={root / 'texts'}"],
        [*collect, "--limit=2", "--split=validation", f"--output={root / 'held_out'}"],
        ["distill", f"--gin_file={RECIPE}/distilled.gin", f"--gin.MODEL_DIR={root / 'distilled'}", *run],
        ["finetune", f"--gin_file={RECIPE}/next_token.gin", f"--gin.MODEL_DIR={root / 'next_token'}", *run],
        ["draft", f"--target={target}", *listed, f"--output={root / 'listed'}"],
        [*sweep, *drafters, f"--output_dir={root / 'sweep'}"],
    ):
        assert main(command) == 0, command
    return root


@pytest.mark.parametrize("run", ["draft", "distilled", "next_token", "listed"])
def test_every_draft_keeps_the_targets_tokenizer_and_conventions(root, run):
    card = model_card.read_card(root / run)
    assert {name: getattr(card, name) for name in CONVENTIONS} == CONVENTIONS
    assert model_card.read_tokenizer(root / run) == byte_level()


def test_a_set_has_prompts_in_the_template_and_texts_that_end_where_the_model_ends_them(root):
    texts = TargetSet(root / "texts")
    ends = {EOS, BOS}
    assert all(not ends & set(text["tokens"][:-1]) for text in texts.texts)
    assert any(text["finish_reason"] == "eos" for text in texts.texts)
    prompts_BT = texts.batch([0, 1, 2, 3], {"inputs": 192, "targets": 6})["encoder_input_tokens"]
    for row in prompts_BT:  # cut, inside the template
        shown = texts.reader.tokenizer.decode(row[row > 0][1:])
        assert (row[0], shown[:12], shown[-5:]) == (BOS, "cat: solve: ", " dog:")


def test_a_held_out_loss_is_that_after_the_whole_prompt(root):
    """The second of these ends with the exclamation mark, id 0."""
    rows = [Example("", (BOS, 70, *end), "a cat") for end in ((), (0,), (80, 90))]
    nll, _ = reference_loss(pretrained.load(str(root / "target")), rows, 8, batch_size=3)
    alone, _ = reference_loss(pretrained.load(str(root / "target")), rows[1:2], 8, batch_size=3)
    assert alone == pytest.approx(nll[1:2], rel=1e-5)
    assert abs(nll[0] - nll[1]) > 1e-3


def test_a_sweep_asks_in_the_template(root):
    rows = [json.loads(line) for line in (root / "sweep" / "results.jsonl").read_text().splitlines()]
    assert [row["drafter"] for row in rows] == ["none", "distilled", "listed"]
    asked = prompts.from_task(pretrained.load(str(root / "target")), "gsm_symbolic", "test", 2, chat=True)
    assert {row["prompts_digest"] for row in rows} == {asked.fingerprint}


def test_a_shortlisted_draft_proposes_its_ids_alone_and_costs_less(root):
    target, whole, listed = (pretrained.load(str(root / name)) for name in ("target", "distilled", "listed"))
    ids = listed.card.shortlist
    made = listed.card.provenance
    assert made["parents"] == whole.card.provenance["parents"]
    assert made["shortlist"]["texts"] == str(root / "texts")
    assert {*CONVENTIONS["eos_ids"]} < {*ids} <= {*SPOKEN}
    state, pending_B = listed.as_draft.prefill(listed.params, np.array([[BOS, 70, 80]]), 1)
    logits, _ = listed.as_draft.extend(listed.params, state, pending_B[:, None])
    assert np.flatnonzero(np.isfinite(logits[0, 0])).tolist() == ids
    assert listed.cost_ratio(target) == pytest.approx(
        whole.cost_ratio(target) - (EOS + 1 - 3) * 8 / target.num_parameters
    )


def test_what_does_not_fit_together_is_refused_in_one_line(root, tmp_path, capsys):
    stored = ["distill", f"--gin_file={RECIPE}/distilled.gin", f"--gin.DRAFT={root / 'draft'}"]
    stored += [f"--gin.MODEL_DIR={tmp_path / 'run'}", LENGTHS]
    header = json.loads((root / "texts" / "set.json").read_text())
    header["header"]["chat"] = {}
    plain = shutil.copytree(root / "texts", tmp_path / "plain")
    (plain / "set.json").write_text(json.dumps(header))
    sets = [f"--gin.TARGET_SET={plain}", f"--gin.HELD_OUT_SET={root / 'held_out'}"]
    for flags, said in (
        (sets, f"{root / 'held_out'} has prompts of another form (chat template, EOS) than the training"),
        ([*sets, "--gin.CHAT=True"], f"CHAT=True, but {plain} was written without a chat template: leave"),
        ([*sets, "--gin.TOKENIZER_OF=zoo:wiki_leads/draft"], f"{plain} was written with another vocabulary"),
    ):
        assert main([*stored, *flags]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_prompts_are_the_targets_own_and_a_stopped_run_goes_on(root, tmp_path, monkeypatch):
    command = ["prompts", f"--model={root / 'target'}", "--max_new_tokens=8", "--batch_size=4", "--limit=6"]
    monkeypatch.setattr(own_prompts, "_LEAST_WORDS", 0)
    whole, other = tmp_path / "whole.jsonl", tmp_path / "other.jsonl"
    assert main([*command, f"--output={whole}"]) == 0
    lines = [json.loads(line) for line in whole.read_text().splitlines()]
    said, numbers = ([line[name] for line in lines] for name in ("inputs", "number"))
    assert len({text.casefold() for text in said}) == 6
    assert numbers == sorted(numbers)
    # By the engine itself: what the target draws after the opening of a user's turn.
    target = pretrained.load(str(root / "target"))
    tokenizer = tokenizer_of(target)
    engine = Engine(target.model, target.params, batch_size=4, stopping=StopOnEos(tokenizer.eos_ids))
    openings = [tokenizer.encode("<s>cat: ")] * (numbers[-1] + 1)
    distribution = SamplingParams(1.0).distribution(tokenizer.vocabulary)
    drawn = engine.generate(openings, distribution, 8, seed=0)
    assert said == [tokenizer.decode(drawn[number].tokens).strip() for number in numbers]
    assert all(drawn[number].finish_reason == "eos" for number in numbers)

    written = whole.read_text().splitlines(keepends=True)
    (tmp_path / "other.jsonl.partial").write_text("".join(written[:2]) + written[2][:9])  # killed in a line
    assert main([*command, f"--output={other}"]) == 0
    assert other.read_text() == whole.read_text()
    assert main([*command, "--limit=7", f"--output={other}"]) == 2  # it is there


def test_prompts_of_a_model_that_ends_none_or_knows_no_turns(root, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(own_prompts, "_IN_VAIN", 8)
    output = tmp_path / "none.jsonl"
    command = ["prompts", "--limit=3", "--max_new_tokens=1", "--batch_size=4", f"--output={output}"]
    assert main([*command, f"--model={root / 'target'}"]) == 2
    assert "no new prompt in 8 draws: raise --max_new_tokens (now 1)" in capsys.readouterr().err
    assert main([*command, "--model=zoo:draft"]) == 2
    assert "has no chat template, which tells where a user begins" in capsys.readouterr().err
    assert not output.exists()
