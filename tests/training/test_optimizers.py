"""Schedules and optimizers against hand-computed numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax.errors import UsageError
from distillspec_jax.training import optimizers


def test_the_schedule_warms_up_holds_and_cools_down():
    schedule = optimizers.warmup_cosine(
        2.0, total_steps=100, warmup_steps=10, hold_until=60, final_fraction=0.1
    )
    by_hand = {0: 0.0, 5: 1.0, 10: 2.0, 59: 2.0, 60: 2.0, 80: 2.0 * 0.55, 100: 0.2, 150: 0.2}
    assert {step: pytest.approx(value) for step, value in by_hand.items()} == {
        step: float(schedule(step)) for step in by_hand
    }
    # A third of the way down: the cosine stands at cos(60 degrees) = 1/2.
    assert float(schedule(60 + 40 / 3)) == pytest.approx(0.2 + 1.8 * 0.75)


def test_without_a_plateau_the_cool_down_follows_the_warm_up():
    schedule = optimizers.warmup_cosine(1.0, total_steps=20, warmup_steps=10, final_fraction=0.0)
    assert float(schedule(10)) == 1.0
    assert float(schedule(15)) == pytest.approx(0.5)
    assert float(schedule(20)) == pytest.approx(0.0, abs=1e-7)


def test_a_short_run_warms_up_for_at_most_half_of_it():
    schedule = optimizers.warmup_cosine(1.0, total_steps=8, warmup_steps=100)
    assert [float(schedule(step)) for step in (2, 4)] == [0.5, 1.0]


def updates(transform, params, gradients):
    """The updates of successive gradients, parameters moving along."""
    state, found = transform.init(params), []
    for gradient in gradients:
        update, state = transform.update(gradient, state, params)
        params = params + update
        found.append(np.asarray(update, np.float64))
    return found


GRADIENTS = [np.array([[0.1, -0.2], [0.02, 0.04]]), np.array([[-0.05, 0.1], [0.3, 0.0]])]
START = np.array([[1.0, 2.0], [-1.0, 0.5]])


def given(transform):
    return updates(
        transform, jnp.asarray(START, jnp.float32), [jnp.asarray(g, jnp.float32) for g in GRADIENTS]
    )


def test_adamw_by_hand():
    b1, b2, decay, rate = 0.9, 0.98, 0.1, 0.01
    found = given(optimizers.adamw(rate, weight_decay=decay, clip_norm=None))
    m = v = np.zeros((2, 2))
    params = START
    for t, (gradient, update) in enumerate(zip(GRADIENTS, found, strict=True), start=1):
        m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
        step = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + 1e-8)
        np.testing.assert_allclose(update, -rate * (step + decay * params), rtol=2e-5, atol=1e-8)
        params = params + update


def test_adamw_decays_no_weights_unless_told():
    still = optimizers.adamw(0.1)
    (update,) = updates(still, jnp.ones(3), [jnp.zeros(3)])
    np.testing.assert_array_equal(update, np.zeros(3))


@pytest.mark.parametrize("optimizer", [optimizers.adamw, optimizers.adafactor, optimizers.muon])
def test_the_clip_comes_before_the_optimizer(optimizer):
    """A gradient of norm 2 is one of norm 1; both moments must see the clipped one."""
    small, large = np.array([[0.6, 0.8]]), np.array([[1.2, 1.6]])
    then = np.array([[0.1, 0.0]])

    def run(first, clip):
        return updates(
            optimizer(0.1, clip_norm=clip),
            jnp.ones((1, 2)),
            [jnp.asarray(first, jnp.float32), jnp.asarray(then, jnp.float32)],
        )

    np.testing.assert_allclose(run(large, 1.0), run(small, None), rtol=1e-6)
    assert np.abs(run(large, None)[1] - run(small, None)[1]).max() > 1e-3


def test_adafactor_by_hand():
    """Not factored below 128 columns: the second moment decays with 1 - t^-0.8, the update is clipped to a
    root mean square of 1 and scaled by that of the parameters."""
    rate, params, v = 0.05, START, np.zeros((2, 2))
    for t, (gradient, update) in enumerate(zip(GRADIENTS, given(optimizers.adafactor(rate)), strict=True), 1):
        decay = 1 - t**-0.8
        v = decay * v + (1 - decay) * (gradient**2 + 1e-30)
        step = gradient / np.sqrt(v)
        step = step / max(1.0, np.sqrt(np.mean(step**2)))
        size = max(1e-3, np.sqrt(np.mean(params**2)))
        np.testing.assert_allclose(update, -rate * size * step, rtol=1e-5, atol=1e-8)
        params = params + update


def test_adafactor_keeps_rows_and_columns_instead_of_a_matrix():
    state = optimizers.adafactor(0.1).init(jnp.zeros((128, 256)))
    sizes = sorted(leaf.size for leaf in map(jnp.asarray, jax.tree.leaves(state)))
    assert sizes[-1] == 256


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"learning_rate": 0.0}, "LEARNING_RATE=0.0: must be positive"),
        ({"learning_rate": float("nan")}, "LEARNING_RATE=nan: must be at least 0"),
        ({"learning_rate": "fast"}, "LEARNING_RATE='fast': must be a number"),
        ({"warmup_steps": 0.1}, "warmup_steps=0.1: must be a whole number"),
        ({"hold_until": True}, "hold_until=True: must be a whole number"),
        ({"final_fraction": None}, "final_fraction=None: must be a number"),
        ({"final_fraction": -1}, "final_fraction=-1: must be at least 0"),
    ],
)
def test_a_schedule_of_no_numbers_or_without_a_rate_is_refused(change, says):
    possible = {"learning_rate": 1, "warmup_steps": 0, "hold_until": 0, "final_fraction": 0.1}
    optimizers.warmup_cosine(total_steps=10, **possible)
    with pytest.raises(UsageError, match=f"^{says}$"):
        optimizers.warmup_cosine(total_steps=10, **possible | change)


@pytest.mark.parametrize("optimizer", [optimizers.adamw, optimizers.adafactor, optimizers.muon])
@pytest.mark.parametrize("rate", [0, "fast", float("nan"), True])
def test_a_constant_rate_is_held_to_the_same(optimizer, rate):
    with pytest.raises(UsageError, match=r"^LEARNING_RATE="):
        optimizer(rate)


def test_muon_makes_all_directions_of_a_projection_alike_and_leaves_the_rest_to_adamw():
    """An update is near the nearest semi-orthogonal matrix, of the size of AdamW's; layers by themselves."""
    rng, rate = np.random.default_rng(0), 0.01
    gradient = rng.normal(size=(3, 8, 16)) @ np.diag(0.85 ** np.arange(16.0))
    embedding = np.outer(rng.normal(size=8), rng.normal(size=16))  # of one direction

    def updated(gradients):
        given = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), gradients)
        optimizer = optimizers.muon(rate, clip_norm=None)
        return optimizer.update(given, optimizer.init(given), given)[0]

    stacked = updated(
        {"mlp": {"kernel": gradient}, "embedding": embedding, "logits_dense": {"kernel": embedding}}
    )
    for layer, update in zip(gradient, np.asarray(stacked["mlp"]["kernel"]), strict=True):
        left, _, right = np.linalg.svd(layer, full_matrices=False)
        along = -np.diag(left.T @ update @ right.T) / (rate * 0.2 * np.sqrt(16))
        assert along.min() > 0.4, along
        assert along.max() < 1.3, along
        alone = updated({"mlp": {"kernel": layer}})["mlp"]["kernel"]
        np.testing.assert_allclose(alone, update, rtol=1e-4, atol=1e-6)
    for by_adam in (stacked["embedding"], stacked["logits_dense"]["kernel"]):
        np.testing.assert_allclose(by_adam / -rate, 1.473684 * np.sign(embedding), rtol=1e-3)
