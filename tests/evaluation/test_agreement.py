"""Three numbers that must agree: on an honest pair they do, and each kind of lie is called by its name."""

import dataclasses

import numpy as np
import pytest

from distillspec_jax import model_card
from distillspec_jax.distillation.deployment import Deployment
from distillspec_jax.evaluation import agreement
from distillspec_jax.evaluation.agreement import AgreementError
from distillspec_jax.models import registry
from distillspec_jax.models.decoder_only import DecoderOnly
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.tokenization.tokenizer import embedded_tokenizer
from distillspec_jax.vocabulary import Vocabulary
from tests import pair, tiny

DISTRIBUTION = Deployment()
WIDTH = 12


def batch(seed, empty=()):
    prompts = tiny.ragged(seed, (8, 5, 7, 3, 6, 8, 4, 8), 8, vocab=pair.MODEL.vocab_size)
    prompts[list(empty)] = 0
    return {
        "encoder_input_tokens": prompts,
        "decoder_target_tokens": np.zeros((8, WIDTH), np.int32),
        "decoder_loss_weights": np.ones((8, WIDTH), np.float32),
    }


BATCHES = [batch(0), batch(1, empty=(6, 7))]


@pytest.mark.parametrize(
    "distribution",
    [
        pytest.param(DISTRIBUTION, marks=pytest.mark.slow),
        Deployment(0.0),
        Deployment(0.7, top_k=3, top_p=0.9),
    ],
)
def test_an_honest_pair_agrees_under_every_distribution(distribution):
    found = agreement.agreement(pair.target(), pair.draft(), distribution, BATCHES, block_size=3)
    assert found.distribution == distribution.name
    assert found.prompts == 14
    assert found.positions > 40
    assert found.recorded == pytest.approx(found.recomputed, abs=agreement.TOLERANCE)
    assert found.low <= found.accepted - found.recorded <= found.high
    assert found.ties == 0
    assert 0 < found.expected <= 1
    if distribution.temperature == 0:
        assert found.accepted == found.recorded


def test_a_draft_of_one_pass_is_checked_token_by_token():
    draft, settings = pair.draft(), Deployment(0.7, top_k=3, top_p=0.9)
    one_pass = dataclasses.replace(draft, card=dataclasses.replace(draft.card, mask_id=3))
    by_token, found = (
        agreement.agreement(pair.target(), one, settings, BATCHES, block_size=3) for one in (draft, one_pass)
    )
    assert found == by_token


@pytest.fixture(scope="module")
def sampled():
    """Rounds under T = 1."""
    return [
        agreement.sample_rounds(pair.target(), pair.draft(), DISTRIBUTION, b, 3, (0, i))
        for i, b in enumerate(BATCHES)
    ]


def recomputed(sampled, distribution=DISTRIBUTION, draft=None):
    models = pair.target().model, (draft or pair.draft()).model
    params = pair.target().params, (draft or pair.draft()).params
    found = [
        agreement.teacher_forced(
            models, params, distribution, Vocabulary(pair.MODEL.vocab_size, (1,), (0,)), b, rounds
        )
        for b, rounds in zip(BATCHES, sampled, strict=True)
    ]
    overlaps = [agreement.over_rounds(o, rounds) for (o, _), rounds in zip(found, sampled, strict=True)]
    return overlaps, [agreement.over_rounds(~f, r) == 0 for (_, f), r in zip(found, sampled, strict=True)]


def test_rounds_follow_each_other_and_a_bonus_is_not_tested(sampled):
    for rounds, given in zip(sampled, BATCHES, strict=True):
        length_B = (rounds.tokens_BT > 0).sum(1)
        assert (length_B[given["encoder_input_tokens"][:, 0] == 0] == 0).all()
        end_RB = rounds.start_RB + rounds.tested_RB
        assert (end_RB <= length_B[None]).all()
        assert (rounds.start_RB[1:] >= end_RB[:-1]).all()
        untested = length_B.sum() - rounds.tested_RB.sum()
        whole = ((rounds.accepted_RB == 3) & (end_RB < length_B[None])).sum()
        assert untested == whole > 0


