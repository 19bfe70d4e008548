"""Weights of tokens by what the networks say of them, against windows and selections written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax import metrics as metrics_lib
from distillspec_jax.distillation import chunks
from distillspec_jax.distillation.block_efficiency import BlockEfficiency
from distillspec_jax.distillation.divergences import ForwardKL, HardLabels, TotalVariation, WeightedSum
from distillspec_jax.distillation.formulas import expected_accepted
from distillspec_jax.distillation.loss import by_sequence, by_token, make_distillation_loss
from distillspec_jax.distillation.sources import Fixed
from distillspec_jax.distillation.stored_logprobs import make_stored_logprobs_loss, merged
from distillspec_jax.distillation.survival import Survival
from distillspec_jax.distillation.token_selection import TokenSelection
from distillspec_jax.distillation.weighting import Frozen, Logits
from distillspec_jax.errors import UsageError
from distillspec_jax.vocabulary import T5_IDS
from tests.distillation.bigram import Bigram, prompts, table

V, WIDTH = 6, 5
NETWORK = Bigram(V)
TARGET, DRAFT, REFERENCE = table(1, V), table(2, V), table(3, V)
LENGTHS = [5, 1, 3, 0]


def ragged():
    tokens = np.random.default_rng(0).integers(1, V, (len(LENGTHS), WIDTH)).astype(np.int32)
    own = np.arange(WIDTH)[None] < np.array(LENGTHS)[:, None]
    return prompts(len(LENGTHS), WIDTH) | {
        "decoder_target_tokens": tokens,
        "decoder_input_tokens": np.pad(tokens, ((0, 0), (1, 0)))[:, :-1],
        "decoder_loss_weights": own.astype(np.float32),
    }


BATCH = ragged()
MASK = np.float64(BATCH["decoder_loss_weights"])


def distribution(logits):
    weight = np.exp(np.float64(logits))
    return weight / weight.sum(-1, keepdims=True)


def of_tokens(divergence, draft):
    """A divergence of the batch's tokens, `[B, T]`, in float64."""
    p, q = (distribution(x)[BATCH["decoder_input_tokens"]] for x in (TARGET["table"], draft))
    return divergence(p, q)


def kl(p, q):
    return np.sum(p * np.log(p / q), -1)


def overlap(p, q):
    return np.minimum(p, q).sum(-1)


def accepted(alpha_BT, block_size):
    """The sum over a block's drafts of the probability that all up to it are accepted, from every token."""
    found = np.zeros_like(alpha_BT)
    for b, length in enumerate(LENGTHS):
        for start in range(length):
            for end in range(start + 1, min(start + block_size, length) + 1):
                found[b, start] += np.prod(alpha_BT[b, start:end])
    return found


def value_and_gradient(weighting, divergence, normalization="sequence", reference=None):
    loss = make_distillation_loss(
        NETWORK,
        NETWORK,
        TARGET,
        divergence,
        Fixed(),
        vocabulary=T5_IDS,
        normalization=normalization,
        weighting=weighting,
        reference=reference,
    )

    def total(params):
        loss_sum, weight_sum, metrics = loss(params, BATCH, jax.random.key(0))
        return loss_sum, (weight_sum, metrics)

    (value, (count, metrics)), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(DRAFT)
    return float(value), float(count), metrics_lib.to_host(metrics), gradient["table"]


# --- expected block efficiency ---


@pytest.mark.parametrize("block_size", [1, 2, 3, 9])
def test_expected_accepted_drafts_are_sums_of_products(block_size):
    alpha = np.random.default_rng(0).uniform(0.2, 1.0, MASK.shape)
    found = expected_accepted(jnp.asarray(alpha, jnp.float32), jnp.asarray(MASK, jnp.float32), block_size)
    np.testing.assert_allclose(found, accepted(alpha, block_size), rtol=1e-6)


def test_with_constant_acceptance_it_is_the_papers_closed_form():
    """(1 - alpha^(gamma + 1)) / (1 - alpha), where the block fits into the sequence."""
    found = 1 + expected_accepted(jnp.full((1, 12), 0.8), jnp.ones((1, 12)), 4)
    np.testing.assert_allclose(found[0, :9], (1 - 0.8**5) / (1 - 0.8), rtol=1e-6)


def test_the_gradient_is_that_of_expected_block_efficiency():
    """Finite differences in float64 of the mean over sequences of their tokens' mean."""

    def objective(logits):
        per_block = accepted(of_tokens(overlap, logits), 3)
        return -sum(per_block[b, :n].mean() for b, n in enumerate(LENGTHS) if n)

    at, step = np.float64(DRAFT["table"]), 1e-6
    expected = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        moved = np.zeros_like(at)
        moved[place] = step
        expected[place] = (objective(at + moved) - objective(at - moved)) / (2 * step)
    _, count, metrics, gradient = value_and_gradient(BlockEfficiency(3), TotalVariation())
    assert count == 3
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert np.abs(expected).max() > 0.1
    measured = metrics["block_efficiency_on_batch"].compute()
    assert measured == pytest.approx(1 + (accepted(of_tokens(overlap, at), 3) * MASK).sum() / MASK.sum())


