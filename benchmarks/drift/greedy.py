"""Greedy speculative decoding without decoding: the target's texts, and what a draft would have accepted.

At temperature 0 the target's text of a prompt is the same whatever the draft. A round accepts the draft's
tokens up to the first that is not the text's, and the draft, whose tokens before that one are the text's, is
teacher-forced; so one pass over the text gives every round of every draft. `check` decodes some prompts with
the real sampler and compares.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax import files
from distillspec_jax.acceptance import Record
from distillspec_jax.decoding.sampling import SamplingDistribution
from distillspec_jax.distillation.deployment import Deployment
from distillspec_jax.generation.prompt_format import PromptFormat, prompt_format, tokenizer_of
from distillspec_jax.generation.text_generator import TextGenerator
from distillspec_jax.models.interface import LanguageModel, shift_right
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.shapes import Array, Params

ROWS = 50
"""Texts in a pass."""


@dataclasses.dataclass(frozen=True)
class Text:
    """A prompt and the target's greedy text of it."""

    inputs: str
    outputs: str
    tokens: tuple[int, ...]


def write_texts(target: Pretrained, prompts: Sequence[str], path: Path) -> list[Text]:
    """Has the target answer some prompts, alone and greedily; or reads what it wrote before."""
    if not path.is_file():
        generator = TextGenerator(target, form=prompt_format(target, truncate=True), batch_size=16)
        found = [
            {"inputs": one.inputs, "outputs": one.outputs, "tokens": list(one.tokens)}
            for one in generator.stream(prompts, temperature=0.0)
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(path, "".join(files.as_json(line) + "\n" for line in found))
    lines = [line for _, line in files.json_lines(files.read_lines(path), path)]
    return [Text(one["inputs"], one["outputs"], tuple(one["tokens"])) for one in lines]


def record(agrees: Sequence[bool], block_size: int) -> Record:
    """Counts the rounds of one text.

    Args:
      agrees: for every token of the text, whether it is the draft's own after those before it.
      block_size: drafts a round.
    """
    rounds, at, length = [], 0, len(agrees)
    while at < length:
        accepted = 0
        while accepted < min(block_size, length - at) and agrees[at + accepted]:
            accepted += 1
        # A text that ends within its accepted drafts has no token of the target after them.
        emitted = min(accepted + 1, length - at)
        tested = min(accepted + 1, block_size, length - at)
        rounds.append((tested, accepted, emitted))
        at += emitted
    return Record.of_rounds(rounds, drafted=block_size * len(rounds))


class Passes:
    """One teacher-forced pass over texts for each draft.

    Args:
      target: whose form of prompts it is.
      block_size: drafts a round.
    """

    def __init__(self, target: Pretrained, block_size: int) -> None:
        self._form: PromptFormat = prompt_format(target, truncate=True)
        self._distribution = Deployment(0.0).distribution(tokenizer_of(target).vocabulary)
        self._lengths = target.card.feature_lengths
        self._block_size = block_size

    def records(self, draft: Pretrained, texts: Sequence[Text]) -> list[Record]:
        """Counts what a draft would have had accepted of each text."""
        found = []
        for start in range(0, len(texts), ROWS):
            part = texts[start : start + ROWS]
            agrees_BT = _agrees(draft.model, self._distribution, draft.params, self._batch(part))
            for agrees_T, text in zip(np.asarray(agrees_BT), part, strict=False):
                found.append(record(agrees_T[: len(text.tokens)].tolist(), self._block_size))
        return found

    def _batch(self, texts: Sequence[Text]) -> dict[str, np.ndarray]:
        prompt_BT = np.zeros((ROWS, self._lengths["inputs"]), np.int32)
        text_BT = np.zeros((ROWS, self._lengths["targets"]), np.int32)
        prompt_BT[:, 0] = 1  # rows that are not used must not be empty
        for row, text in enumerate(texts):
            ids = self._form.ids(text.inputs, "a prompt")
            prompt_BT[row, : len(ids)] = ids
            text_BT[row, : len(text.tokens)] = text.tokens
        return {
            "encoder_input_tokens": prompt_BT,
            "decoder_input_tokens": shift_right(text_BT),
            "decoder_target_tokens": text_BT,
        }


@functools.partial(jax.jit, static_argnums=0)
def _agrees(model: LanguageModel, distribution: SamplingDistribution, params: Params, batch: Any) -> Array:
    logp_BTV = distribution.log_probs(model.logits(params, batch))
    tokens_BT1 = batch["decoder_target_tokens"][..., None]
    return jnp.take_along_axis(logp_BTV, tokens_BT1, axis=-1)[..., 0] > -jnp.inf


def _comparable(found: Record, block_size: int) -> Record:
    """A record whose positions are all there, also those that no round came to."""
    tested, accepted = (
        tuple(np.pad(at or (), (0, block_size))[:block_size].tolist())
        for at in (found.tested_at, found.accepted_at)
    )
    return dataclasses.replace(found, tested_at=tested, accepted_at=accepted)


def check(
    target: Pretrained, draft: Pretrained, texts: Sequence[Text], counted: Sequence[Record], block_size: int
) -> dict[str, Any]:
    """Decodes prompts with the real sampler, and compares texts and counts with those of the passes.

    Returns:
      How many prompts agree in all of it, and processor seconds of a call of the target for one of 16
      requests together, its drafts included.
    """
    generator = TextGenerator(
        target, draft, form=prompt_format(target, truncate=True), block_size=block_size, batch_size=16
    )
    inputs = [text.inputs for text in texts]
    for _ in generator.stream(inputs, temperature=0.0):
        pass  # compiles
    began = time.process_time()
    found = list(generator.stream(inputs, temperature=0.0))
    spent = time.process_time() - began
    equal = sum(
        one.tokens == text.tokens and _comparable(one.record, block_size) == _comparable(ours, block_size)
        for one, text, ours in zip(found, texts, counted, strict=True)
    )
    return {
        "prompts": len(texts),
        "equal": equal,
        "seconds_a_call": spent / sum(one.target_calls for one in found),
    }
