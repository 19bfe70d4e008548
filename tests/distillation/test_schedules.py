"""Sources that turn: how many rows of which at which step, what is not asked, and whose step it is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from distillspec_jax.distillation.divergences import ForwardKL
from distillspec_jax.distillation.loss import make_distillation_loss
from distillspec_jax.distillation.schedules import Turning
from distillspec_jax.distillation.sources import Fixed, Mixture, Networks, OnPolicy
from distillspec_jax.errors import UsageError
from distillspec_jax.partitioning import make_partitioner
from distillspec_jax.training.step import create_state, make_train_step
from distillspec_jax.vocabulary import T5_IDS
from tests.distillation.bigram import Bigram, chain, prompts
from tests.training import toy

OWN, TARGETS = chain([3, 0, 0, 4, 1, 5], 6), chain([5, 0, 0, 4, 1, 5], 6)  # 0 -> 3 -> 4 -> 1, and 0 -> 5 ...
NETWORK, ROWS = Bigram(6), 8


@functools.partial(jax.jit, static_argnums=0)
def draw(source, step):
    networks = Networks(NETWORK, OWN, NETWORK, TARGETS, T5_IDS)
    batch = prompts(ROWS, 5) | {"step": jnp.broadcast_to(step, ROWS)}
    return source(networks, batch, jax.random.key(0))


def own_rows(source, step):
    found = draw(source, step)
    firsts = np.asarray(found["decoder_target_tokens"])[:, 0]
    own = np.flatnonzero(firsts == 3)
    np.testing.assert_array_equal(own, np.arange(ROWS - len(own), ROWS))  # the last ones
    np.testing.assert_array_equal(np.delete(firsts, own), 9)  # the others are the data's
    assert np.asarray(found["decoder_loss_weights"]).sum() == 3 * len(own) + 5 * (ROWS - len(own))
    return len(own)


def test_a_share_grows_evenly_and_stays():
    growing = Turning(Fixed(), OnPolicy(), begin=10, end=18, share=0.5)
    steps = {0: 0, 9: 0, 10: 0, 11: 1, 12: 1, 13: 2, 14: 2, 16: 3, 18: 4, 19: 4, 5000: 4}
    assert {step: own_rows(growing, step) for step in steps} == steps


def test_a_turn_at_once_is_whole():
    turning = Turning(Fixed(), OnPolicy(), begin=3, end=3)
    assert turning.rows_after(np.array([0, 2, 3, 4]), 24).tolist() == [0, 0, 24, 24]


def test_a_source_without_rows_is_not_asked():
    """Its callback would run wherever both were computed and one chosen."""
    asked = []

    class Counted(Fixed):
        def __call__(self, networks, batch, key):
            jax.debug.callback(lambda: asked.append(1))
            return batch

    turning = Turning(Counted(), Fixed(), begin=2, end=4)
    for step, times in ((0, 1), (2, 1), (3, 1), (4, 0), (9, 0)):
        asked.clear()
        jax.block_until_ready(draw(turning, step))
        jax.effects_barrier()
        assert len(asked) == times, step


def test_shares_within_it_are_checked():
    halves = Mixture((Fixed(), OnPolicy()), (0.5, 0.5))
    with pytest.raises(UsageError, match=r"share 0\.5 of 1 rows is none"):
        Turning(Fixed(), halves, 0, 5).check(1, 1)
    with pytest.raises(
        UsageError, match=r"Turning\.share=0\.1 of 4 rows is none; raise BATCH_SIZE or the share"
    ):
        Turning(Fixed(), OnPolicy(), 0, 5, share=0.1).check(8, 2)
    Turning(Fixed(), OnPolicy(), 0, 5, share=0.1).check(8, 1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"begin": -1, "end": 3}, "Turning.begin=-1: must be at least 0"),
        ({"begin": 5, "end": 3}, "Turning.end=3: must be at least 5"),
        ({"begin": 0, "end": 2.5}, "Turning.end=2.5: must be a whole number"),
        ({"begin": 0, "end": 3, "share": 0}, "Turning.share=0: must be above 0, at most 1"),
        ({"begin": 0, "end": 3, "share": 2}, "Turning.share=2: must be at most 1"),
    ],
)
def test_impossible_turns_are_refused_when_they_are_made(settings, says):
    with pytest.raises(UsageError, match=says):
        Turning(Fixed(), OnPolicy(), **settings)


def test_a_train_step_turns_by_the_step_of_its_state():
    """A restart brings back the state, and nothing else; cut into parts, each has its share."""
    source = Turning(Fixed(), OnPolicy(), begin=2, end=6)
    loss = make_distillation_loss(NETWORK, NETWORK, TARGETS, ForwardKL(), source, vocabulary=T5_IDS)
    partitioner, optimizer = make_partitioner(), optax.sgd(0.0)
    params = {"table": OWN["table"] + 0}
    state, shardings = create_state(params, toy.replicated(params, partitioner), optimizer, partitioner)
    train_step = make_train_step(optimizer, partitioner, shardings, seed=0, microbatches=2)
    for step, own in ((5, 6), (1, 0), (4, 4), (2, 0), (9, 8)):
        state, metrics = train_step(
            state.replace(step=jnp.full_like(state.step, step)), prompts(ROWS, 5), loss
        )
        assert float(metrics["row_tokens"].total) == 3 * own + 5 * (ROWS - own), step
