"""What the exactness tests run: families x block sizes, each one batch of all cells, decoded once."""

from __future__ import annotations

import dataclasses
import functools

import jax
import pytest

from distillspec_jax.decoding import (
    AutoregressiveLoop,
    CandidatesRule,
    Drafter,
    HybridDrafter,
    Loop,
    ModelDrafter,
    OnePassDrafter,
    PairParams,
    PromptLookup,
    SpeculativeLoop,
    State,
    TokenRule,
    Verifier,
    rules,
)
from tests.exactness.families import FAMILIES, PROMPTS, VARIANTS, VOCAB, Family, family
from tests.exactness.goodness import Cell
from tests.exactness.joint import EVERY_ROUND, LIMITS, Distribution, batch, exact_joint, run

FALSE_ALARM = 1e-4
"""Probability, over seeds, with which a sound sampler fails one test. The seeds are fixed: it never does."""

REPEATS = 3000
"""Rows a cell; what that many can see is computed in `test_power.py`."""

SEED = 1

DISTRIBUTIONS = (
    Distribution(1.0),
    Distribution(0.7),
    Distribution(1.5, top_k=3),
    Distribution(1.0, top_p=0.8),
    Distribution(0.7, top_k=4, top_p=0.9),
    Distribution(0.0),
)
CELLS = [(prompt, distribution) for prompt in range(len(PROMPTS)) for distribution in DISTRIBUTIONS]

EVERY_DISTRIBUTION = tuple(
    Distribution(temperature, top_k, top_p)
    for temperature in (0.0, 0.7, 1.0, 1.5)
    for top_k in (0, 3)
    for top_p in (1.0, 0.8)
)
"""Their whole product, by `make test-exact`, on one family: no network knows by what distribution it is
read."""

BLOCK_SIZES = (0, 1, 2, 3, 5)
"""0 is autoregressive decoding. Limits are 3 and 4, so 5 is always cut inside the block."""

HYBRID = "hybrid"
"""Blocks of several drafters: two of a model's, one of another's, one that was looked up."""

ONE_PASS = "one pass"
"""The token rule on blocks that a model drafts in one call, with the padding id for masks."""

RULES: dict[str, tuple[int, Verifier]] = {
    **{name: (1, rule.make()) for name, rule in rules.RULES.items() if rule.exact},
    "candidates": (3, CandidatesRule()),
    "one candidate": (1, CandidatesRule()),
    HYBRID: (2, CandidatesRule()),
    ONE_PASS: (1, TokenRule()),
}
"""Every exact rule, with the number of candidate blocks that a draft model gives it. A rule that joins
`decoding.rules.RULES` is here by itself."""

EVERY_DAY = {
    *(("prefix", size, "token") for size in (0, 5)),
    *(("prefix", 3, name) for name, rule in rules.RULES.items() if rule.exact and name != "token"),
    ("prefix", 3, ONE_PASS),
    ("prefix", 2, HYBRID),  # the rule of candidates with every kind of drafter
    # A T5Gemma compiles longest, and T5 has two stacks, too.
    *((name, 2, "token") for name in (*FAMILIES, *VARIANTS) if name not in ("prefix", "t5gemma")),
}
"""What runs by default; the rest by `make test-exact`."""

POINTS = [
    *(
        (name, size, rule)
        for name in FAMILIES
        for size in BLOCK_SIZES
        for rule in RULES
        if size or rule == "token"
    ),
    *((name, 2, "token") for name in VARIANTS),
]
GRID = [pytest.param(*point, marks=() if point in EVERY_DAY else pytest.mark.slow) for point in POINTS]
SPECULATIVE_GRID = [point for point in GRID if point.values[1]]
TOKEN_BY_TOKEN = [point for point in SPECULATIVE_GRID if point.values[2] in ("token", "one candidate")]
"""Rules that accept each draft with probability sum_v min(p, q), whatever comes after it."""


def make_loop(pair: Family, block_size: int, rule: str = "token") -> Loop:
    """The loop of a block size and a rule."""
    if block_size == 0:
        return AutoregressiveLoop(pair.target)
    candidates, verifier = RULES[rule]
    drafter: Drafter = dataclasses.replace(pair.drafter, candidates=candidates)
    if rule == ONE_PASS:
        drafter = OnePassDrafter(pair.draft, mask_id=0, block_size=block_size)
    if rule == HYBRID:
        others = ModelDrafter(pair.draft), PromptLookup(VOCAB)
        drafter = HybridDrafter((drafter, *others), block_size)
    return SpeculativeLoop(pair.target, drafter, verifier, block_size=block_size)


def loop_params(pair: Family, rule: str = "token") -> PairParams:
    """The parameters of its loop; a hybrid's second draft model differs from the first."""
    if rule != HYBRID:
        return pair.params
    other = jax.tree.map(lambda leaf: 0.7 * leaf, pair.params.draft)
    return PairParams(pair.params.target, (pair.params.draft, other, None))


@functools.cache
def decoded(name: str, block_size: int, rule: str = "token", max_rounds: int = EVERY_ROUND) -> State:
    """The state of all cells, interleaved row by row, at the end or after some rounds; compiled once.

    Without the caches, which for so many rows are more than the whole grid's results.
    """
    prompt_BT, settings = batch(CELLS, REPEATS, SEED)
    loop = make_loop(family(name), block_size, rule)
    state = run(loop, loop_params(family(name), rule), prompt_BT, settings, max_rounds)
    return dataclasses.replace(state, target=None, draft=None)


@functools.cache
def exact(name: str, prompt: int, distribution: Distribution) -> dict[Cell, float]:
    """The exact distribution of a cell."""
    return exact_joint(family(name), PROMPTS[prompt], LIMITS[prompt], distribution)
