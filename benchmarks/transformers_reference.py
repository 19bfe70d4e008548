"""transformers' T5 with our weights: the implementation to be compared with, at its best settings."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from distillspec_jax.interop import hf
from distillspec_jax.models.t5 import T5Config
from distillspec_jax.shapes import Params

THREADS = 2


class TransformersT5:
    """Greedy decoding by `generate`, without any end of sequence, in inference mode.

    Args:
      config, params: ours; exported by `interop.hf`.
      device: torch's name of it.
    """

    def __init__(self, config: T5Config, params: Params, device: str = "cpu") -> None:
        torch.set_num_threads(THREADS)
        tensors, values = hf.to_hf(config, params)
        network = transformers.T5ForConditionalGeneration(transformers.T5Config(**values))
        if not config.logits_via_embedding:  # a fresh network shares its table, whatever its configuration
            network.lm_head.weight = torch.nn.Parameter(network.lm_head.weight.detach().clone())
        _, unexpected = network.load_state_dict(
            {name: torch.from_numpy(tensor.copy()) for name, tensor in tensors.items()}, strict=False
        )
        assert not unexpected, unexpected  # tied names are missing by design
        network.generation_config.eos_token_id = None
        # Its assisted generation sizes the decoder's cache by the encoder's layers.
        sizes: Any = network.config
        sizes.num_layers = sizes.num_decoder_layers
        self._network = network.eval().to(device)
        self._device = device

    def generate(
        self,
        prompts: list[list[int]],
        max_new_tokens: int,
        *,
        assistant: TransformersT5 | None = None,
        size: int | None = None,
        schedule: str = "constant",
        prompt_lookup: int | None = None,
    ) -> list[list[int]]:
        """Greedy continuations of prompts of equal length, on the host.

        Args:
          assistant: drafts `size` tokens (None: transformers' default) on a `schedule` of its own names.
          prompt_lookup: tokens to look up instead.
        """
        ids = torch.tensor(prompts, device=self._device)
        options: dict[str, Any] = {}
        if assistant is not None:
            config: Any = assistant._network.generation_config
            config.num_assistant_tokens_schedule = schedule
            config.num_assistant_tokens = size or transformers.GenerationConfig().num_assistant_tokens or 20
            config.assistant_confidence_threshold = 0.0 if size else 0.4
            options["assistant_model"] = assistant._network
        if prompt_lookup is not None:
            options["prompt_lookup_num_tokens"] = prompt_lookup
        with torch.inference_mode():
            out = self._network.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                num_beams=1,
                use_cache=True,
                max_new_tokens=max_new_tokens,
                **options,
            )
        return out[:, 1:].tolist()  # without the decoder's start token
