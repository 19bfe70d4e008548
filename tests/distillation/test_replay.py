"""Continuations of cut texts: what stays, who goes on, where texts are cut, and what is learnt from."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax.decoding import randomness
from distillspec_jax.decoding.sampling import SamplingParams
from distillspec_jax.distillation.replay import CUTS, Replayed
from distillspec_jax.distillation.sources import SOURCES, Fixed, Mixture, Networks, OnPolicy, TargetGenerated
from distillspec_jax.errors import UsageError
from distillspec_jax.vocabulary import T5_IDS
from tests.distillation.bigram import Bigram, chain, prompts, table

V, WIDTH = 6, 6
NETWORK = Bigram(V)
# The target goes 0 -> 3 -> 4 -> 2 -> EOS; the draft agrees until 4, after which it says 5, 5 ...
TARGET, DRAFT = chain([3, 0, 1, 4, 2, 0], V), chain([3, 0, 5, 4, 5, 5], V)


@functools.partial(jax.jit, static_argnums=0)
def draw(source, target, draft, batch, seed):
    return source(Networks(NETWORK, draft, NETWORK, target, T5_IDS), batch, jax.random.key(seed))


def test_a_text_is_cut_where_the_draft_fails_and_the_draft_goes_on():
    """The text is 3 4 2 EOS. The draft fails at the 2 and at EOS, each of which is as good a cut, however
    many accepted tokens stand before it."""
    found = jax.device_get(draw(Replayed(max_tokens=3), TARGET, DRAFT, prompts(64, WIDTH, empty=(5,)), 0))
    tokens, weights = found["decoder_target_tokens"], found["decoder_loss_weights"]
    seen = {tuple(map(int, [*row, *weight])) for row, weight in zip(tokens, weights, strict=True)}
    failed = (3, 4, 5, 5, 5, 0, 0, 0, 1, 1, 1, 0)  # 3 4 stay, what the draft says from there on is learnt
    at_the_end = (3, 4, 2, 5, 5, 5, 0, 0, 0, 1, 1, 1)
    assert seen == {failed, at_the_end, (0,) * 12}
    assert not tokens[5].any()
    np.testing.assert_array_equal(found["decoder_input_tokens"], np.pad(tokens, ((0, 0), (1, 0)))[:, :-1])
    assert abs((tokens[:, 2] == 5).sum() / 63 - 0.5) < 0.15  # the first after a random token: 0.75


def test_random_cuts_take_every_token_alike():
    batch = prompts(4000, 4, empty=(0,))
    keys = randomness.row_keys(jax.random.key(0), jnp.arange(4000))
    networks = Networks(NETWORK, DRAFT, NETWORK, TARGET, T5_IDS)
    distribution = SamplingParams(1.0).distribution(T5_IDS)
    cuts = np.asarray(jax.jit(lambda: CUTS["random"](networks, distribution, batch, keys))())
    assert cuts[0] == 0
    share = np.bincount(cuts[1:], minlength=4) / 3999
    assert len(share) == 4
    np.testing.assert_allclose(share, 0.25, atol=5 * np.sqrt(0.25 * 0.75 / 3999))


def test_errors_are_as_frequent_as_verification_rejects():
    """Of single tokens of the target, one is rejected with probability 1 - sum min(p, q). Where both tokens
    of a text are rejected, or neither is, either is cut with probability 1/2."""
    target, draft, rows = table(1, V), table(2, V), 4000
    networks = Networks(NETWORK, draft, NETWORK, target, T5_IDS)

    @jax.jit
    def drawn(key):
        texts = TargetGenerated()(networks, prompts(rows, 2), key)
        keys = randomness.row_keys(jax.random.fold_in(key, 1), jnp.arange(rows))
        distribution = SamplingParams(1.0).distribution(T5_IDS)
        return texts["decoder_target_tokens"], *(CUTS[c](networks, distribution, texts, keys) for c in CUTS)

    tokens, _, cut = map(np.asarray, drawn(jax.random.key(3)))
    whole = tokens[:, 0] != 1  # not ended by EOS
    p, q = (np.exp(np.float64(x["table"]))[:, 1:] for x in (target, draft))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    # With a first token accepted by a and a second one rejected by r: a r + (1 - a) r / 2 + a (1 - r) / 2.
    accepted, rejected = np.minimum(1.0, q[0] / p[0])[1:], 1 - np.minimum(p, q).sum(-1)[2:]
    expected = (p[0, 1:] * (accepted + rejected) / 2).sum() / p[0, 1:].sum()
    share, count = cut[whole].mean(), whole.sum()
    assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / count)
    assert 0.05 < expected < 0.95


def test_it_has_a_short_name_and_checks_what_it_holds():
    assert SOURCES["replay"]() == Replayed()
    halves = Mixture((Fixed(), OnPolicy()), (0.5, 0.5))
    with pytest.raises(UsageError, match=r"share 0\.5 of 1 rows is none"):
        Replayed(texts=halves).check(1, 1)
    with pytest.raises(UsageError, match=r"unknown cut 'errors': did you mean 'error'\?"):
        Replayed(cut="errors")
    with pytest.raises(UsageError, match=r"Replayed\.temperature=-1: must be 0"):
        Replayed(temperature=-1)
