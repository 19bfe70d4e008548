"""What the joint distribution test can see: known mutants, and the size of a leak."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import pytest

from distillspec_jax.decoding import ModelDrafter, SpeculativeLoop, TokenRule, Verdict, randomness
from distillspec_jax.decoding.randomness import Purpose
from tests.exactness.families import FAMILIES, PROMPTS, family
from tests.exactness.goodness import g_test, power
from tests.exactness.grid import CELLS, FALSE_ALARM, REPEATS, exact
from tests.exactness.joint import LIMITS, Distribution, counts_of_cell, decode, exact_joint


@dataclasses.dataclass(frozen=True)
class ResidualFromTarget(TokenRule):
    """Mutant 3: after a rejection draws from p instead of norm(max(0, p - q))."""

    def __call__(self, keys_B, tokens_BNG, log_q_BNGV, log_p_BNKV, length_BN, **_):
        verdict = super().__call__(keys_B, tokens_BNG, log_q_BNGV, log_p_BNKV, length_BN)
        log_p_BV = log_p_BNKV[jnp.arange(len(keys_B)), 0, verdict.accepted_B]
        keys = randomness.draw_keys(keys_B, verdict.accepted_B, Purpose.RESIDUAL)
        return Verdict(verdict.branch_B, verdict.accepted_B, randomness.draw(keys, log_p_BV))


@dataclasses.dataclass(frozen=True)
class BonusFromLastPosition(TokenRule):
    """Mutant 4: the bonus token follows the distribution before the last draft."""

    def __call__(self, keys_B, tokens_BNG, log_q_BNGV, log_p_BNKV, length_BN, **_):
        stale = log_p_BNKV.at[:, :, -1].set(log_p_BNKV[:, :, -2])
        return super().__call__(keys_B, tokens_BNG, log_q_BNGV, stale, length_BN)


@dataclasses.dataclass(frozen=True)
class OneKey(TokenRule):
    """Mutant 7a: the number that rejected the draft draws its replacement, too."""

    def __call__(self, keys_B, tokens_BNG, log_q_BNGV, log_p_BNKV, length_BN, **_):
        verdict = super().__call__(keys_B, tokens_BNG, log_q_BNGV, log_p_BNKV, length_BN)
        rows, at = jnp.arange(len(keys_B)), jnp.minimum(verdict.accepted_B, tokens_BNG.shape[2] - 1)
        p, q = jnp.exp(log_p_BNKV[rows, 0, at]), jnp.exp(log_q_BNGV[rows, 0, at])
        keys = randomness.draw_keys(keys_B, verdict.accepted_B, Purpose.ACCEPT)
        redrawn = randomness.draw(keys, jnp.log(jnp.maximum(p - q, 0)))
        rejected = verdict.accepted_B < length_BN[:, 0]
        return verdict._replace(next_token_B=jnp.where(rejected, redrawn, verdict.next_token_B))


@dataclasses.dataclass(frozen=True)
class GreedyDrafter(ModelDrafter):
    """Mutant 1: drafts the likeliest token and records the soft distribution."""

    def draft(self, params, state, keys_B, pending_B, distribution, block_size):
        greedy = dataclasses.replace(distribution, temperature=jnp.zeros_like(distribution.temperature))
        draft = super().draft(params, state, keys_B, pending_B, greedy, block_size)
        soft = super().draft(params, state, keys_B, pending_B, distribution, block_size)
        return draft._replace(log_q_BNGV=soft.log_q_BNGV)


@pytest.mark.parametrize(
    "drafter_type, verifier",
    [
        pytest.param(ModelDrafter, ResidualFromTarget(), id="residual from p"),
        pytest.param(ModelDrafter, BonusFromLastPosition(), id="stale bonus"),
        pytest.param(ModelDrafter, OneKey(), id="one key", marks=pytest.mark.slow),
        pytest.param(GreedyDrafter, TokenRule(), id="greedy draft, soft q", marks=pytest.mark.slow),
    ],
)
def test_a_wrong_sampler_is_seen(drafter_type: type[ModelDrafter], verifier: TokenRule) -> None:
    pair = family("prefix")
    loop = SpeculativeLoop(pair.target, drafter_type(pair.draft), verifier, block_size=2)
    cells = [(prompt, Distribution(1.0)) for prompt in range(len(PROMPTS))]
    state = decode(loop, pair.params, cells, REPEATS, seed=1)
    p_values = [
        g_test(counts_of_cell(state, i, len(cells)), exact("prefix", prompt, distribution))
        for i, (prompt, distribution) in enumerate(cells)
    ]
    assert min(p_values) < FALSE_ALARM / len(CELLS)


@pytest.mark.parametrize("name", FAMILIES)
def test_power_against_a_small_leak_of_the_draft_distribution(name: str) -> None:
    """If 6 % of all outputs came straight from the draft, some cell would tell, with probability 0.99."""
    pair = family(name)
    swapped = dataclasses.replace(
        pair, target=pair.draft, params=pair.params._replace(target=pair.params.draft)
    )
    missed = 1.0
    for prompt, distribution in CELLS:
        if distribution.temperature == 0:
            continue
        right, leak = (
            exact(name, prompt, distribution),
            exact_joint(swapped, PROMPTS[prompt], LIMITS[prompt], distribution),
        )
        mixed = {output: 0.94 * p + 0.06 * leak[output] for output, p in right.items()}
        missed *= 1 - power(right, mixed, REPEATS, FALSE_ALARM / len(CELLS))
    assert missed < 0.01
