"""A rule, a divergence and a source of one's own: each is registered here, in one line, and every command
knows it by its name.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import pytest

from distillspec_jax.cli.main import main
from distillspec_jax.decoding import Verdict, randomness, rules
from distillspec_jax.decoding.randomness import Purpose
from distillspec_jax.decoding.rules import Rule
from distillspec_jax.decoding.verifiers import row_of
from distillspec_jax.distillation import divergences, sources
from distillspec_jax.distillation.divergences import DistributionDivergence
from distillspec_jax.distillation.sources import Networks
from distillspec_jax.models.interface import Batch
from distillspec_jax.shapes import Array
from tests import pair
from tests.decoding.drafted_blocks import P, Q, verified


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Accepts no draft and draws the next token from the target: exact, and slow."""

    depends_on_whole_block = False

    def __call__(
        self,
        keys_B: Array,
        tokens_BNG: Array,
        log_q_BNGV: Array,
        log_p_BNKV: Array,
        length_BN: Array,
        *,
        logits_BNKV: Array | None = None,
    ) -> Verdict:
        none_B = jnp.zeros(len(keys_B), jnp.int32)
        log_p_BV = row_of(log_p_BNKV[:, 0], none_B)
        keys = randomness.draw_keys(keys_B, none_B, Purpose.BONUS)
        return Verdict(none_B, none_B, randomness.draw(keys, log_p_BV))


@dataclasses.dataclass(frozen=True)
class Hellinger(DistributionDivergence):
    """1 - sum_v sqrt(P Q), the squared Hellinger distance."""

    def between(self, log_p_BTV: Array, log_q_BTV: Array) -> Array:
        return 1 - jnp.sum(jnp.exp(0.5 * (log_p_BTV + log_q_BTV)), axis=-1)


@dataclasses.dataclass(frozen=True)
class FirstHalf:
    """The data set's own targets, of which only the first half is learnt from."""

    def __call__(self, networks: Networks, batch: Batch, key: Array) -> Batch:
        weights_BT = batch["decoder_loss_weights"]
        early_1T = jnp.arange(weights_BT.shape[1])[None] < weights_BT.shape[1] // 2
        return {**batch, "decoder_loss_weights": weights_BT * early_1T}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each."""
    monkeypatch.setitem(rules.RULES, "refusal", Rule(Refusal, "exact; accepts no draft"))
    monkeypatch.setitem(divergences.DIVERGENCES, "hellinger", Hellinger)
    monkeypatch.setitem(sources.SOURCES, "first_half", FirstHalf)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("models")
    return pair.write(root / "target", pair.target()), pair.write(root / "draft", pair.draft())


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"inputs": text}) + "\n" for text in ("a word", "two words")))
    return str(path)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_generate_verifies_by_it(models: tuple[str, str], prompts: str, tmp_path: Path) -> None:
    target, draft = models
    flags = [f"--model={target}", f"--drafter={draft}", f"--input={prompts}", "--block_size=2"]
    found = {}
    for rule in ("refusal", "token"):
        output = tmp_path / f"{rule}.jsonl"
        assert main(["generate", *flags, "--max_new_tokens=6", f"--rule={rule}", f"--output={output}"]) == 0
        found[rule] = lines(output)
    refused, drafted = found["refusal"], found["token"]
    assert [line["outputs"] for line in refused] == [line["outputs"] for line in drafted]
    assert sum(line["accepted"] for line in refused) == 0 < sum(line["accepted"] for line in drafted)
    assert [line["target_calls"] for line in refused] == [line["emitted_tokens"] for line in refused]


def test_a_sweep_measures_it(models: tuple[str, str], prompts: str, tmp_path: Path) -> None:
    target, draft = models
    flags = [f"--target={target}", f"--drafter={draft}", f"--inputs={prompts}", "--max_new_tokens=6"]
    flags += ["--block_sizes=2", "--temperatures=0", "--timing_prompts=0", f"--output_dir={tmp_path}"]
    assert main(["sweep", *flags, "--rules=token,refusal"]) == 0
    rows = [row for row in lines(tmp_path / "results.jsonl") if row["block_size"]]
    accepted = {row["verifier"]: row["acceptance_tested"] for row in rows}
    assert accepted["refusal"] == 0 < accepted["token"]


def test_advise_takes_its_acceptance(models: tuple[str, str], prompts: str, tmp_path: Path) -> None:
    target, draft = models
    flags = [f"--target={target}", f"--drafter={draft}", f"--inputs={prompts}", "--max_new_tokens=6"]
    output = tmp_path / "advice.json"
    assert main(["advise", *flags, "--block_sizes=2", "--rule=refusal", f"--output={output}"]) == 0
    assert json.loads(output.read_text())["acceptance"] == 0


def test_help_describes_it(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("generate", "sweep", "advise"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "refusal (exact; accepts no draft)" in " ".join(capsys.readouterr().out.split())


def test_an_exact_rule_is_held_to_its_word_every_day() -> None:
    """The grid is made of the registry when it is imported: as if the rule had joined in its own file."""
    from tests.exactness import grid

    every_day = {point.values for point in grid.GRID if not point.marks}
    exact = {name for name, rule in rules.RULES.items() if rule.exact} - {"refusal"}
    assert exact <= {rule for _, _, rule in every_day}
    # And what the grid would see of this one: the next token is the target's, whatever was drafted.
    counts = verified(Refusal(), P, Q, 2)
    total = counts.total()
    assert all(abs(counts[(v,)] / total - P[0, v]) < 0.02 for v in range(4))


def test_distil_learns_by_them(models: tuple[str, str], tmp_path: Path) -> None:
    target, draft = models
    text, run = tmp_path / "text.jsonl", tmp_path / "run"
    rows = [{"inputs": f"say {i}", "targets": f"{i} said"} for i in range(4)]
    text.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--gin_file=runs/distill.gin", "--gin_file=tasks/jsonl.gin", "--gin.TASK_NAME=toys"]
    flags += [f"--gin.TRAIN_FILE={text}", "--gin.INPUTS_LENGTH=16", "--gin.TARGETS_LENGTH=8"]
    flags += [f"--gin.TARGET={target}", f"--gin.DRAFT={draft}", f"--gin.MODEL_DIR={run}"]
    flags += ["--gin.BATCH_SIZE=4", "--gin.TRAIN_STEPS=1", "--check_prompts=0"]
    assert main(["distill", *flags, "--gin.DIVERGENCE=hellinger", "--gin.SOURCE=first_half"]) == 0
    (line,) = [line for line in lines(run / "metrics.jsonl") if line["split"] == "train"]
    assert 0 < line["loss"] < 1
    assert line["row_tokens"] <= 4  # of eight
