"""Target-generated sets: written, cut off, completed, refused, and learnt from without the target."""

import json
import shutil

import numpy as np
import pytest

from distillspec_jax import model_card
from distillspec_jax.cli.main import main
from distillspec_jax.data import catalog
from distillspec_jax.data.data_config import DataConfig
from distillspec_jax.data.target_set import TargetSet, heaviest, logprobs_file, token_mass
from distillspec_jax.data.task_spec import TaskSpec
from distillspec_jax.data.text_sources import Files
from distillspec_jax.data.train_vocabulary import train as train_vocabulary
from distillspec_jax.distillation.collect import collect
from distillspec_jax.distillation.distill import distill
from distillspec_jax.distillation.divergences import ReverseKL
from distillspec_jax.distillation.sources import OnPolicy
from distillspec_jax.errors import UsageError
from distillspec_jax.generation.prompt_format import prompt_format
from distillspec_jax.generation.text_generator import TextGenerator
from distillspec_jax.models import pretrained
from distillspec_jax.models.interface import prompt_lengths
from distillspec_jax.partitioning import make_partitioner
from distillspec_jax.tokenization.tokenizer import Tokenizer
from distillspec_jax.training import optimizers
from distillspec_jax.training.finetune import finetune
from distillspec_jax.training.loop import LoopConfig
from tests import pair, tiny
from tests.data.hub import EOS, byte_level

TASK, ROWS, LENGTHS = "test_collect", 5, {"inputs": 16, "targets": 8}
QUESTIONS = [f"row {i}" + " a" * (ROWS - i) for i in range(ROWS)]  # ever shorter ones
TEMPERATURES = [0.0, 5.0]  # a tiny target is sure of itself
SETTINGS = {"num_samples": 2, "temperature": TEMPERATURES, "seed": 3, "top_logprobs": 3, "batch_size": 4}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "train.jsonl"
    path.write_text("".join(json.dumps({"q": question, "a": "x"}) + "\n" for question in QUESTIONS))
    source = Files.one_each({"train": path})
    catalog.add_task(TaskSpec(TASK, "", "say: ", "q", "a", source, "none", LENGTHS, "none"))
    return TASK


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    with pytest.MonkeyPatch.context() as patch:
        for module in ("data.target_set", "distillation.collect"):
            patch.setattr(f"distillspec_jax.{module}.ROWS_A_SHARD", 4)
        yield


def quiet(line):
    del line


@pytest.fixture(scope="module")
def folder(task, small_shards, tmp_path_factory):
    """A whole set, its distributions in files of 4 texts."""
    folder = tmp_path_factory.mktemp("set") / "texts"
    collect(pair.target(), folder, task, **SETTINGS, say=quiet)
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_texts_are_the_decoders_in_order(folder):
    target = pair.target()
    generator = TextGenerator(target, form=prompt_format(target, task=TASK), batch_size=4)
    prompts = [question for question in QUESTIONS for _ in range(2)]
    expected = list(generator.stream(prompts, temperature=TEMPERATURES * ROWS, seed=3))
    texts = TargetSet(folder).texts
    assert [(text["inputs"], text["outputs"]) for text in texts] == [(g.inputs, g.outputs) for g in expected]
    assert [tuple(text["tokens"]) for text in texts] == [g.tokens for g in expected]
    assert [(text["row"], text["sample"]) for text in texts] == [
        (i, j) for i in range(ROWS) for j in range(2)
    ]
    pairs = zip(texts[::2], texts[1::2], strict=True)
    assert any(one["tokens"] != other["tokens"] for one, other in pairs)  # a greedy one and a draw


def test_distributions_are_the_targets_at_every_token(folder):
    texts, target = TargetSet(folder), pair.target()
    batch = texts.batch(list(range(2 * ROWS)), LENGTHS)
    logits = np.asarray(tiny.logits(target.model, target.params, batch), np.float64)
    distribution_BTV = np.exp(logits - logits.max(-1, keepdims=True))
    distribution_BTV /= distribution_BTV.sum(-1, keepdims=True)
    real = batch["decoder_loss_weights"] > 0
    assert real.sum() == sum(len(text["tokens"]) for text in texts.texts)
    chosen = np.take_along_axis(distribution_BTV, batch["top_ids"], axis=-1)
    # Half precision keeps 11 bits of a logarithm.
    np.testing.assert_allclose(batch["top_logprobs"][real], np.log(chosen[real]), rtol=2**-11, atol=2e-5)
    np.testing.assert_allclose(np.exp(batch["tail_logprob"])[real], 1 - chosen.sum(-1)[real], atol=1e-5)
    np.testing.assert_array_equal(np.sort(chosen[real], axis=-1)[:, ::-1], chosen[real])
    np.testing.assert_allclose(chosen[..., 0][real], distribution_BTV.max(-1)[real])
    assert texts.header.logprob_bytes == 3 * (2 + 2) + 4


