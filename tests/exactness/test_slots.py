"""A few slots that prompts take in turn, a target in eight bits, stop strings: whole outputs, by enumeration.

One call of an engine, looked at by every test.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

import jax
import pytest

from distillspec_jax import checkpoint, model_card
from distillspec_jax.decoding import Completion, Engine, PairParams, SamplingParams, StopOnStrings
from distillspec_jax.model_card import ModelCard
from distillspec_jax.models import pretrained, registry
from distillspec_jax.shapes import Array
from distillspec_jax.vocabulary import Vocabulary
from tests.exactness.families import PROMPTS, VOCAB, Family, family
from tests.exactness.goodness import Cell, g_test
from tests.exactness.grid import FALSE_ALARM, SEED
from tests.exactness.joint import EOS, LIMITS, Distribution, exact_joint

SLOTS, BLOCK_SIZE = 4, 2
"""Twelve rows a call of the target: the most for which a CPU reads kernels of eight bits."""

CELLS = [(0, Distribution(1.0)), (1, Distribution(0.7, top_p=0.9)), (2, Distribution(1.5, top_k=3))]
REPEATS = 200

PIECES = (b"", b"", b"a", b"b", b"ab", b"ba")
STOPS = (b"bb", b"aba")
"""No piece holds one: each begins in one token and ends in another, often of the next round."""


def stopped(output: Cell) -> bool:
    text = b"".join(PIECES[token] for token in output)
    return any(stop in text for stop in STOPS)


def far_from_eight_bits(path: jax.tree_util.KeyPath, leaf: Array) -> Array:
    """Gives kernels after a norm an input that is always 0, of weights so large that the rest is coarse."""
    *_, above, name = (key.key for key in path)
    if name == "scale":
        return leaf.at[0].set(0.0)
    return (1.5 * leaf).at[0].set(64.0) if name == "kernel" and above not in ("out", "wo") else leaf


@pytest.fixture(scope="module")
def stored() -> Family:
    """The pair whose target is stored, in float32."""
    pair = family("decoder_only")
    coarse = jax.tree_util.tree_map_with_path(far_from_eight_bits, pair.params.target)
    return dataclasses.replace(pair, params=PairParams(coarse, pair.params.draft))


@pytest.fixture(scope="module")
def loaded(stored: Family, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """The same, with the target as `MODEL@int8`."""
    folder = tmp_path_factory.mktemp("target")
    model_card.write_card(folder, ModelCard(*registry.describe(stored.target)), None)
    checkpoint.save_params(folder, 1, stored.params.target)
    target = pretrained.load(f"{folder}@int8")
    return dataclasses.replace(
        stored, target=target.model, params=PairParams(target.params, stored.params.draft)
    )


def exact(pair: Family, cell: int) -> dict[Cell, float]:
    prompt, distribution = CELLS[cell]
    return exact_joint(pair, PROMPTS[prompt], LIMITS[prompt], distribution, stopped)


@pytest.fixture(scope="module")
def completions(loaded: Family) -> list[Completion]:
    """Of the cells in turn."""
    engine = Engine(
        loaded.target,
        loaded.params.target,
        loaded.drafter,
        loaded.params.draft,
        stopping=StopOnStrings(STOPS, PIECES),
        block_size=BLOCK_SIZE,
        batch_size=SLOTS,
        prompt_bucket=8,
    )
    prompts, distributions = zip(*CELLS * REPEATS, strict=True)
    columns = zip(*map(dataclasses.astuple, distributions), strict=True)
    return engine.generate(
        [PROMPTS[prompt] for prompt in prompts],
        SamplingParams(*columns).distribution(Vocabulary(VOCAB, (EOS,), (0,))),
        [LIMITS[prompt] for prompt in prompts],
        SEED,
    )


def test_outputs_follow_the_target_that_was_loaded_and_not_the_one_that_is_stored(
    completions: list[Completion], loaded: Family, stored: Family
) -> None:
    for cell in range(len(CELLS)):
        counts = Counter(completion.tokens for completion in completions[cell :: len(CELLS)])
        p_value = g_test(counts, exact(loaded, cell))
        assert p_value > FALSE_ALARM / len(CELLS), f"{CELLS[cell]}: p = {p_value:.2g}"
        assert g_test(counts, exact(stored, cell)) < 1e-9


def test_a_stop_string_ends_a_row_and_its_counts_with_the_token_that_completes_it(
    completions: list[Completion],
) -> None:
    ended_by = Counter[str]()
    for completion in completions:
        tokens = completion.tokens
        assert len(tokens) == completion.accepted + completion.target_calls - completion.cut_rounds
        assert not list(completion.record.violations(BLOCK_SIZE))
        assert completion.finish_reason == ("eos" if stopped(tokens) or tokens[-1] == EOS else "length")
        if stopped(tokens):
            ended_by["a draft" if completion.cut_rounds else "the target"] += 1
    assert min(ended_by["a draft"], ended_by["the target"]) > REPEATS / 10, ended_by
