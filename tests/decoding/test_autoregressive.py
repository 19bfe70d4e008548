from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.decoding import (
    AutoregressiveLoop,
    PairParams,
    SamplingParams,
    Status,
    randomness,
    sample,
)
from distillspec_jax.decoding.autoregressive import resume
from distillspec_jax.vocabulary import T5_IDS, Vocabulary
from tests.decoding.batches import padded, run, start, texts
from tests.decoding.prefix_model import PrefixModel

MODEL = PrefixModel(8)
PARAMS = MODEL.init_params(1)
PROMPTS = padded([[3, 2], [5, 2, 4, 4, 2], [2], [6, 6, 7]])
ROWS, NEW_TOKENS = len(PROMPTS), 6
KEYS = randomness.row_keys(jax.random.key(0), jnp.arange(ROWS))


def test_greedy_tokens_are_the_argmax_of_full_logits() -> None:
    distribution = SamplingParams(0.0).distribution(T5_IDS)
    tokens_BT, length_B = jax.jit(lambda p: sample(MODEL, p, distribution, PROMPTS, KEYS, NEW_TOKENS))(PARAMS)
    score = jax.jit(lambda tokens: MODEL.logits(PARAMS, {"tokens": tokens}))
    for prompt, tokens_T, length in zip(PROMPTS, np.asarray(tokens_BT), np.asarray(length_B), strict=True):
        prompt = prompt[prompt > 0]
        whole = np.zeros((1, PROMPTS.shape[1] + NEW_TOKENS), np.int32)
        whole[0, : len(prompt) + length] = [*prompt, *tokens_T[:length]]
        logits_TV = np.asarray(score(whole))[0, len(prompt) - 1 :][:length]
        assert tokens_T[:length].tolist() == (logits_TV[:, 1:].argmax(-1) + 1).tolist()
        assert (tokens_T[length:] == 0).all()
        assert length == NEW_TOKENS or tokens_T[length - 1] == 1


def test_a_text_goes_on_from_a_cut_as_if_the_model_had_written_what_stays() -> None:
    """Greedily, after none of its own tokens, one, two and three; what stands behind the cut is forgotten."""
    distribution = SamplingParams(0.0).distribution(T5_IDS)

    @jax.jit
    def written(params: object) -> tuple[jax.Array, ...]:
        tokens_BT, length_B = sample(MODEL, params, distribution, PROMPTS, KEYS, NEW_TOKENS)
        begun_B = jnp.minimum(jnp.arange(ROWS), length_B - 1)
        texts_BT = jnp.where(jnp.arange(NEW_TOKENS)[None] < begun_B[:, None], tokens_BT, 7)
        limit_B = jnp.where(begun_B == 2, 1, NEW_TOKENS - begun_B)
        added = resume(MODEL, params, distribution, PROMPTS, texts_BT, begun_B, KEYS, limit_B)
        return tokens_BT, length_B, begun_B, *added

    whole_BT, length_B, begun_B, added_BT, count_B = map(np.asarray, written(PARAMS))
    assert begun_B.tolist() == [0, 1, 2, 3]
    for row, begun in enumerate(begun_B):
        expected = whole_BT[row, begun : 3 if begun == 2 else length_B[row]]
        assert count_B[row] == len(expected)
        assert added_BT[row].tolist() == [*expected, *[0] * (NEW_TOKENS - len(expected))]
    assert len(np.unique(whole_BT)) > 3


def test_no_gradient_flows_through_sampled_tokens() -> None:
    """Inside a train step: the gradient is that of a loss on the same tokens as constants."""
    distribution = SamplingParams(1.0).distribution(T5_IDS)
    width = PROMPTS.shape[1]

    def loss(params: object, tokens_BT: jax.Array) -> jax.Array:
        batch = {"tokens": jnp.concatenate([PROMPTS, tokens_BT], axis=1)}
        return jax.nn.log_softmax(MODEL.logits(params, batch))[:, width:].mean()

    def on_policy(params: object) -> tuple[jax.Array, jax.Array]:
        tokens_BT, _ = sample(MODEL, params, distribution, PROMPTS, KEYS, NEW_TOKENS)
        return loss(params, tokens_BT), tokens_BT

    (_, tokens_BT), found = jax.jit(jax.value_and_grad(on_policy, has_aux=True))(PARAMS)
    expected = jax.jit(jax.grad(loss))(PARAMS, tokens_BT)
    assert len(np.unique(tokens_BT)) > 3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(found))


def test_decoding_stops_when_every_row_has_ended() -> None:
    """A model whose every token is EOS: one round, although fifty were allowed."""
    params = PairParams({**PARAMS, "out_DV": PARAMS["out_DV"] * 0})
    distribution = SamplingParams(1.0).distribution(Vocabulary(None, (1,), (0, *range(2, 8))))
    loop = AutoregressiveLoop(MODEL)
    limits, index = np.array([50, 50, 0, 1]), np.arange(ROWS)
    state = run(loop, params, start(loop, params, PROMPTS, distribution, limits, index, 50))
    assert texts(state) == [[1], [1], [], [1]]
    assert state.rows.status_B.tolist() == [Status.ENDED, Status.ENDED, Status.LENGTH, Status.ENDED]
    assert state.counts.rounds_B.tolist() == [1, 1, 0, 1]