def test_lengths_other_than_the_tasks_come_from_gin_and_are_recorded(task, tmp_path, monkeypatch):
    """They were accepted and ignored."""
    monkeypatch.setattr(pretrained, "load", lambda *_, **__: pair.target())
    flags = ["--model=m", f"--task={task}", f"--output={tmp_path / 'texts'}", "--limit=1", "--batch_size=1"]
    assert main(["collect", *flags, "--gin.TASK_FEATURE_LENGTHS={'inputs': 7, 'targets': 3}"]) == 0
    texts = TargetSet(tmp_path / "texts")
    assert texts.header.feature_lengths == {"inputs": 7, "targets": 3}
    assert len(texts.texts[0]["tokens"]) <= 3


def test_a_run_that_was_cut_off_goes_on(folder, copy):
    lines = (copy / "texts.jsonl").read_text().splitlines(keepends=True)
    (copy / "texts.jsonl").unlink()
    (copy / "texts.jsonl.partial").write_text("".join(lines[:3]) + lines[3][:7])
    logprobs_file(copy, 1).unlink()
    with pytest.raises(UsageError, match=r"not finished \(no texts\.jsonl\): run the same `collect` again"):
        TargetSet(copy)
    said = []
    collect(pair.target(), copy, TASK, **SETTINGS, say=said.append)
    assert said == ["resuming after 3 of 10 texts", "distributions of 3 ids and the rest: 16 bytes a token"]
    assert (copy / "texts.jsonl").read_bytes() == (folder / "texts.jsonl").read_bytes()
    for shard in range(3):
        with np.load(logprobs_file(copy, shard)) as ours, np.load(logprobs_file(folder, shard)) as theirs:
            assert all(np.array_equal(ours[name], theirs[name]) for name in ("ids", "log_p", "log_tail"))


def test_a_target_on_a_mesh_writes_the_same(folder, task, tmp_path):
    partitioner = make_partitioner()
    saved = pair.write(tmp_path / "target", pair.target())
    placed = pretrained.load(saved, partitioner=partitioner)
    collect(placed, tmp_path / "texts", task, **SETTINGS, partitioner=partitioner, say=quiet)
    assert TargetSet(tmp_path / "texts").texts == TargetSet(folder).texts
    with np.load(logprobs_file(tmp_path / "texts", 0)) as ours, np.load(logprobs_file(folder, 0)) as theirs:
        np.testing.assert_allclose(ours["log_p"], theirs["log_p"], rtol=2**-9, atol=1e-4)


@pytest.mark.parametrize(
    "change", [{"temperature": 0.5}, {"seed": 4}, {"top_logprobs": 2}, {"num_samples": 1}]
)
def test_a_set_of_other_texts_is_not_added_to(folder, change):
    (name,) = change
    with pytest.raises(UsageError, match=f"holds a set whose {name.removeprefix('num_')} is"):
        collect(pair.target(), folder, TASK, **SETTINGS | change, say=quiet)


def test_nor_one_of_another_target(folder):
    with pytest.raises(UsageError, match="holds a set whose target_fingerprint is"):
        collect(pair.draft(), folder, TASK, **SETTINGS, say=quiet)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"top_logprobs": 1 << 20}, "top_logprobs is 1048576, must be below the 4096 ids"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": 0.0}, "num_samples is 2 at temperature 0"),
        ({"temperature": [1.0, 0.0], "num_samples": 3}, "num_samples is 3 at temperature 1, 0, .* 2"),
        ({"temperature": []}, "temperature names none"),
        ({"split": "test"}, "no split 'test'"),
        ({"seed": -1}, "seed is -1, must be a whole number from 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ],
)
def test_impossible_sets(task, tmp_path, change, complaint):
    with pytest.raises(UsageError, match=complaint):
        collect(pair.target(), tmp_path / "new", task, **SETTINGS | change, say=quiet)
    assert not (tmp_path / "new").exists()