def test_another_divergence_is_weighed_by_reach_and_worth(monkeypatch):
    """Each block's chance to come to the token, times 1 and the drafts that it expects behind it."""
    alpha, gamma = of_tokens(overlap, DRAFT["table"]), 3
    expected = 0.0
    for b, length in enumerate(LENGTHS):
        for token in range(length):
            weight = 0.0
            for start in range(max(token - gamma + 1, 0), token + 1):
                left = gamma - (token - start) - 1
                behind = accepted(alpha, left)[b, token + 1] if left and token + 1 < length else 0.0
                weight += np.prod(alpha[b, start:token]) * (1 + behind)
            expected += weight / length * of_tokens(kl, DRAFT["table"])[b, token]
    assert value_and_gradient(BlockEfficiency(gamma), ForwardKL())[0] == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(chunks, "LOGITS", 8 * V)  # two tokens of each row at a time
    assert value_and_gradient(BlockEfficiency(gamma), ForwardKL())[0] == pytest.approx(expected, rel=1e-5)


def test_acceptance_is_that_of_the_distributions_that_the_loss_compares():
    logits = Logits(*(jnp.asarray(x["table"])[BATCH["decoder_input_tokens"]] for x in (TARGET, DRAFT)))
    p, q = (distribution(np.float64(x) / 0.5) for x in logits[:2])
    halved = WeightedSum((ForwardKL(temperature=0.5), HardLabels()), (1.0, 0.1))
    for divergence in (ForwardKL(temperature=0.5), halved):
        found = BlockEfficiency().score(divergence, logits, BATCH["decoder_loss_weights"], None)
        np.testing.assert_allclose(found, np.where(MASK > 0, overlap(p, q), 1.0), rtol=1e-5)


def test_blocks_of_one_draft_weigh_all_tokens_alike():
    one, plain = (value_and_gradient(w, ForwardKL()) for w in (BlockEfficiency(1), None))
    assert one[:2] == plain[:2]
    np.testing.assert_array_equal(one[3], plain[3])


# --- survival up to a token ---


def test_survival_is_the_product_of_acceptances_of_all_tokens_before():
    tokens, before = BATCH["decoder_target_tokens"], BATCH["decoder_input_tokens"]
    p, q = (distribution(x["table"])[before, tokens] for x in (TARGET, DRAFT))
    accepted_BT = np.minimum(1.0, p / q)
    survival = np.stack([np.prod(accepted_BT[:, :t], axis=1) for t in range(WIDTH)], axis=1)
    per_token = survival * of_tokens(kl, DRAFT["table"])
    expected = sum(per_token[b, :n].mean() for b, n in enumerate(LENGTHS) if n)
    value, count, metrics, _ = value_and_gradient(Survival(), ForwardKL())
    assert (value, count) == (pytest.approx(expected, rel=1e-5), 3)
    assert metrics["survival_on_batch"].compute() == pytest.approx((survival * MASK).sum() / MASK.sum())
    assert 0.1 < survival[0, -1] / survival[0, 1] < 0.9


def test_behind_a_token_that_the_target_never_says_nothing_is_tested():
    score = jnp.asarray([[-0.5, -jnp.inf, -0.5, 0.0]])
    weight, *_ = Survival().weigh(score, jnp.ones((1, 4)), by_token)
    np.testing.assert_allclose(weight, [[1.0, np.exp(-0.5), 0.0, 0.0]], rtol=1e-6)


# --- the selection of tokens ---


def chosen(share):
    gap = np.where(MASK > 0, of_tokens(kl, DRAFT["table"]) - of_tokens(kl, REFERENCE["table"]), -np.inf)
    kept = np.zeros(MASK.size, bool)
    kept[np.argsort(-gap.reshape(-1), kind="stable")[: int(np.ceil(share * MASK.sum()))]] = True
    return kept.reshape(MASK.shape)


