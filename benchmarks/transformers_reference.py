"""transformers' networks with our weights: the implementation to be compared with, at its best settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import transformers
from transformers.generation.candidate_generator import AssistedCandidateGenerator

from benchmarks.measurement import THREADS
from distillspec_jax.interop import convert, hf
from distillspec_jax.models.t5 import T5Config
from distillspec_jax.shapes import Params


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


class Round(NamedTuple):
    """One block of assisted generation, counted as `acceptance.Record` counts ours.

    Attributes:
      tested, accepted: drafts that the target was asked about, up to the first that it refused; and its
        answer. A drafted end of sequence that it agrees with is accepted like any other.
    """

    tested: int
    accepted: int


@contextmanager
def recorded_rounds() -> Iterator[list[Round]]:
    """What assisted generation drafts and keeps while the context lasts."""
    rounds: list[Round] = []
    drafted: list[int] = []
    ask, learn = (
        AssistedCandidateGenerator.get_candidates,
        AssistedCandidateGenerator.update_candidate_strategy,
    )

    def get_candidates(self: Any, input_ids: Any, **options: Any) -> Any:
        found = ask(self, input_ids, **options)
        drafted[:] = found[0][0, input_ids.shape[1] :].tolist()
        self.length_before = input_ids.shape[1]
        return found

    def update_candidate_strategy(self: Any, input_ids: Any, scores: Any, num_matches: Any) -> None:
        emitted = input_ids[0, self.length_before :].tolist()
        pairs = zip(drafted, emitted, strict=False)
        accepted = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(drafted), len(emitted)))
        rounds.append(Round(min(accepted + 1, len(drafted)), accepted))
        learn(self, input_ids, scores, num_matches)

    with (
        mock.patch.object(AssistedCandidateGenerator, "get_candidates", get_candidates),
        mock.patch.object(AssistedCandidateGenerator, "update_candidate_strategy", update_candidate_strategy),
    ):
        yield rounds


def exported(name: str, folder: Path) -> Any:
    """A model of ours as a user of transformers gets it: exported to a folder and loaded from there."""
    model = convert.export(name, str(folder))
    kind = (
        transformers.T5ForConditionalGeneration
        if model.card.family == "t5"
        else transformers.AutoModelForCausalLM
    )
    network: Any = kind.from_pretrained(folder).eval()
    if model.card.family == "t5":  # as the folder's README tells
        network.config.num_layers = network.config.num_decoder_layers
    return network


def assisted(
    target: Any, draft: Any, prompts: Sequence[list[int]], max_new_tokens: int, block_size: int
) -> list[tuple[list[int], list[Round]]]:
    """Greedy texts by assisted generation, in blocks of one size, each with its rounds."""
    settings = draft.generation_config
    settings.num_assistant_tokens, settings.num_assistant_tokens_schedule = block_size, "constant"
    settings.assistant_confidence_threshold = 0.0
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.inference_mode(), recorded_rounds() as rounds:
            whole = target.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                assistant_model=draft,
                do_sample=False,
                num_beams=1,
                max_new_tokens=max_new_tokens,
            )[0].tolist()
        start = 1 if target.config.is_encoder_decoder else len(prompt)
        found.append((whole[start:], list(rounds)))
    return found