def test_batches_are_a_function_of_seed_and_step(folder):
    texts = TargetSet(folder, with_logprobs=False)

    def rows(steps, size, start_step=0):
        stream = texts.batches(lengths=LENGTHS, batch_size=size, seed=1, start_step=start_step)
        batches = [next(stream) for _ in range(steps)]
        names = ("encoder_input_tokens", "decoder_target_tokens")
        return [np.concatenate([batch[name] for name in names], axis=1).tolist() for batch in batches]

    every = [row for batch in rows(4, 5) for row in batch]
    in_order = texts.batch(list(range(2 * ROWS)), LENGTHS)
    prompts, tokens = in_order["encoder_input_tokens"], in_order["decoder_target_tokens"]
    known = sorted(np.concatenate([prompts, tokens], axis=1).tolist())
    assert [row[row > 0].tolist() for row in tokens] == [text["tokens"] for text in texts.texts]
    assert sorted(every[:10]) == sorted(every[10:]) == known
    assert every[:10] != every[10:]
    assert rows(2, 5, start_step=2) == [every[10:15], every[15:]]


def test_an_evaluation_batch_is_filled_up(folder):
    last = list(TargetSet(folder).once(lengths=LENGTHS, batch_size=4))[-1]
    assert last["decoder_loss_weights"].sum(1).astype(bool).tolist() == [True, True, False, False]


def test_a_prompt_keeps_the_id_0_at_its_end(folder, tmp_path):
    """The exclamation mark, in a vocabulary whose prompts end without EOS."""
    of_words = {
        "tokenizer_fingerprint": model_card.fingerprint(byte_level()),
        "logits": EOS + 1,
        "top_logprobs": 0,
    }
    header = json.loads((folder / "set.json").read_text())
    header["header"] |= of_words | {"eos_ids": [EOS], "prompts_end_with_eos": False}
    (tmp_path / "set.json").write_text(json.dumps(header))
    (tmp_path / "tokenizer.json").write_bytes(byte_level())
    (tmp_path / "texts.jsonl").write_text('{"inputs": "cat!", "tokens": [70, 273]}\n')
    texts = TargetSet(tmp_path)
    prompt = texts.reader.prompt("say: cat!")
    assert (prompt[-1], texts.longest["inputs"]) == (0, len(prompt) + 1)
    for width in (len(prompt) + 1, 40):
        batch = texts.batch([0], {"inputs": width, "targets": 2})
        assert prompt_lengths(batch["encoder_input_tokens"]).tolist() == [len(prompt)]


def config(folder, **changes):
    return DataConfig(TASK, **{"feature_lengths": LENGTHS, "target_set": str(folder), **changes})


def test_a_set_that_does_not_fit_is_refused(folder, copy, tmp_path):
    longest = max(len(text["tokens"]) for text in TargetSet(folder).texts)
    short = {"inputs": 16, "targets": longest - 1}
    with pytest.raises(UsageError, match=rf"targets of {longest} tokens, .*\['targets'\] is {longest - 1}"):
        _ = config(folder, feature_lengths=short).texts
    with pytest.raises(UsageError, match=r"inputs of .* tokens"):
        _ = config(folder, feature_lengths={"inputs": 3, "targets": 8}).texts
    with pytest.raises(UsageError, match="holds texts of task 'test_collect', not of 'wiki_leads'"):
        _ = DataConfig("wiki_leads", target_set=str(folder)).texts
    with pytest.raises(UsageError, match="holds no target-generated set"):
        _ = config(tmp_path).texts
    with pytest.raises(UsageError, match="are not packed"):
        _ = config(folder, pack=True).texts
    other = Tokenizer.from_bytes(train_vocabulary(["red tea", "blue hat"] * 9, vocabulary_size=270))
    with pytest.raises(UsageError, match="another vocabulary than 'test_collect' is read with"):
        TargetSet(folder).check(TASK, other, LENGTHS)
    with np.load(logprobs_file(copy, 2)) as distributions:
        np.savez(logprobs_file(copy, 2), **{**distributions, "ids": distributions["ids"] + np.uint16(4096)})
    with pytest.raises(UsageError, match=r"00002\.npz is not of the texts beside it: remove it"):
        TargetSet(copy).batch([9], LENGTHS)
    logprobs_file(copy, 2).write_bytes(b"PK")
    with pytest.raises(UsageError, match=r"00002\.npz is damaged"):
        TargetSet(copy).batch([9], LENGTHS)
    logprobs_file(copy, 2).unlink()
    with pytest.raises(UsageError, match=r"00002\.npz is missing"):
        TargetSet(copy)
    lines = (copy / "texts.jsonl").read_text().splitlines(keepends=True)
    (copy / "texts.jsonl").write_text(lines[0] + lines[1].replace("tokens", "token") + lines[2])
    with pytest.raises(UsageError, match=r"texts\.jsonl:2: not a line of a target-generated set"):
        TargetSet(copy)


