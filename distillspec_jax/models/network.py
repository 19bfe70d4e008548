"""The common base of all families: a Linen module behind the `LanguageModel` interface."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from distillspec_jax.errors import UsageError
from distillspec_jax.models.attention import check_kernel
from distillspec_jax.models.interface import Batch, DecodeState, LanguageModelDefaults
from distillspec_jax.models.prepared import form_of
from distillspec_jax.models.rematerialisation import check_policy
from distillspec_jax.shapes import Array, Params


@dataclasses.dataclass(frozen=True)
class Network(LanguageModelDefaults):
    """A `LanguageModel` (see `interface.py`): frozen, hashable, without parameters.

    A family adds `prefill`, and `prepare`, which makes parameters decode faster (see `prepared.py`).

    Attributes:
      config: the network's configuration, with `num_parameters`; stored in checkpoints.
      remat: rematerialisation policy of `logits`, see `rematerialisation`; it does not change any result.
      scan_layers: `logits` scans over layers, see `layer_stack`; this changes only dropout's draws.
      int8: decoding reads 8-bit kernels where that is faster; parameters are `quantised.rounded`.
      attention: kernel for whole sequences, one of `attention.KERNELS`; it only changes rounding.
      transformer: the family's module, `transformer(config, form, remat, scan_layers, attention)`, with
        methods `hidden`, `readout` and `extend` (which also returns hidden features).
      config_type: the class of `config`.
      depth_field: the field of `config` that counts the layers of the decoder.
      prompts_end_with_eos: whether published models of the family were trained on prompts with EOS.
    """

    config: Any
    remat: str = "none"
    scan_layers: bool = False
    int8: bool = False
    attention: str = "plain"
    transformer: ClassVar[Any]
    config_type: ClassVar[Any]
    depth_field: ClassVar[str]
    prompts_end_with_eos: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_policy(self.remat)
        check_kernel(self.attention, self.attention_cap)

    def _apply(self, params: Params, *args: Any, **kwargs: Any) -> Any:
        """Applies the network to parameters in their canonical or a prepared form."""
        network = self.transformer(self.config, form_of(params), self.remat, self.scan_layers, self.attention)
        return network.apply({"params": params}, *args, **kwargs)

    @property
    def vocab_size(self) -> int:
        width: int = self.config.vocab_size
        return width

    @property
    def room(self) -> int | None:
        """The maximum number of tokens in a prompt plus its output; None: unlimited."""
        return None

    @property
    def logits_scale(self) -> float:
        """The factor of a tied embedding in the projection to logits."""
        return 1.0

    @property
    def logits_cap(self) -> float:
        """Soft cap of the logits, see `soft_cap.py`; 0: none."""
        return 0.0

    @property
    def attention_cap(self) -> float:
        """Soft cap of the attention scores; 0: none. `jax.nn.dot_product_attention` does not support one."""
        return 0.0

    def check_dropout(self) -> None:
        """Rejects dropout if the attention kernel would ignore it.

        Raises:
          UsageError: names the two settings.
        """
        if self.attention != "plain" and self.config.dropout_rate:
            raise UsageError(
                f"ATTENTION={self.attention!r} has no dropout of attention's weights: set DROPOUT_RATE=0 "
                f"(it is {self.config.dropout_rate:g}), or ATTENTION='plain'"
            )

    def prefill(self, params: Params, prompt_BT: Array, max_length: int) -> tuple[DecodeState, Array]:
        """See `LanguageModel.prefill`; every family implements its own."""
        raise NotImplementedError

    def init(self, key: Array) -> Params:
        """Initialises parameters, boxed with their logical axes (`flax.linen.meta.unbox` unboxes them)."""
        one = jnp.ones((1, 1), jnp.int32)
        batch = {"encoder_input_tokens": one, "decoder_input_tokens": one}
        network: nn.Module = self.transformer(self.config)
        return network.init(key, batch)["params"]

    def logits(self, params: Params, batch: Batch, *, dropout_key: Array | None = None) -> Array:
        return self.readout(params, self.hidden(params, batch, dropout_key=dropout_key))

    def hidden(self, params: Params, batch: Batch, *, dropout_key: Array | None = None) -> Array:
        if dropout_key is not None:
            self.check_dropout()
        rngs = {} if dropout_key is None else {"dropout": dropout_key}
        return self._apply(params, batch, deterministic=not rngs, rngs=rngs, method="hidden")

    def readout(self, params: Params, hidden_BTM: Array) -> Array:
        return self._apply(params, hidden_BTM, method="readout")

    def extend(self, params: Params, state: DecodeState, tokens_BK: Array) -> tuple[Array, DecodeState]:
        hidden_BKM, state = self.extend_hidden(params, state, tokens_BK)
        return self.readout(params, hidden_BKM), state

    def extend_hidden(
        self, params: Params, state: DecodeState, tokens_BK: Array
    ) -> tuple[Array, DecodeState]:
        """`extend` without the last projection: `[B, K, M]` features."""
        hidden_BKM, cache = self._apply(params, tokens_BK, state, method="extend")
        length_B = state.length_B + tokens_BK.shape[1]
        return hidden_BKM, dataclasses.replace(state, length_B=length_B, cache=cache)
