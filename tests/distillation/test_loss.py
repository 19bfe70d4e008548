"""The distillation loss: whose sequences, each by its own length, and what it reports beside."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax import metrics as metrics_lib
from distillspec_jax.distillation.divergences import (
    ForwardKL,
    HardLabels,
    ReverseKL,
    TotalVariation,
    WeightedSum,
)
from distillspec_jax.distillation.loss import by_sequence, by_token, make_distillation_loss
from distillspec_jax.distillation.sources import Fixed, OnPolicy
from distillspec_jax.errors import UsageError
from distillspec_jax.vocabulary import T5_IDS, Vocabulary
from tests.distillation.bigram import Bigram, prompts, table

V = 6
NETWORK = Bigram(V)
TARGET, DRAFT = table(1, V), table(2, V)


def ragged(lengths, width=4):
    """Sequences of those lengths; what they hold is drawn, their padding is not 0 on purpose."""
    tokens = np.random.default_rng(0).integers(1, V, (len(lengths), width)).astype(np.int32)
    return prompts(len(lengths), width) | {
        "decoder_target_tokens": tokens,
        "decoder_input_tokens": np.pad(tokens, ((0, 0), (1, 0)))[:, :-1],
        "decoder_loss_weights": (np.arange(width)[None] < np.asarray(lengths)[:, None]).astype(np.float32),
    }


def token_losses(batch):
    """KL(P || Q) of every token, in float64."""
    log_p, log_q = (
        x - np.log(np.exp(x).sum(-1, keepdims=True))
        for x in (np.asarray(p["table"], np.float64)[batch["decoder_input_tokens"]] for p in (TARGET, DRAFT))
    )
    return (np.exp(log_p) * (log_p - log_q)).sum(-1), np.exp(np.minimum(log_p, log_q)).sum(-1)


def distribution(params):
    weight = np.exp(np.asarray(params["table"], np.float64))
    return weight / weight.sum(-1, keepdims=True)


def evaluated(batch, source=Fixed(), divergence=ForwardKL(), key=0, **settings):  # noqa: B008 (frozen values)
    loss = make_distillation_loss(NETWORK, NETWORK, TARGET, divergence, source, vocabulary=T5_IDS, **settings)
    loss_sum, weight_sum, metrics = jax.jit(lambda f, p, b: f(p, b, jax.random.key(key)))(loss, DRAFT, batch)
    return float(loss_sum), float(weight_sum), metrics_lib.to_host(metrics)


def test_sequences_count_alike_whatever_their_length():
    mask = jnp.asarray([[1.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    weight, count = by_sequence(mask)
    np.testing.assert_array_equal(weight, [[0.5, 0.5, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    assert float(count) == 2.0
    weight, count = by_token(mask)
    np.testing.assert_array_equal(weight, mask)
    assert float(count) == 3.0


def test_the_loss_is_the_mean_over_sequences_of_their_means():
    lengths = [4, 1, 2, 0]
    batch = ragged(lengths)
    per_token, overlap = token_losses(batch)
    loss_sum, weight_sum, metrics = evaluated(batch)
    means = [row[:length].mean() for row, length in zip(per_token, lengths, strict=True) if length]
    assert weight_sum == 3.0
    assert loss_sum == pytest.approx(sum(means), rel=1e-5)
    pooled = sum(row[:length].sum() for row, length in zip(per_token, lengths, strict=True))
    assert abs(loss_sum / weight_sum - pooled / sum(lengths)) > 0.01  # another loss, which can be asked for
    assert evaluated(batch, normalization="token")[:2] == (pytest.approx(pooled, rel=1e-5), sum(lengths))
    real = batch["decoder_loss_weights"] > 0
    assert metrics["acceptance_on_batch"].total == pytest.approx(overlap[real].sum(), rel=1e-5)
    assert metrics["acceptance_on_batch"].count == metrics["row_tokens"].total == sum(lengths)
    assert metrics["row_tokens"].count == 3.0


def test_what_padding_holds_does_not_matter():
    batch = ragged([4, 1, 2, 0])
    weights = batch["decoder_loss_weights"]
    shown = np.pad(weights, ((0, 0), (1, 0)), constant_values=1)[:, :-1] > 0  # inputs that a real token sees
    other = batch | {
        "decoder_input_tokens": np.where(shown, batch["decoder_input_tokens"], 2),
        "decoder_target_tokens": np.where(weights > 0, batch["decoder_target_tokens"], 2),
    }
    assert evaluated(other)[:2] == evaluated(batch)[:2]


def test_the_divergence_is_the_one_that_was_asked_for():
    batch = ragged([4, 3])
    values = [evaluated(batch, divergence=d)[0] for d in (ForwardKL(), ReverseKL(), TotalVariation())]
    assert len({round(value, 4) for value in values}) == 3
    _, _, metrics = evaluated(ragged([1, 1]), divergence=TotalVariation())
    loss_sum, weight_sum, _ = evaluated(ragged([1, 1]), divergence=TotalVariation())
    assert loss_sum / weight_sum == pytest.approx(1 - metrics["acceptance_on_batch"].compute(), rel=1e-5)


def test_an_unknown_normalization_is_refused():
    with pytest.raises(UsageError, match="unknown normalization 'tokens': did you mean 'token'"):
        evaluated(ragged([1]), normalization="tokens")


def test_hard_labels_are_the_sequences_own_tokens():
    """Of samples: the source's tokens and not the batch's (9, which no table has)."""
    batch = ragged([4, 1, 2, 0])
    log_q = np.log(distribution(DRAFT))[batch["decoder_input_tokens"], batch["decoder_target_tokens"]]
    real = batch["decoder_loss_weights"] > 0
    expected = sum(-row[keep].mean() for row, keep in zip(log_q, real, strict=True) if keep.any())
    assert evaluated(batch, divergence=HardLabels())[0] == pytest.approx(expected, rel=1e-5)
    sampled = evaluated(prompts(200, 4), OnPolicy(), HardLabels())
    entropy = -(distribution(DRAFT)[0, 1:] * np.log(distribution(DRAFT)[0, 1:])).sum()
    assert 0.3 * entropy < sampled[0] / sampled[1] < 3 * entropy


def test_padded_rows_of_the_embedding_are_in_no_distribution():
    batch = ragged([4, 3])
    wide = {"table": np.pad(np.asarray(DRAFT["table"]), ((0, 0), (0, 2)), constant_values=3.0)}
    loss = make_distillation_loss(
        Bigram(V + 2),
        Bigram(V + 2),
        {"table": np.pad(np.asarray(TARGET["table"]), ((0, 0), (0, 2)), constant_values=1.0)},
        ForwardKL(),
        Fixed(),
        vocabulary=Vocabulary(V, (1,), (0,)),
    )
    found = jax.jit(lambda f, p, b: f(p, b, jax.random.key(0))[0])(loss, wide, batch)
    assert float(found) == pytest.approx(evaluated(batch)[0], rel=1e-5)


@pytest.mark.parametrize("whole", [TotalVariation(top_k=2), WeightedSum((TotalVariation(top_k=2),), (1.0,))])
def test_truncated_distributions_leave_out_the_vocabularys_own_padding(whole):
    """P = (0.97, 0.02, 0.01) and Q = (0.01, 0.66, 0.33): where the id 0 is a word they share 2/99."""
    p, q = (
        {"table": np.log([distribution] * 3)} for distribution in ([0.97, 0.02, 0.01], [0.01, 0.66, 0.33])
    )

    def found(padding_ids):
        vocabulary = Vocabulary(None, (1,), padding_ids)
        loss = make_distillation_loss(Bigram(3), Bigram(3), p, whole, Fixed(), vocabulary=vocabulary)
        return float(loss(q, prompts(1, 1), jax.random.key(0))[0])

    assert found(()) == pytest.approx(1 - 2 / 99, rel=1e-5)
    assert found((0,)) == pytest.approx(0, abs=1e-6)


def gradient(loss, params, batch, key=0):
    return jax.jit(jax.grad(lambda p: loss(p, batch, jax.random.key(key))[0]))(params)["table"]


def test_on_policy_the_gradient_is_that_of_fixed_data_with_the_same_tokens():
    """Nothing flows through the sampling: neither through the tokens nor through their number."""
    batch = prompts(3, 5)
    on_policy = make_distillation_loss(NETWORK, NETWORK, TARGET, ForwardKL(), OnPolicy(), vocabulary=T5_IDS)
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Spy:
        def __call__(self, networks, batch, key):
            found = OnPolicy()(networks, batch, key)
            jax.debug.callback(lambda b: seen.append(b), found)
            return found

    spying = make_distillation_loss(NETWORK, NETWORK, TARGET, ForwardKL(), Spy(), vocabulary=T5_IDS)
    found = gradient(spying, DRAFT, batch)
    jax.effects_barrier()
    np.testing.assert_array_equal(found, gradient(on_policy, DRAFT, batch))
    fixed = make_distillation_loss(NETWORK, NETWORK, TARGET, ForwardKL(), Fixed(), vocabulary=T5_IDS)
    np.testing.assert_allclose(found, gradient(fixed, DRAFT, seen[0]), rtol=1e-5, atol=1e-7)
    assert np.abs(found).max() > 0.01


def test_nothing_flows_into_the_target_even_where_it_is_the_draft():
    """Against itself, forward KL is at its minimum: a gradient through the target would not be 0 for TVD."""
    batch = ragged([4, 3])

    def of_target(target):
        loss = make_distillation_loss(NETWORK, NETWORK, target, TotalVariation(), Fixed(), vocabulary=T5_IDS)
        return loss(DRAFT, batch, jax.random.key(0))[0]

    np.testing.assert_array_equal(jax.jit(jax.grad(of_target))(TARGET)["table"], np.zeros((V, V)))


def test_the_target_is_an_argument_and_no_constant():
    """A program that held the target would compile again for another one."""
    compiled = jax.jit(lambda f, p, b: f(p, b, jax.random.key(0))[0])
    batch = ragged([4, 3])
    losses = [
        make_distillation_loss(NETWORK, NETWORK, t, ForwardKL(), Fixed(), vocabulary=T5_IDS)
        for t in (TARGET, DRAFT)
    ]
    assert len(jax.tree.leaves(losses[0])) == len(jax.tree.leaves(TARGET))
    assert float(compiled(losses[0], DRAFT, batch)) > 0.1
    assert float(compiled(losses[1], DRAFT, batch)) == pytest.approx(0.0, abs=1e-6)


class Probe(Bigram):
    """Adds what it draws with the key that it is given."""

    def hidden(self, params, batch, *, dropout_key=None):
        drawn = 0.0 if dropout_key is None else jax.random.uniform(dropout_key)
        return super().hidden(params, batch).at[..., 0].add(drawn)


def test_the_draft_alone_drops_out_and_only_when_told():
    batch = ragged([4, 3])

    def value(dropout, key):
        loss = make_distillation_loss(
            Probe(V), Probe(V), TARGET, ForwardKL(), Fixed(), vocabulary=T5_IDS, dropout=dropout
        )
        return float(loss(DRAFT, batch, jax.random.key(key))[0])

    assert value(False, 0) == value(False, 1) == pytest.approx(evaluated(batch)[0], rel=1e-5)
    assert len({value(True, 0), value(True, 1), value(False, 0)}) == 3