def test_where_positions_end_texts_are_shorter_and_agree():
    """Prompts of 8, blocks of 3 and 20 positions leave 9 tokens of 12."""
    line = DecoderOnly(dataclasses.replace(tiny.GPT.config, max_positions=20))
    tokenizer = embedded_tokenizer().model_bytes
    card = model_card.ModelCard(*registry.describe(line))
    target, draft = (Pretrained("line", line, tiny.params(line, seed), card, tokenizer) for seed in (0, 1))
    given = {**BATCHES[0], "encoder_input_tokens": tiny.ragged(0, (8, 5, 7, 3, 6, 8, 4, 8), 8)}
    rounds = agreement.sample_rounds(target, draft, DISTRIBUTION, given, 3, (0, 0))
    assert rounds.tokens_BT.shape == (8, 9)
    found = agreement.agreement(target, draft, DISTRIBUTION, [given], block_size=3)
    assert found.recorded == pytest.approx(found.recomputed, abs=agreement.TOLERANCE)


@pytest.mark.parametrize(
    "lie",
    [
        {"distribution": Deployment(0.7)},  # the training code means another temperature
        {"draft": pair.target()},  # or another model
    ],
)
def test_overlaps_that_differ_are_named_both(sampled, lie):
    overlaps, firm = recomputed(sampled, **lie)
    with pytest.raises(AgreementError, match=r"the sampler recorded a sum .* teacher forcing recomputes"):
        agreement.compare(DISTRIBUTION, sampled, overlaps, firm, 0.5)


def test_one_position_off_by_a_thousandth_is_seen(sampled):
    overlaps, firm = recomputed(sampled)
    row = int(np.argmax(sampled[1].tested_RB[2] > 0))
    overlaps[1][2, row] += 1e-3 * sampled[1].tested_RB[2, row]
    with pytest.raises(AgreementError, match=rf"prompt {row} of batch 1, \d positions from \d+, under T1: "):
        agreement.compare(DISTRIBUTION, sampled, overlaps, firm, 0.5)


def test_another_accept_rate_than_the_distributions_is_named_with_both(sampled):
    overlaps, firm = recomputed(sampled)
    lying = [dataclasses.replace(rounds, accepted_RB=0 * rounds.accepted_RB) for rounds in sampled]
    with pytest.raises(AgreementError, match=r"0.0000 of \d+ tested drafts .* min\(p, q\) of 0\.\d{4}: "):
        agreement.compare(DISTRIBUTION, lying, overlaps, firm, 0.5)


def test_ties_excuse_one_round_in_a_hundred_and_no_more(sampled):
    overlaps, firm = recomputed(sampled)
    overlaps[0][0, 0] += 1.0
    firm[0][0, 0] = False
    assert agreement.compare(DISTRIBUTION, sampled, overlaps, firm, 0.5).ties == 1
    overlaps[0][0, 1] += 1.0
    firm[0][0, 1] = False
    with pytest.raises(AgreementError, match="differ in 2 of "):
        agreement.compare(DISTRIBUTION, sampled, overlaps, firm, 0.5)


def test_the_interval_holds_zero_as_often_as_it_says_and_sees_a_bias():
    """8 prompts of about 20 positions with acceptances of their own, 4,000 times: 0.4 alarms expected."""
    rng = np.random.default_rng(0)
    alarms = misses = 0
    for _ in range(4000):
        tested, overlap = rng.integers(10, 30, 8), rng.uniform(0.3, 0.9, 8)
        low, high = agreement.difference(rng.binomial(tested, overlap), tested * overlap, int(tested.sum()))
        alarms += low > 0 or high < 0
    assert alarms <= 4
    for _ in range(200):
        tested, overlap = rng.integers(100, 300, 30), rng.uniform(0.3, 0.8, 30)
        biased = rng.binomial(tested, overlap + 0.1)
        misses += agreement.difference(biased, tested * overlap, int(tested.sum()))[0] <= 0
    assert misses == 0
