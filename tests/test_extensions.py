"""What joins by a file of its own: it is registered here, and every command knows it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from distillspec_jax.cli import main as console
from distillspec_jax.decoding import Draft, SamplingDistribution, drafter_registry, named_drafters
from distillspec_jax.errors import UsageError
from distillspec_jax.shapes import Array
from tests import pair


@dataclasses.dataclass(frozen=True)
class Repeater:
    """A toy drafter: the last token, over and over."""

    vocab_size: int

    @property
    def candidates(self) -> int:
        return 1

    def prepare(self, params: None, rows: int | None) -> None:
        return params

    def init(self, params: None, prompt_BT: Array, max_length: int, pending_B: Array) -> Array:
        return jnp.zeros_like(pending_B)

    def draft(
        self,
        params: None,
        state: Array,
        keys_B: Array,
        pending_B: Array,
        distribution: SamplingDistribution,
        block_size: int,
    ) -> Draft:
        tokens_BNG = jnp.broadcast_to(pending_B[:, None, None], (len(pending_B), 1, block_size))
        log_q_BNGV = jnp.log(jax.nn.one_hot(tokens_BNG, self.vocab_size))
        drawn_B = pending_B > 0  # padding is in no distribution
        return Draft(tokens_BNG, log_q_BNGV, jnp.where(drawn_B, block_size, 0)[:, None], state)

    def commit(self, state: Array, branch_B: Array, accepted_B: Array) -> Array:
        return state

    def follow(self, params: None, state: Array, pending_B: Array, tokens_BT: Array, count_B: Array) -> Array:
        return state


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the toy drafter, which is forgotten after the test."""
    monkeypatch.setattr(named_drafters, "FACTORIES", dict(named_drafters.FACTORIES))
    named_drafters.register("toy", Repeater)
    return "--drafter=toy"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(pair.write(tmp_path_factory.mktemp("pair") / "target", pair.target()))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"inputs": text}) + "\n" for text in ("one", "two and two")))
    return path


def test_generate_knows_a_drafter_that_joined(target: str, prompts: Path, tmp_path: Path, toy: str) -> None:
    def outputs(*flags: str) -> list[dict[str, Any]]:
        out = tmp_path / "out.jsonl"
        argv = ["generate", f"--model={target}", f"--input={prompts}", f"--output={out}", *flags]
        assert console.main([*argv, "--max_new_tokens=8", "--batch_size=2"]) == 0
        return [json.loads(line) for line in out.read_text().splitlines()]

    drafted, alone = outputs(toy, "--block_size=2"), outputs()
    assert [line["outputs"] for line in drafted] == [line["outputs"] for line in alone]
    assert sum(line["tested"] for line in drafted) > 0
    # Beside another drafter, too.
    assert [line["outputs"] for line in outputs(toy, "--drafter=lookup", "--block_size=2")] == [
        line["outputs"] for line in alone
    ]


def test_sweep_knows_a_drafter_that_joined(target: str, prompts: Path, tmp_path: Path, toy: str) -> None:
    argv = ["sweep", f"--target={target}", toy, f"--inputs={prompts}", f"--output_dir={tmp_path}"]
    grid = ["--block_sizes=2", "--temperatures=0", "--timing_prompts=0", "--max_new_tokens=8"]
    assert console.main([*argv, *grid]) == 0
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(row["drafter"], row["matches_autoregressive"]) for row in rows] == [("none", 2), ("toy", 2)]
    assert rows[1]["drafter_path"] == "toy"


def test_advise_knows_a_drafter_that_joined(
    target: str, prompts: Path, toy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["advise", f"--target={target}", toy, f"--inputs={prompts}", "--block_sizes=2"]
    assert console.main([*argv, "--max_new_tokens=8"]) == 0
    printed = capsys.readouterr().out
    assert "best block size: 2" in printed or "speculation does not pay here" in printed


def test_help_and_errors_name_a_drafter_that_joined(
    target: str, toy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        console.main(["generate", "--help"])
    assert "(lookup, toy)" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UsageError, match="draft is 'toyy', must be a loaded model, 'lookup', 'toy' or None"):
        drafter_registry.make_drafter(["toyy"], vocab_size=9)
    with pytest.raises(UsageError, match="the drafter name 'toy' is taken"):
        named_drafters.register("toy", Repeater)
