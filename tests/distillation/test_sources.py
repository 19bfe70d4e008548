"""Where the training sequences come from: whose samples, drawn from which distribution, and what never flows
back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax.decoding.sampling import SamplingParams
from distillspec_jax.distillation.sources import (
    Fixed,
    Mixture,
    Networks,
    OnPolicy,
    TargetGenerated,
    sampled_batch,
)
from distillspec_jax.distillation.stale import Stale
from distillspec_jax.errors import UsageError
from distillspec_jax.vocabulary import T5_IDS, Vocabulary
from tests import tiny
from tests.distillation.bigram import Bigram, chain, prompts, table

# Certain chains: 0 -> 3 -> 4 -> 1 (EOS) and 0 -> 5 -> 5 -> 5 ...
SHORT, LONG = chain([3, 0, 0, 4, 1, 5], 6), chain([5, 0, 0, 4, 1, 5], 6)
ENDLESS = chain([2, 0, 2, 4, 1, 5], 6)
NETWORK = Bigram(6)
BATCH = prompts(3, 5, empty=(2,))


@functools.partial(jax.jit, static_argnums=0)
def draw(source, draft_params, target_params, batch, seed):
    networks = Networks(NETWORK, draft_params, NETWORK, target_params, T5_IDS, initial_params=ENDLESS)
    return source(networks, batch, jax.random.key(seed))


def test_fixed_data_stay_as_they_are():
    found = draw(Fixed(), SHORT, LONG, BATCH, 0)
    jax.tree.map(np.testing.assert_array_equal, found, BATCH)


@pytest.mark.parametrize(
    ("source", "sampled", "other"), [(OnPolicy(), "draft", "target"), (TargetGenerated(), "target", "draft")]
)
def test_samples_are_those_of_the_network_that_the_source_names(source, sampled, other):
    params = {sampled: SHORT, other: LONG}
    found = draw(source, params["draft"], params["target"], BATCH, 0)
    np.testing.assert_array_equal(found["decoder_target_tokens"], [[3, 4, 1, 0, 0]] * 2 + [[0] * 5])
    np.testing.assert_array_equal(found["decoder_input_tokens"], [[0, 3, 4, 1, 0]] * 2 + [[0] * 5])
    # EOS counts, what follows does not, and a row without a prompt has nothing.
    np.testing.assert_array_equal(found["decoder_loss_weights"], [[1, 1, 1, 0, 0]] * 2 + [[0] * 5])
    np.testing.assert_array_equal(found["encoder_input_tokens"], BATCH["encoder_input_tokens"])


def test_stale_samples_are_the_initial_drafts():
    found = draw(Stale(), SHORT, LONG, BATCH, 0)
    np.testing.assert_array_equal(found["decoder_target_tokens"], [[2] * 5] * 2 + [[0] * 5])


def test_a_sample_without_an_end_is_cut_at_the_width_of_the_targets():
    found = draw(OnPolicy(), LONG, SHORT, BATCH, 0)
    np.testing.assert_array_equal(found["decoder_target_tokens"][0], [5] * 5)
    np.testing.assert_array_equal(found["decoder_loss_weights"][0], [1] * 5)


def test_the_parameters_of_now_are_sampled_from():
    """One compiled step, two sets of parameters: nothing of the first call may stay behind."""
    first = draw(OnPolicy(), LONG, SHORT, BATCH, 0)["decoder_target_tokens"]
    second = draw(OnPolicy(), SHORT, SHORT, BATCH, 0)["decoder_target_tokens"]
    np.testing.assert_array_equal(first[0], [5, 5, 5, 5, 5])
    np.testing.assert_array_equal(second[0], [3, 4, 1, 0, 0])


def test_the_key_alone_decides_and_rows_are_independent():
    batch, params = prompts(8, 12), table(0, 6)
    tokens = [draw(OnPolicy(), params, params, batch, seed)["decoder_target_tokens"] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(tokens[0], tokens[1])
    assert (tokens[0] != tokens[2]).any()
    assert len({tuple(row) for row in np.asarray(tokens[0]).tolist()}) > 4  # equal prompts


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_first_tokens_follow_the_stated_distribution(temperature):
    rows, params = 4000, table(3, 6)
    batch, source = prompts(rows, 1), OnPolicy(temperature)
    found = np.asarray(draw(source, params, params, batch, 0)["decoder_target_tokens"])[:, 0]
    logits = np.asarray(params["table"][0], np.float64)[1:]  # padding is never drawn
    if temperature == 0:
        expected = np.eye(5)[logits.argmax()]
    else:
        expected = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    share = np.bincount(found, minlength=6)[1:] / rows
    # Five standard deviations; at T = 0 none is allowed.
    assert (np.abs(share - expected) <= 5 * np.sqrt(expected * (1 - expected) / rows)).all()


def test_a_real_network_is_sampled_as_its_teacher_forced_logits_say():
    """At temperature 0 every sampled token is the argmax of `logits` on the sampled prefix."""
    params = tiny.params(tiny.T5_1_1)
    batch = {
        "encoder_input_tokens": tiny.ragged(1, (5, 3, 4), 5),
        "decoder_target_tokens": np.zeros((3, 6), np.int32),
    }

    @jax.jit
    def sampled_and_scored(params):
        found = sampled_batch(tiny.T5_1_1, params, batch, jax.random.key(0), SamplingParams(0.0), T5_IDS)
        return found, tiny.T5_1_1.logits(params, found)

    found, logits = jax.device_get(sampled_and_scored(params))
    logits = np.where(np.arange(tiny.VOCAB) == 0, -np.inf, logits)  # padding is never drawn
    real = found["decoder_loss_weights"] > 0
    assert real.sum() > 3
    np.testing.assert_array_equal(found["decoder_target_tokens"][real], logits.argmax(-1)[real])


def test_longest_samples_can_be_shorter_than_the_targets():
    found = draw(OnPolicy(max_tokens=2), LONG, SHORT, BATCH, 0)
    np.testing.assert_array_equal(found["decoder_target_tokens"][0], [5, 5, 0, 0, 0])
    np.testing.assert_array_equal(found["decoder_loss_weights"][0], [1, 1, 0, 0, 0])
    assert found["decoder_input_tokens"].shape == (3, 5)


def test_padded_rows_of_the_embedding_are_never_sampled():
    """Ids 4 and 5 are no pieces of the vocabulary, however likely they are."""

    def sample(vocab_size):
        networks = Networks(NETWORK, LONG, NETWORK, LONG, vocabulary=Vocabulary(vocab_size, (1,), (0,)))
        batch = jax.jit(lambda: OnPolicy()(networks, prompts(1, 4), jax.random.key(0)))()
        return np.asarray(batch["decoder_target_tokens"])

    assert (sample(None) == 5).all()
    assert sample(4).max() < 4


def test_the_vocabularys_own_eos_ends_a_sample():
    networks = Networks(NETWORK, SHORT, NETWORK, SHORT, vocabulary=Vocabulary(None, (4,), (0,)))
    batch = jax.jit(lambda: OnPolicy()(networks, prompts(1, 5), jax.random.key(0)))()
    np.testing.assert_array_equal(batch["decoder_target_tokens"], [[3, 4, 0, 0, 0]])


def test_no_gradient_flows_through_the_tokens():
    def surrogate(params):
        networks = Networks(NETWORK, params, NETWORK, params, T5_IDS)
        batch = OnPolicy()(networks, prompts(2, 4), jax.random.key(0))
        return jnp.sum(batch["decoder_loss_weights"] + batch["decoder_target_tokens"])

    (gradient,) = jax.tree.leaves(jax.jit(jax.grad(surrogate))(table(0, 6)))
    np.testing.assert_array_equal(gradient, np.zeros((6, 6)))


# --- mixtures ---


def test_a_mixture_deals_out_its_rows():
    mixture = Mixture((Fixed(), OnPolicy(), TargetGenerated()), (0.5, 0.25, 0.25))
    found = draw(mixture, SHORT, LONG, prompts(8, 5), 0)
    firsts = np.asarray(found["decoder_target_tokens"])[:, 0].tolist()
    assert firsts == [9] * 4 + [3] * 2 + [5] * 2  # the data, the draft, the target
    assert {name: x.shape for name, x in found.items()} == {n: x.shape for n, x in prompts(8, 5).items()}


def test_shares_are_rounded_and_the_last_source_takes_the_rest():
    mixture = Mixture([Fixed(), OnPolicy()], [0.3, 0.7])
    firsts = draw(mixture, SHORT, LONG, prompts(4, 5), 0)["decoder_target_tokens"][:, 0]
    assert firsts.tolist() == [9, 3, 3, 3]


def test_two_shares_of_one_source_draw_differently():
    mixture = Mixture((OnPolicy(), OnPolicy()), (0.5, 0.5))
    params = table(0, 6)
    tokens = np.asarray(draw(mixture, params, params, prompts(8, 12), 0)["decoder_target_tokens"])
    assert (tokens[:4] != tokens[4:]).any()


@pytest.mark.parametrize(
    ("sources", "weights", "says"),
    [
        ((Fixed(), OnPolicy()), (0.5, 0.4), r"weights=\(0.5, 0.4\) must be positive and sum to 1"),
        ((Fixed(), OnPolicy()), (1.5, -0.5), "must be positive and sum to 1"),
        ((Fixed(), OnPolicy()), (1.0, 0.0), "must be positive"),
        ((Fixed(), OnPolicy()), (1.0,), "2 sources but 1 weights"),
        ((), (), "0 sources"),
    ],
)
def test_impossible_shares_are_refused(sources, weights, says):
    with pytest.raises(UsageError, match=says):
        Mixture(sources, weights)


def test_a_share_of_no_row_is_refused_by_its_size():
    mixture = Mixture((Fixed(), OnPolicy()), (0.1, 0.9))
    with pytest.raises(UsageError, match=r"share 0.1 of 4 rows is none; raise BATCH_SIZE or the share"):
        draw(mixture, SHORT, LONG, prompts(4, 5), 0)


def test_parts_of_a_batch_have_its_shares_or_are_refused():
    """Of three rows a half is 2 or 1, of 24 it is 12: in eight such parts, 16."""
    halves = Mixture((Fixed(), OnPolicy()), (0.5, 0.5))
    halves.check(24, 6)
    with pytest.raises(
        UsageError, match=r"MICROBATCHES=8 would deal 24 .* \[16, 8\] and not as \[12, 12\]; take 6"
    ):
        halves.check(24, 8)
    with pytest.raises(UsageError, match=r"MICROBATCHES=12 would deal 12 rows .*; take 6"):
        Mixture((halves, Fixed()), (0.5, 0.5)).check(24, 12)
    with pytest.raises(UsageError, match=r"share 0\.5 of 1 rows is none"):
        Mixture((halves, Fixed()), (0.5, 0.5)).check(2, 1)


@pytest.mark.parametrize("kind", [OnPolicy, TargetGenerated])
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"temperature": -1.0}, "temperature=-1.0: must be 0"),
        ({"temperature": float("nan")}, "temperature=nan: must be 0"),
        ({"max_tokens": 0}, "max_tokens=0: must be at least 1"),
    ],
)
def test_an_impossible_distribution_is_refused_when_it_is_made(kind, settings, says):
    with pytest.raises(UsageError, match=rf"{kind.__name__}\.{says}"):
        kind(**settings)
