"""Tails of masks: what the network sees of them, and the loss that is taken on them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax.decoding import ModelDrafter, OnePassDrafter, drafter_registry
from distillspec_jax.distillation.divergences import ForwardKL
from distillspec_jax.distillation.loss import make_distillation_loss
from distillspec_jax.distillation.one_pass import OnePass, of_targets
from distillspec_jax.distillation.sources import Fixed
from distillspec_jax.distillation.stored_logprobs import likeliest, make_stored_logprobs_loss
from distillspec_jax.errors import UsageError
from distillspec_jax.models import pretrained
from distillspec_jax.vocabulary import Vocabulary
from tests import tiny
from tests.distillation.bigram import Bigram, prompts, table

MASK, LENGTHS = 27, np.array([6, 3, 1])
ONE_PASS = OnePass(MASK, tokens=4, cuts=5)


def texts(inputs, width=6):
    """Ragged texts after ragged prompts."""
    targets = np.asarray(tiny.tokens(1, len(LENGTHS), width)) % (MASK - 2) + 2
    weights = (np.arange(width) < LENGTHS[:, None]).astype(np.float32)
    return inputs | {
        "decoder_target_tokens": targets,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_loss_weights": weights,
    }


@pytest.fixture(scope="module")
def batch():
    inputs = np.asarray(tiny.tokens(0, len(LENGTHS), 5)) % (MASK - 2) + 2
    inputs[1, 3:] = 0
    return texts({"encoder_input_tokens": inputs})


@pytest.mark.parametrize("name", ["t5_1_1", "gpt", "llama"])
def test_a_mask_sees_the_text_up_to_its_cut_and_the_masks_before_it(name, batch):
    """As a row does that ends in masks; and no token sees a mask."""
    model = tiny.WHOLE[name]
    params, network = tiny.params(model), jax.jit(model.logits)
    tailed, about_BX = ONE_PASS.with_tails(batch, jax.random.key(3))
    logits_BXV = np.asarray(network(params, tailed))
    plain_BTV = np.asarray(network(params, batch))
    width = batch["decoder_input_tokens"].shape[1]
    np.testing.assert_allclose(logits_BXV[:, :width], plain_BTV, atol=2e-5)
    tails, cuts, places = (np.asarray(tailed[f"decoder_{k}"]) for k in ("tails", "cuts", "positions"))
    seen = 0
    for row, length in enumerate(LENGTHS):
        masked = np.flatnonzero(tails[row] > 0)
        assert len(masked) == 15
        assert (cuts[row][masked] < length).all()
        assert not np.asarray(tailed["decoder_loss_weights"])[row][places[row] >= length].any()
        for x in masked:
            if (place := places[row, x]) >= width:
                continue
            tokens_T = batch["decoder_input_tokens"][row].copy()
            tokens_T[cuts[row, x] + 1 :] = MASK
            line = {k: v[row : row + 1] for k, v in batch.items()} | {"decoder_input_tokens": tokens_T[None]}
            np.testing.assert_allclose(logits_BXV[row, x], network(params, line)[0, place], atol=2e-5)
            assert about_BX[row, x] == place
            seen += 1
    assert seen > 20


V = 6
NETWORK, TARGET, DRAFT = Bigram(V), table(1, V), table(2, V)
OF_BIGRAMS = OnePass(mask_id=5, tokens=3, cuts=4)


@pytest.fixture(scope="module")
def bigrams():
    batch = texts(prompts(len(LENGTHS), 4))
    return batch | {k: batch[k] % 5 for k in ("decoder_target_tokens", "decoder_input_tokens")}


def evaluated(loss, batch):
    loss_sum, count, metrics = jax.jit(lambda f, p, b: f(p, b, jax.random.key(7)))(loss, DRAFT, batch)
    return float(loss_sum), float(count), {name: float(mean.total) for name, mean in metrics.items()}


def test_a_mask_is_taught_the_targets_distribution_given_the_whole_text(bigrams):
    """By hand: of bigrams, the target's row is the token before, the draft's the mask's."""
    loss = make_distillation_loss(
        NETWORK,
        NETWORK,
        TARGET,
        ForwardKL(),
        Fixed(),
        vocabulary=Vocabulary(V, (1,), (0,)),
        one_pass=OF_BIGRAMS,
    )
    loss_sum, count, metrics = evaluated(loss, bigrams)
    tailed, about_BX = OF_BIGRAMS.with_tails(bigrams, jax.random.split(jax.random.key(7), 3)[2])
    p, q = (np.exp(np.asarray(of["table"], np.float64)) for of in (TARGET, DRAFT))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    before_BX = np.take_along_axis(bigrams["decoder_input_tokens"], np.asarray(about_BX), axis=1)
    read_BX = np.asarray(tailed["decoder_input_tokens"])
    masked_BX = np.asarray(tailed["decoder_tails"]) > 0
    assert (read_BX[masked_BX] == 5).all()
    kl_BX = (p[before_BX] * np.log(p[before_BX] / q[read_BX])).sum(-1)
    weights_BX = np.asarray(tailed["decoder_loss_weights"])
    assert 0 < weights_BX[masked_BX].sum() < masked_BX.sum()
    means = (kl_BX * weights_BX).sum(1) / weights_BX.sum(1)
    assert (loss_sum, count) == (pytest.approx(means.sum(), rel=1e-5), len(LENGTHS))
    overlap_BX = np.minimum(p[before_BX], q[read_BX]).sum(-1)
    expected = (overlap_BX * weights_BX)[masked_BX].sum()
    assert metrics["acceptance_of_masks"] == pytest.approx(expected, rel=1e-5)
    expected = (overlap_BX * weights_BX)[~masked_BX].sum()
    assert metrics["acceptance_on_batch"] == pytest.approx(expected, rel=1e-5)


