"""The gradient of on-policy distillation, against enumerations that share no code with it.

A pair over three tokens, sequences of at most three: all 15 of them are written down. The paper's objective
(Eq. 2 on the draft's own samples, nothing flowing through the sampling) is their sum, weighted by the draft's
probability: in float64 by numpy and finite differences, and by torch where it is installed.
"""

import itertools

import jax
import numpy as np
import pytest

from distillspec_jax.distillation.divergences import ForwardKL, JensenShannon, TotalVariation
from distillspec_jax.distillation.loss import make_distillation_loss
from distillspec_jax.distillation.sources import Fixed, OnPolicy
from distillspec_jax.vocabulary import Vocabulary
from tests.distillation.bigram import Bigram, prompts, table

V, WIDTH, EOS = 3, 3, 1
NETWORK, VOCABULARY = Bigram(V), Vocabulary(None, eos_ids=(EOS,), padding_ids=())
TARGET, DRAFT = table(1, V), table(2, V)
SEQUENCES = [
    list(tokens)
    for length in range(1, WIDTH + 1)
    for tokens in itertools.product(range(V), repeat=length)
    if EOS not in tokens[:-1] and (tokens[-1] == EOS or length == WIDTH)
]


def softmax(logits):
    weight = np.exp(logits - logits.max(-1, keepdims=True))
    return weight / weight.sum(-1, keepdims=True)


def kl(p, q):
    return np.sum(p * np.log(p / q), -1)


def jsd(p, q):
    return 0.5 * kl(p, (p + q) / 2) + 0.5 * kl(q, (p + q) / 2)


def tvd(p, q):
    return 0.5 * np.abs(p - q).sum(-1)


CASES = [(ForwardKL(), kl), (JensenShannon(), jsd), (TotalVariation(), tvd)]


def inputs(sequence):
    """The tokens that the network sees: the start, and all but the last."""
    return [0, *sequence[:-1]]


def probability(q, sequence):
    return np.prod([q[before, token] for before, token in zip(inputs(sequence), sequence, strict=True)])


def objective(divergence, sampler, logits):
    """Eq. 2 over all sequences of a sampler: each by the mean over its own tokens."""
    p, q, drawn = softmax(np.float64(TARGET["table"])), softmax(logits), softmax(sampler)
    means = [divergence(p[inputs(y)], q[inputs(y)]).mean() for y in SEQUENCES]
    return sum(probability(drawn, y) * mean for y, mean in zip(SEQUENCES, means, strict=True))


def by_finite_differences(function, at, step=1e-6):
    gradient = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        moved = np.zeros_like(at)
        moved[place] = step
        gradient[place] = (function(at + moved) - function(at - moved)) / (2 * step)
    return gradient


def gradient(divergence, source, batch):
    loss = make_distillation_loss(NETWORK, NETWORK, TARGET, divergence, source, vocabulary=VOCABULARY)

    def mean(params):
        loss_sum, weight_sum, _ = loss(params, batch, jax.random.key(0))
        return loss_sum / weight_sum

    return np.float64(jax.jit(jax.grad(mean))(DRAFT)["table"])


def gradients(divergence):
    """The trainer's, of a batch of one sequence each."""
    loss = make_distillation_loss(NETWORK, NETWORK, TARGET, divergence, Fixed(), vocabulary=VOCABULARY)

    @jax.jit
    def each(batches):
        def one(batch):
            return jax.grad(lambda params: loss(params, batch, jax.random.key(0))[0])(DRAFT)["table"]

        return jax.lax.map(one, batches)

    rows = prompts(len(SEQUENCES), WIDTH)
    for b, sequence in enumerate(SEQUENCES):
        filled = slice(len(sequence), None)
        rows["decoder_target_tokens"][b, : len(sequence)] = sequence
        rows["decoder_input_tokens"][b, : len(sequence)] = inputs(sequence)
        for name in ("decoder_target_tokens", "decoder_input_tokens", "decoder_loss_weights"):
            rows[name][b, filled] = 0
    return np.float64(each({name: x[:, None] for name, x in rows.items()}))


def test_all_sequences_are_there():
    q = softmax(np.float64(DRAFT["table"]))
    assert len(SEQUENCES) == 15
    assert sum(probability(q, y) for y in SEQUENCES) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(("divergence", "closed_form"), CASES, ids=["fkl", "jsd", "tvd"])
def test_the_expected_gradient_is_the_objectives(divergence, closed_form):
    logits = np.float64(DRAFT["table"])
    expected = by_finite_differences(lambda moved: objective(closed_form, logits, moved), logits)
    shares = [probability(softmax(logits), y) for y in SEQUENCES]
    found = np.tensordot(shares, gradients(divergence), axes=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # A gradient through the sampling would be another one.
    through = by_finite_differences(lambda moved: objective(closed_form, moved, moved), logits)
    assert np.abs(through - expected).max() > 1e-3


def test_samples_of_the_draft_give_it_on_average():
    """Within five standard errors, which the enumeration gives exactly."""
    rows, logits = 4_000, np.float64(DRAFT["table"])
    shares, each = np.array([probability(softmax(logits), y) for y in SEQUENCES]), gradients(ForwardKL())
    expected = np.tensordot(shares, each, axes=1)
    variance = np.tensordot(shares, (each - expected) ** 2, axes=1)
    found = gradient(ForwardKL(), OnPolicy(), prompts(rows, WIDTH))
    assert (np.abs(found - expected) <= 5 * np.sqrt(variance / rows) + 1e-6).all()
    # Sequences that all count alike would be seen.
    uniform = np.abs(each.mean(axis=0) - expected)
    assert (uniform > 5 * np.sqrt(variance / rows) + 1e-6).any()


@pytest.mark.slow  # torch alone takes two seconds to import
def test_torch_agrees():
    torch = pytest.importorskip("torch")
    logits = torch.tensor(np.float64(DRAFT["table"]), requires_grad=True)
    log_p = torch.tensor(np.float64(TARGET["table"])).log_softmax(-1)
    log_q = logits.log_softmax(-1)
    per_token = (log_p.exp() * (log_p - log_q)).sum(-1)
    total = torch.zeros((), dtype=torch.float64)
    for sequence in SEQUENCES:
        chance = torch.stack([log_q[a, b] for a, b in zip(inputs(sequence), sequence, strict=True)]).sum()
        total = total + chance.exp().detach() * per_token[inputs(sequence)].mean()
    total.backward()
    shares = [probability(softmax(np.float64(DRAFT["table"])), y) for y in SEQUENCES]
    found = np.tensordot(shares, gradients(ForwardKL()), axes=1)
    np.testing.assert_allclose(found, logits.grad.numpy(), atol=1e-6)
