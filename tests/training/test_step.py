"""The jitted step: sums over micro-batches, keys from the step, and nothing lost in an evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from distillspec_jax import metrics as metrics_lib
from distillspec_jax.errors import UsageError
from distillspec_jax.metrics import Mean
from distillspec_jax.partitioning import make_partitioner
from distillspec_jax.training.step import create_state, evaluate, make_train_step, row_tokens
from tests.training import toy


def quiet_loss(params, batch, key):
    """The toy without its noise, which differs between one batch and its parts."""
    return toy.toy_loss(params, batch, key, noise=0.0)


def one_step(loss=quiet_loss, microbatches=1, seed=0, step=0, batch=None, matmul_precision=None, frozen=()):
    partitioner = make_partitioner()
    params = jax.tree.map(lambda p: p + 0.1 * jnp.arange(p.size).reshape(p.shape), toy.fresh_params())
    optimizer = optax.sgd(1.0, momentum=0.9)
    shardings = toy.replicated(params, partitioner)
    state, shardings = create_state(params, shardings, optimizer, partitioner, frozen)
    state = state.replace(step=state.step + step)
    train_step = make_train_step(
        optimizer, partitioner, shardings, seed, microbatches, matmul_precision, frozen
    )
    batch = toy.batch_at(3) if batch is None else batch
    state, metrics = train_step(state, batch, jax.tree_util.Partial(loss))
    return state, metrics_lib.to_host(metrics)


def test_accumulation_equals_the_whole_batch_though_the_parts_weigh_differently():
    weights = toy.batch_at(3)["decoder_loss_weights"].sum(1)
    assert weights[:2].sum() != weights[2:].sum()  # a mean of means would differ
    whole, whole_metrics = one_step()
    for microbatches in (2, 4):
        parts, metrics = one_step(microbatches=microbatches)
        np.testing.assert_allclose(parts.params["table"], whole.params["table"], rtol=1e-5, atol=1e-6)
        assert metrics["loss"].count == whole_metrics["loss"].count == weights.sum()
        assert metrics["loss"].total == pytest.approx(whole_metrics["loss"].total, rel=1e-5)
        assert metrics["row_tokens"] == whole_metrics["row_tokens"]


def test_the_gradient_is_that_of_the_weighted_mean():
    batch = toy.batch_at(3)

    def mean(params):
        loss_sum, weight_sum, _ = quiet_loss(params, batch, jax.random.key(0))
        return loss_sum / weight_sum

    before = jax.tree.map(lambda p: p + 0.1 * jnp.arange(p.size).reshape(p.shape), toy.fresh_params())
    gradient = jax.jit(jax.grad(mean))(before)
    state, metrics = one_step()
    np.testing.assert_allclose(before["table"] - state.params["table"], gradient["table"], atol=1e-6)
    assert metrics["gradient_norm"].compute() == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-5)
    assert int(state.step) == 1


def test_the_loss_and_its_gradient_have_the_precision_that_was_asked_for():
    seen = []

    def loss(params, batch, key):
        seen.append(jax.config.jax_default_matmul_precision)
        return quiet_loss(params, batch, key)

    one_step(loss, matmul_precision="BF16_BF16_F32")
    assert set(seen) == {"BF16_BF16_F32"}
    assert jax.config.jax_default_matmul_precision is None


def test_what_is_frozen_stays_and_has_no_moments_and_the_rest_learns_as_ever():
    whole, _ = one_step(microbatches=2)
    part, metrics = one_step(microbatches=2, frozen=("table",))
    before = 0.1 * jnp.arange(whole.params["table"].size).reshape(whole.params["table"].shape)
    np.testing.assert_array_equal(part.params["table"], before)
    np.testing.assert_array_equal(part.params["bias"], whole.params["bias"])
    moved = np.abs(part.params["bias"] - 0.1 * jnp.arange(toy.VOCAB))
    assert metrics["gradient_norm"].compute() == pytest.approx(np.linalg.norm(moved), rel=1e-5)
    assert len(jax.tree.leaves(part.optimizer)) == 1


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        (("tabel",), "FROZEN: the network has no parameters 'tabel': did you mean 'table'"),
        (("table", "bias"), "nothing is left to train"),
    ],
)
def test_what_cannot_be_frozen_is_refused(frozen, message):
    with pytest.raises(UsageError, match=message):
        one_step(frozen=frozen)


def test_a_batch_without_any_weight_changes_nothing():
    batch = toy.batch_at(3)
    empty = {**batch, "decoder_loss_weights": np.zeros_like(batch["decoder_loss_weights"])}
    state, _ = one_step(batch=empty)
    before = jax.tree.map(lambda p: p + 0.1 * jnp.arange(p.size).reshape(p.shape), toy.fresh_params())
    toy.assert_equal(before, state.params)


def test_the_key_follows_from_seed_and_step():
    def losses(**settings):
        return one_step(loss=toy.toy_loss, **settings)[1]["loss"].total

    assert losses() == losses()
    assert len({losses(), losses(step=1), losses(seed=1), losses(seed=1, step=1)}) == 4


def test_parts_of_a_batch_draw_independently():
    def draws(params, batch, key):
        loss_sum, weight_sum, metrics = quiet_loss(params, batch, key)
        square = jax.random.normal(key) * jnp.asarray([1.0])
        return (
            loss_sum,
            weight_sum,
            metrics | {"draw": Mean(square.sum(), 1.0), "squares": Mean.of(square**2)},
        )

    _, metrics = one_step(loss=draws, microbatches=2)
    # x + x would give (2 x)^2 = 2 * (x^2 + x^2).
    assert metrics["draw"].total ** 2 != pytest.approx(2 * metrics["squares"].total, rel=1e-3)


def test_an_evaluation_pools_partial_batches():
    """The mean over all tokens, not of the batches' means; a filled-up batch adds nothing."""
    batches = [toy.batch_at(3), toy.batch_at(4)]
    batches[1] = {name: np.concatenate([x[:1], 0 * x[1:]]) for name, x in batches[1].items()}
    found = evaluate(jax.tree_util.Partial(quiet_loss), toy.fresh_params(), batches)
    tokens = sum(batch["decoder_loss_weights"].sum() for batch in batches)
    rows = sum(int((batch["decoder_loss_weights"].sum(1) > 0).sum()) for batch in batches)
    assert rows == toy.ROWS + 1
    assert found["loss"].count == found["row_tokens"].total == tokens
    assert found["row_tokens"].count == rows
    assert found["loss"].compute() == pytest.approx(np.log(toy.VOCAB), rel=1e-6)  # uniform at zero parameters


def test_row_tokens_by_hand():
    mean = row_tokens(jnp.asarray([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    assert (float(mean.total), float(mean.count)) == (3.0, 2.0)