def test_what_cannot_be_distilled_from_a_set(folder, tmp_path):
    draft = pair.write(tmp_path / "draft", pair.draft())
    loop = LoopConfig(total_steps=1, batch_size=4)
    adamw = optimizers.adamw(1e-3)
    with pytest.raises(UsageError, match="SOURCE=OnPolicy without TARGET"):
        distill(None, draft, str(tmp_path / "out"), config(folder), loop, optimizer=adamw, source=OnPolicy())
    with pytest.raises(UsageError, match="TARGET=None: without a target, give TARGET_SET"):
        distill(None, draft, str(tmp_path / "out"), config(folder, target_set=None), loop, optimizer=adamw)
    with pytest.raises(UsageError, match=r"written by another target, target \(.*than .*draft"):
        distill(draft, draft, str(tmp_path / "out"), config(folder), loop, optimizer=adamw)
    header = json.loads((folder / "set.json").read_text())
    header["header"]["top_logprobs"] = 0
    bare = shutil.copytree(folder, tmp_path / "bare")
    (bare / "set.json").write_text(json.dumps(header))
    with pytest.raises(UsageError, match="holds texts but no log-probabilities: collect with --top_logprobs"):
        distill(None, draft, str(tmp_path / "out"), config(bare), loop, optimizer=adamw)
    assert not (tmp_path / "out").exists()


def test_the_mass_of_an_id_is_its_mean_probability_or_its_share_of_the_tokens(folder, copy):
    distributions = [np.load(logprobs_file(folder, shard)) for shard in range(3)]
    ids, p = (
        np.concatenate([distribution[name] for distribution in distributions]) for name in ("ids", "log_p")
    )
    p = np.exp(p.astype(np.float64))
    mass_V = token_mass(TargetSet(folder))
    assert mass_V.shape == (pair.MODEL.vocab_size,)
    for token in pair.SPOKEN:
        assert mass_V[token] == pytest.approx(p[ids == token].sum() / len(ids))
    counted_V = token_mass(TargetSet(copy, with_logprobs=False))
    tokens = [token for text in TargetSet(folder).texts for token in text["tokens"]]
    assert {token: counted_V[token] for token in tokens} == {
        token: pytest.approx(tokens.count(token) / len(tokens)) for token in tokens
    }
    assert counted_V.sum() == pytest.approx(1)


def test_the_heaviest_ids_and_those_that_must_be_there():
    mass_V = np.array([0.0, 0.1, 0.3, 0.0, 0.3, 0.2])
    assert heaviest(mass_V, 2) == [2, 4]
    assert heaviest(mass_V, 3, always=[3]) == [2, 3, 4]
    assert heaviest(mass_V, 5, always=[1]) == [0, 1, 2, 4, 5]
    for count in (0, 6):
        with pytest.raises(UsageError, match=f"--shortlist={count}: must be at least 1 and below 6"):
            heaviest(mass_V, count)


def metrics_of(directory, name):
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


def test_a_draft_learns_from_stored_distributions_and_from_texts_alone(folder, tmp_path):
    draft = pair.write(tmp_path / "draft", pair.draft())
    loop = LoopConfig(total_steps=40, batch_size=4, log_period=10, eval_period=20, save_period=40)
    data = config(folder, held_out_set=str(folder))
    settings = {"optimizer": optimizers.adafactor(optimizers.warmup_cosine(0.02, 40, warmup_steps=1))}
    out = distill(
        None, draft, str(tmp_path / "distributions"), data, loop, divergence=ReverseKL(), **settings
    )
    losses = metrics_of(out, "loss")
    assert losses[-1] < 0.7 * losses[0]
    card = model_card.read_card(out)
    assert card.provenance["parents"] == {"draft": draft}
    out = finetune(
        None, str(tmp_path / "texts"), config(folder), loop, initial_checkpoint_path=draft, **settings
    )
    nll = metrics_of(out, "nll")
    assert nll[-1] < nll[0]
