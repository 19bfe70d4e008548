"""Eq. 3's alpha against a computation by hand, on a pair of tables."""

import numpy as np
import pytest

from distillspec_jax.distillation import expected_acceptance
from distillspec_jax.errors import UsageError
from distillspec_jax.vocabulary import T5_IDS, Vocabulary
from tests.distillation.bigram import Bigram, chain, prompts, table

V, WIDTH = 6, 5
NETWORK = Bigram(V)


def distribution(params):
    logits = np.asarray(params["table"], np.float64)[:, 1:]  # padding is never drawn
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def exact_alpha(target, draft, width):
    """Sum over all prefixes of their probability times overlap, over the expected length."""
    p, q = distribution(target), distribution(draft)
    return exact_mean(np.minimum(p, q).sum(-1), p, width)


def exact_mean(value, written, width):
    """Pools a value of every prefix over the texts of a distribution.

    A bigram's prefix is its last token, so the occupation of each token is carried along; EOS (1) ends.
    """
    here, total, count = np.eye(V)[0], 0.0, 0.0
    for _ in range(width):
        total, count = total + here @ value, count + here.sum()
        here = np.concatenate([[0.0], here @ written])
        here[1] = 0.0
    return total / count


def evaluator(target, draft=NETWORK, rows=8, batches=1, **settings):
    given = [prompts(rows, WIDTH) for _ in range(batches)]
    return expected_acceptance.expected_acceptance(
        draft, NETWORK, target, given, 3, vocabulary=T5_IDS, **settings
    )


def test_alpha_pools_the_overlap_over_prefixes_that_the_target_draws():
    target, draft = table(0, V), table(1, V)
    found = evaluator(target, rows=2000)(draft)["acceptance_expected_T1"]
    assert found == pytest.approx(exact_alpha(target, draft, WIDTH), abs=0.01)
    # Prefixes of the draft would have given another number.
    p, q = distribution(target), distribution(draft)
    assert abs(exact_alpha(target, draft, WIDTH) - np.minimum(p, q).sum(-1).mean()) > 0.02


def test_on_the_drafts_own_texts_it_is_pooled_over_the_drafts_prefixes():
    """Entropies of both on both: in float64, over all prefixes."""
    target, draft = table(0, V), table(2, V)
    p, q = distribution(target), distribution(draft)
    entropies = {"target": -(p * np.log(p)).sum(-1), "draft": -(q * np.log(q)).sum(-1)}
    sampled = (expected_acceptance.SAMPLED,)
    found = evaluator(target, rows=2000, distributions=sampled, own_batches=[prompts(2000, WIDTH)])(draft)
    expected = {
        "acceptance_expected_T1": exact_alpha(target, draft, WIDTH),
        "acceptance_own_T1": exact_alpha(draft, target, WIDTH),
        **{f"{who}_entropy_T1": exact_mean(value, p, WIDTH) for who, value in entropies.items()},
        **{f"{who}_entropy_own_T1": exact_mean(value, q, WIDTH) for who, value in entropies.items()},
    }
    assert found == {name: pytest.approx(value, abs=0.015) for name, value in expected.items()}
    values = sorted(expected.values())
    assert min(np.diff(values)) > 0.03  # none is taken for another


def test_at_temperature_zero_it_is_agreement_of_the_argmax():
    # The target goes 0 -> 3 -> 4 -> 2 -> EOS; the draft agrees after 0, 4 and 2, not after 3.
    target = chain([3, 0, 1, 4, 2, 0], V)
    draft = chain([3, 0, 1, 5, 2, 0], V)
    assert evaluator(target)(draft)["acceptance_expected_T0"] == pytest.approx(3 / 4)


def test_a_pair_of_twins_is_always_accepted():
    target = table(0, V)
    assert evaluator(target)(target) == {
        "acceptance_expected_T0": pytest.approx(1.0),
        "acceptance_expected_T1": pytest.approx(1.0),
    }


