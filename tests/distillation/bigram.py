"""A network whose next token depends on the last one alone: a table of logits is its parameters.

It is an encoder-decoder to its callers (`pending` is the start token 0), so sampling, teacher forcing and
every distribution can be computed by hand.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.models.interface import Batch, DecodeState, LanguageModelDefaults
from distillspec_jax.shapes import Array, Params


@dataclasses.dataclass(frozen=True)
class Bigram(LanguageModelDefaults):
    vocab_size: int

    def logits(self, params: Params, batch: Batch, *, dropout_key: Array | None = None) -> Array:
        return self.readout(params, self.hidden(params, batch, dropout_key=dropout_key))

    def hidden(self, params: Params, batch: Batch, *, dropout_key: Array | None = None) -> Array:
        return jax.nn.one_hot(batch["decoder_input_tokens"], len(params["table"]))

    def readout(self, params: Params, hidden_BTM: Array) -> Array:
        return hidden_BTM @ params["table"]

    def prefill(self, params: Params, prompt_BT: Array, max_length: int) -> tuple[DecodeState, Array]:
        length_B = jnp.zeros(len(prompt_BT), jnp.int32)
        return DecodeState(length_B, cache={}, context={}), jnp.zeros(len(prompt_BT), jnp.int32)

    def extend(self, params: Params, state: DecodeState, tokens_BK: Array) -> tuple[Array, DecodeState]:
        grown = state.replace(length_B=state.length_B + tokens_BK.shape[1])
        return params["table"][tokens_BK], grown


def table(seed: int, vocab_size: int, sharpness: float = 1.5) -> Params:
    values = np.random.default_rng(seed).normal(size=(vocab_size, vocab_size))
    return {"table": jnp.asarray(sharpness * values, jnp.float32)}


def chain(following: list[int], vocab_size: int) -> Params:
    """Each token is followed by a certain one (probability 1 in float32)."""
    values = np.full((vocab_size, vocab_size), -200.0, np.float32)
    values[np.arange(len(following)), following] = 0.0
    return {"table": jnp.asarray(values)}


def prompts(rows: int, width: int, *, empty: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    """A batch whose targets are all 9s, to be seen when they are not replaced."""
    inputs_BT = np.full((rows, 3), 5, np.int32)
    targets_BT = np.full((rows, width), 9, np.int32)
    weights_BT = np.ones((rows, width), np.float32)
    for array in (inputs_BT, targets_BT, weights_BT):
        array[list(empty)] = 0
    return {
        "encoder_input_tokens": inputs_BT,
        "decoder_input_tokens": np.pad(targets_BT, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets_BT,
        "decoder_loss_weights": weights_BT,
    }
