"""A batch whose block size changes between rounds, plain decoding included, keeps the exact distribution."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax.decoding import (
    Drafter,
    HybridDrafter,
    ModelDrafter,
    PromptLookup,
    RowSettings,
    SamplingParams,
    StopOnEos,
    TokenRule,
    randomness,
)
from distillspec_jax.decoding.runner import Runner
from distillspec_jax.vocabulary import Vocabulary
from tests import tiny
from tests.decoding.batches import padded
from tests.exactness.families import FAMILIES, PROMPTS, VOCAB, family
from tests.exactness.goodness import g_test
from tests.exactness.grid import CELLS, FALSE_ALARM, REPEATS, SEED, exact
from tests.exactness.joint import EOS, LIMITS, batch, counts_of_cell

SIZES = (0, 1, 3)
UNTIL_EOS = StopOnEos((EOS,))
PATTERN = (1, 0, 3, 0, 0, 1)
"""Block sizes of the rounds: into plain decoding from both others, out of it after one round and two."""


def make_runner(name: str, rows: int, stopping: StopOnEos = UNTIL_EOS) -> Runner:
    pair = family(name)
    return Runner(
        pair.target,
        pair.params.target,
        pair.drafter,
        pair.params.draft,
        block_sizes=SIZES,
        rows=rows,
        verifier=TokenRule(),
        stopping=stopping,
        measure_overlap=False,
    )


def run(runner: Runner, state: Any, prompt_BT: np.ndarray, size: int) -> Any:
    """One round, as the engine has it."""
    if size and state.draft is None:
        state = runner.resumed(state, prompt_BT)
    return runner.run(state, size, 1, 1)


def test_every_row_follows_its_exact_distribution_while_the_block_size_changes() -> None:
    prompt_BT, settings = batch(CELLS, REPEATS, SEED)
    runner = make_runner("prefix", len(prompt_BT))
    state = runner.read(prompt_BT, settings, max(LIMITS))
    for size in itertools.cycle(PATTERN):
        if not bool(state.rows.running_B.any()):
            break
        state = run(runner, state, prompt_BT, size)
    for i, (prompt, distribution) in enumerate(CELLS):
        p_value = g_test(counts_of_cell(state, i, len(CELLS)), exact("prefix", prompt, distribution))
        assert p_value > FALSE_ALARM / len(CELLS), f"prompt {prompt}, {distribution}: p = {p_value:.2g}"


# Op by op, each of their many operations would be a program of its own.
init = jax.jit(lambda drafter, *args: drafter.init(*args), static_argnums=(0, 3))
follow = jax.jit(lambda drafter, *args: drafter.follow(*args), static_argnums=0)
draft = jax.jit(lambda drafter, *args: drafter.draft(*args), static_argnums=(0, 6))


def drafters(name: str) -> dict[str, tuple[Drafter, Any]]:
    """Each kind with its parameters."""
    pair = family(name)
    model, lookup, params = ModelDrafter(pair.draft), PromptLookup(VOCAB), pair.params.draft
    other = jax.tree.map(lambda leaf: 0.7 * leaf, params)
    return {
        "model": (model, params),
        "lookup": (lookup, None),
        "hybrid": (HybridDrafter((model, model, lookup), 3), (params, other, None)),
    }


# The loops ask no network which family it is of: every day with the first two, with all by `make test-exact`.
CASES = [
    pytest.param(name, kind, marks=() if name in ("prefix", "t5") else pytest.mark.slow)
    for name in FAMILIES
    for kind in ("model", "lookup", "hybrid")
]


@pytest.mark.parametrize("name, kind", CASES)
def test_a_drafter_that_follows_drafts_as_if_it_had_drafted_all_along(name: str, kind: str) -> None:
    """Its distributions, given the whole text at once, are those of a memory that has seen nothing but that
    text.

    Rows stand at unequal lengths; some have committed nothing when they are left, some nothing since.
    """
    pair, (drafter, params) = family(name), drafters(name)[kind]
    text_BT = np.random.default_rng(3).integers(2, VOCAB, (6, 7)).astype(np.int32)
    prompt_BT = padded([*PROMPTS, *PROMPTS])
    keys_B = randomness.row_keys(jax.random.key(0), jnp.arange(6))
    distribution = SamplingParams(1.0).distribution(Vocabulary(VOCAB, (1,), (0,))).for_rows(6)
    first_B = tiny.prefill(pair.target, pair.params.target, prompt_BT, 1)[1]

    def read(parts: list[list[int]]) -> tuple[Any, Any, Any]:
        """Follows the text in some steps, then drafts."""
        memory = init(drafter, params, prompt_BT, 12, first_B)
        done_B, pending_B = np.zeros(6, np.int32), first_B
        for counts in parts:
            count_B = np.array(counts, np.int32)
            rest_BT = np.stack([np.roll(row, -done) for row, done in zip(text_BT, done_B, strict=True)])
            memory = follow(drafter, params, memory, pending_B, jnp.asarray(rest_BT), jnp.asarray(count_B))
            done_B += count_B
            last_B = text_BT[np.arange(6), np.maximum(done_B - 1, 0)]
            pending_B = jnp.where(done_B > 0, last_B, first_B)
        drafted = draft(drafter, params, memory, keys_B, pending_B, distribution, 3)
        return drafted.tokens_BNG, np.exp(drafted.log_q_BNGV), drafted.length_BN

    expected = read([[1, 0, 2, 0, 3, 1], [1] * 6, [1] * 6, [0, 2, 1, 3, 0, 0], [0, 1, 0, 0, 0, 2]])
    for parts in ([[3, 5, 5, 5, 5, 5]], [[0, 1, 2, 3, 0, 5], [3, 4, 3, 2, 5, 0]]):
        for found, wanted in zip(read(parts), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_a_drafter_has_read_prompts_and_texts_when_speculation_resumes() -> None:
    """The drafter's next distributions are those of a memory that reads the rows' whole output at once."""
    pair, prompt_BT = family("t5"), padded(PROMPTS)
    keys_B = randomness.row_keys(jax.random.key(0), jnp.arange(3))
    distribution = SamplingParams(1.0).distribution(Vocabulary(VOCAB, (1,), (0,))).for_rows(3)
    runner = make_runner("t5", 3, StopOnEos(()))
    state = runner.read(prompt_BT, RowSettings(keys_B, jnp.full(3, 12), distribution), 12)
    for size in (3, 0, 0):
        state = run(runner, state, prompt_BT, size)
    assert state.draft is None
    resumed = run(runner, state, prompt_BT, 1)
    assert len(set(np.asarray(resumed.rows.emitted_B).tolist())) > 1

    def next_distributions(memory: Any) -> np.ndarray:
        rows = resumed.rows
        drafted = draft(pair.drafter, pair.params.draft, memory, keys_B, rows.pending_B, distribution, 3)
        return np.exp(drafted.log_q_BNGV)

    first_B = tiny.prefill(pair.target, pair.params.target, jnp.asarray(prompt_BT), 1)[1]
    fresh = init(pair.drafter, pair.params.draft, jnp.asarray(prompt_BT), 16, first_B)
    whole = follow(
        pair.drafter, pair.params.draft, fresh, first_B, resumed.rows.output_BT, resumed.rows.emitted_B
    )
    np.testing.assert_allclose(next_distributions(resumed.draft), next_distributions(whole), atol=2e-5)