def test_rows_without_a_prompt_do_not_count():
    target, draft = chain([3, 0, 1, 4, 2, 0], V), chain([3, 0, 1, 5, 2, 0], V)
    given = [prompts(4, WIDTH), prompts(4, WIDTH, empty=(1, 2, 3))]  # a last batch that was filled up
    run = expected_acceptance.expected_acceptance(NETWORK, NETWORK, target, given, seed=0, vocabulary=T5_IDS)
    assert run(draft)["acceptance_expected_T0"] == pytest.approx(3 / 4)


def test_batches_of_unequal_tokens_are_pooled():
    """Batches of 8 tokens and of 4, accepted 1 in 2 and 3 in 4: the pool, not the mean of the two shares."""
    target, draft = chain([3, 0, 1, 4, 2, 0], V), chain([3, 0, 1, 5, 2, 0], V)
    given = [prompts(4, 2), prompts(1, WIDTH)]  # cut after two tokens: 0 -> 3 -> 4, agreement after 0 alone
    run = expected_acceptance.expected_acceptance(NETWORK, NETWORK, target, given, seed=0, vocabulary=T5_IDS)
    assert run(draft)["acceptance_expected_T0"] == pytest.approx((4 + 3) / (8 + 4))


def test_prefixes_are_drawn_once_so_that_drafts_are_compared_on_the_same_ones():
    run = evaluator(table(0, V))
    first = run(table(1, V))
    assert run(table(2, V)) != first
    assert run(table(1, V)) == first


def test_padded_rows_of_the_embedding_belong_to_no_distribution():
    """The draft spends half of its mass on an id that no vocabulary has; the sampler would not."""
    target, draft = table(0, V), table(0, V)
    wide = {"table": np.pad(np.asarray(draft["table"]), ((0, 2), (0, 2)), constant_values=3.0)}
    real = expected_acceptance.expected_acceptance(
        Bigram(V + 2), NETWORK, target, [prompts(8, WIDTH)], seed=0, vocabulary=Vocabulary(V, (1,), (0,))
    )
    assert real(wide)["acceptance_expected_T1"] == pytest.approx(1.0)


def test_alpha_under_the_distribution_of_deployment():
    """Top-2 of both distributions and a temperature; the prefixes, too, are drawn from the truncated
    target."""
    deployment = expected_acceptance.Deployment(temperature=0.5, top_k=2)
    target, draft = table(0, V), table(1, V)
    found = evaluator(target, rows=2000, distributions=(deployment,))(draft)
    assert set(found) == {"acceptance_expected_T0.5_k2"}

    def truncated(params):
        p = distribution({"table": np.asarray(params["table"], np.float64) / 0.5})
        p = np.where(p >= np.sort(p, axis=-1)[:, -2:-1], p, 0.0)
        return {"table": np.log(np.pad(p, ((0, 0), (1, 0))) + 1e-300)}

    expected = exact_alpha(truncated(target), truncated(draft), WIDTH)
    assert found["acceptance_expected_T0.5_k2"] == pytest.approx(expected, abs=0.01)
    assert abs(expected - exact_alpha(target, draft, WIDTH)) > 0.05


def test_parts_of_the_tokens_give_the_same(monkeypatch):
    target, draft = table(0, V), table(1, V)
    whole = evaluator(target)(draft)
    monkeypatch.setattr(expected_acceptance.chunks, "LOGITS", 8 * V)  # one token a row
    assert evaluator(target)(draft) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "T1"),
        ({"temperature": 0}, "T0"),
        ({"temperature": 0.8, "top_k": 20, "top_p": 0.95}, "T0.8_k20_p0.95"),
    ],
)
def test_a_distribution_has_a_name(settings, name):
    assert expected_acceptance.Deployment(**settings).name == name


def test_an_impossible_distribution_is_refused():
    with pytest.raises(UsageError, match=r"Deployment: top_p is 0.0, must be in \(0, 1\]"):
        expected_acceptance.Deployment(top_p=0.0)