def test_stored_distributions_teach_masks_the_same(bigrams):
    vocabulary = Vocabulary(V, (1,), (0,))
    ids, log_p = likeliest(NETWORK, TARGET, bigrams, V - 1)
    stored = bigrams | {"top_ids": ids, "top_logprobs": log_p[..., :-1], "tail_logprob": log_p[..., -1]}
    live = make_distillation_loss(
        NETWORK, NETWORK, TARGET, ForwardKL(), Fixed(), vocabulary=vocabulary, one_pass=OF_BIGRAMS
    )
    from_disk = make_stored_logprobs_loss(NETWORK, ForwardKL(), vocabulary=vocabulary, one_pass=OF_BIGRAMS)
    assert evaluated(from_disk, stored)[:2] == pytest.approx(evaluated(live, bigrams)[:2], rel=1e-4)


def test_cuts_are_drawn_anew_and_evenly(bigrams):
    tailed, _ = dataclasses.replace(OF_BIGRAMS, cuts=600).with_tails(bigrams, jax.random.key(0))
    cuts_BX = np.asarray(tailed["decoder_cuts"])[:, 6::2]
    for cuts_X, length in zip(cuts_BX, LENGTHS, strict=True):
        counts = np.bincount(cuts_X, minlength=length)
        assert len(counts) == length
        assert abs(counts / 600 - 1 / length).max() < 0.08
    other, _ = dataclasses.replace(OF_BIGRAMS, cuts=600).with_tails(bigrams, jax.random.key(1))
    assert (np.asarray(other["decoder_cuts"]) != np.asarray(tailed["decoder_cuts"])).any()
    assert of_targets(jnp.arange(12).reshape(2, 6), jnp.array([[5, 0], [1, 1]])).tolist() == [[5, 0], [7, 7]]


@pytest.mark.parametrize(
    "one_pass, own, logits, said",
    [
        (OnePass(), None, 30, None),
        (OnePass(), 7, 28, None),
        (OnePass(), None, 28, "all 28 ids of the draft are of its vocabulary"),
        (OnePass(28), None, 28, "must be below the draft's 28 ids"),
        (OnePass(9), 7, 28, "the draft knows 7 as its mask"),
    ],
)
def test_the_mask_is_the_drafts_own_or_a_padded_row(one_pass, own, logits, said):
    if said is None:
        assert one_pass.resolved(own, 28, logits).mask_id == (28 if own is None else own)
    else:
        with pytest.raises(UsageError, match=said):
            one_pass.resolved(own, 28, logits)


def test_a_draft_whose_card_has_a_mask_drafts_in_one_pass():
    draft = pretrained.load("zoo:draft")
    card = dataclasses.replace(draft.card, mask_id=3)
    made, _ = drafter_registry.make_drafter([draft], vocab_size=4096, block_size=4)
    assert isinstance(made, ModelDrafter)
    made, params = drafter_registry.make_drafter(
        [dataclasses.replace(draft, card=card)], vocab_size=4096, candidates=2, block_size=4
    )
    assert isinstance(made, OnePassDrafter)
    assert params is draft.params
    assert (made.mask_id, made.block_size, made.candidates) == (3, 4, 2)
    masked = dataclasses.replace(draft, card=card)
    assert masked.cost_ratio(draft, 4) == draft.cost_ratio(draft, 4) / 4 == 0.25