@pytest.mark.parametrize("share", [0.4, 0.5])
def test_the_loss_is_the_mean_over_the_tokens_furthest_above_the_reference(share):
    reference = Frozen(NETWORK, REFERENCE)
    value, count, _, gradient = value_and_gradient(
        TokenSelection("r", share), ForwardKL(), "token", reference
    )
    kept = chosen(share)
    assert count == kept.sum() == {0.4: 4, 0.5: 5}[share]  # of 9
    assert value == pytest.approx(of_tokens(kl, DRAFT["table"])[kept].sum(), rel=1e-5)
    p, q = (distribution(x["table"]) for x in (TARGET, DRAFT))
    expected = np.zeros((V, V))
    for token in BATCH["decoder_input_tokens"][kept]:
        expected[token] += q[token] - p[token]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_each_sequence_by_its_own_kept_tokens_where_that_is_asked():
    kept, per_token = chosen(0.5), of_tokens(kl, DRAFT["table"])
    means = [row[keep].mean() for row, keep in zip(per_token, kept, strict=True) if keep.any()]
    weighting, reference = TokenSelection("r", 0.5), Frozen(NETWORK, REFERENCE)
    value, count, *_ = value_and_gradient(weighting, ForwardKL(), reference=reference)
    assert (value, count) == (pytest.approx(sum(means), rel=1e-5), len(means))


def test_a_share_is_of_real_tokens_and_of_equal_ones_the_first_are_kept():
    mask = jnp.asarray([[1.0] * 6 + [0.0] * 2, [1.0] * 4 + [0.0] * 4])

    def kept(score, share):
        weight, count, _ = TokenSelection("r", share).weigh(jnp.asarray(score), mask, by_token)
        assert float(count) == float(weight.sum())
        return np.flatnonzero(weight).tolist()

    assert kept(np.zeros((2, 8), np.float32), 0.7) == [0, 1, 2, 3, 4, 5, 8]  # 7 of 10, and not 8
    assert kept(np.zeros((2, 8), np.float32), 1e-6) == [0]
    junk = np.where(mask > 0, -5.0, 9.0).astype(np.float32)  # padding never, however large
    junk[0, :4] = np.nan
    assert kept(junk, 0.5) == [4, 5, 8, 9, 10]
    weight, count, _ = TokenSelection("r", 1.0).weigh(jnp.asarray(junk), mask, by_sequence)
    np.testing.assert_array_equal(weight, by_sequence(mask)[0])
    assert float(count) == 2


def test_the_reference_is_an_argument_and_learns_nothing():
    loss = make_distillation_loss(
        NETWORK,
        NETWORK,
        TARGET,
        ForwardKL(),
        Fixed(),
        vocabulary=T5_IDS,
        weighting=TokenSelection("r"),
        reference=Frozen(NETWORK, REFERENCE),
    )
    assert len(jax.tree.leaves(loss)) == 2

    def total(loss):
        return loss(DRAFT, BATCH, jax.random.key(0))[0]

    for leaf in jax.tree.leaves(jax.jit(jax.grad(total))(loss)):
        np.testing.assert_array_equal(leaf, np.zeros((V, V)))


@pytest.mark.parametrize("weighting", [BlockEfficiency(3), TokenSelection("r", 0.5)])
def test_stored_distributions_of_every_id_give_the_same(weighting):
    """k = V - 1 ids and the rest are the whole distribution."""
    ids = np.broadcast_to(np.arange(V - 1, dtype=np.int32), (*MASK.shape, V - 1))
    log_p = merged(TARGET["table"][BATCH["decoder_input_tokens"]], jnp.asarray(ids))
    stored = BATCH | {"top_ids": ids, "top_logprobs": log_p[..., :-1], "tail_logprob": log_p[..., -1]}
    reference = Frozen(NETWORK, REFERENCE) if weighting.reference else None
    loss = make_stored_logprobs_loss(
        NETWORK,
        ForwardKL(),
        vocabulary=T5_IDS,
        normalization="token",
        weighting=weighting,
        reference=reference,
    )
    value, count, _ = jax.jit(lambda p: loss(p, stored, jax.random.key(0)))(DRAFT)
    live = value_and_gradient(weighting, ForwardKL(), "token", reference)
    assert (float(value), float(count)) == (pytest.approx(live[0], rel=1e-5), live[1])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TokenSelection("r", 0), "TokenSelection.share=0: must be above 0, at most 1"),
        (lambda: TokenSelection("r", 1.5), "TokenSelection.share=1.5: must be at most 1"),
        (lambda: TokenSelection("r", float("nan")), "TokenSelection.share=nan: must be at least 0"),
        (lambda: TokenSelection(3), "TokenSelection.reference=3: must name the checkpoint of a distilled"),
        (lambda: BlockEfficiency(0), "BlockEfficiency.block_size=0: must be at least 1"),
        (lambda: BlockEfficiency(2.5), "BlockEfficiency.block_size=2.5: must be a whole number"),
        (lambda: BlockEfficiency(1000), "BlockEfficiency.block_size=1000: must be at most 128"),
    ],
)
def test_impossible_settings_are_refused_when_they_are_made(make, says):
    with pytest.raises(UsageError, match=says):
        make()
