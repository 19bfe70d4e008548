"""Log-probabilities of emitted tokens under the target, in one pass over a prompt and its output."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.decoding.sampling import SamplingDistribution, SamplingParams
from distillspec_jax.models.interface import LanguageModel, padded_prompts
from distillspec_jax.serving.requests import MOST_LOGPROBS
from distillspec_jax.shapes import Array, Params
from distillspec_jax.vocabulary import Vocabulary


class TokenScore(NamedTuple):
    """The log-probability of a token, and the most likely tokens at its position with theirs."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Scorer:
    """Scores outputs with the target's distribution at temperature 1, whatever they were sampled from.

    Args:
      model, params: the target.
      vocabulary: of the distribution.
      prompt_width, width: maximum lengths of prompt and output.
    """

    def __init__(
        self, model: LanguageModel, params: Params, vocabulary: Vocabulary, prompt_width: int, width: int
    ) -> None:
        self._model, self._params = model, params
        self._distribution = SamplingParams(1.0).distribution(vocabulary)
        self._prompt_width, self._width = prompt_width, width

    def score(self, prompt: Sequence[int], tokens: Sequence[int], first: int = 0) -> list[TokenScore]:
        """Computes the scores of an output's tokens from index `first` on."""
        prompt_BT = padded_prompts([prompt], self._prompt_width)
        tokens_BK = np.zeros((1, self._width), np.int32)
        tokens_BK[0, : len(tokens)] = tokens
        found = _scores(self._model, self._params, self._distribution, prompt_BT, tokens_BK)
        chosen_K, top_KN, id_KN = (one[0] for one in jax.device_get(found))
        return [
            TokenScore(
                int(tokens[k]),
                float(chosen_K[k]),
                tuple(zip(id_KN[k].tolist(), top_KN[k].tolist(), strict=True)),
            )
            for k in range(first, len(tokens))
        ]


@functools.partial(jax.jit, static_argnums=0)
def _scores(
    model: LanguageModel,
    params: Params,
    distribution: SamplingDistribution,
    prompt_BT: Array,
    tokens_BK: Array,
) -> tuple[Array, Array, Array]:
    state, pending_B = model.prefill(params, prompt_BT, tokens_BK.shape[1])
    read_BK = jnp.concatenate([pending_B[:, None], tokens_BK[:, :-1]], axis=1)
    log_p_BKV = distribution.log_probs(model.extend(params, state, read_BK)[0])
    chosen_BK = jnp.take_along_axis(log_p_BKV, tokens_BK[..., None], axis=-1)[..., 0]
    top_BKN, id_BKN = jax.lax.top_k(log_p_BKV, min(MOST_LOGPROBS, log_p_BKV.shape[-1]))
    return chosen_BK, top_BKN, id_BKN
