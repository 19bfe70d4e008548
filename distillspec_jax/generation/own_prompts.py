"""Prompts that a model writes itself, by completing the opening of a user's turn in its chat template.

An instruct model can also generate the kind of requests that it was trained to answer (Magpie, arXiv
2406.08464). If a target's users are unknown, such prompts resemble its traffic more than any single task.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distillspec_jax import bounds, files, outputs
from distillspec_jax.decoding.sampling import SamplingParams
from distillspec_jax.errors import UsageError, check_number
from distillspec_jax.generation import request_files
from distillspec_jax.generation.pairing import Drafts
from distillspec_jax.generation.prompt_format import PromptFormat, tokenizer_of
from distillspec_jax.generation.text_generator import Generation, TextGenerator
from distillspec_jax.models import fingerprints
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.tokenization.chat_template import ChatTemplate
from distillspec_jax.tokenization.prompt_reader import Reader, chat_template

NUMBER = "number"
"""The field with the number of a prompt's draw."""
_MARK = "\u2402what the user says\u2403"
_IN_VAIN = 1000
"""Consecutive draws without a kept prompt after which to give up."""
_LEAST_WORDS = 2


@dataclasses.dataclass(frozen=True)
class UserTurn(ChatTemplate):
    """A template up to a user's first words, with nothing after them."""

    def wrap(self, text: str) -> str:
        """See `ChatTemplate.wrap`.

        Raises:
          UsageError: also if the template does not contain the user's text.
        """
        opening, mark, _ = super().wrap(_MARK).partition(_MARK)
        if not mark:
            raise UsageError(f"{self.name}'s chat template does not show what a user says as it is")
        return opening + text


@outputs.one_run
def write_prompts(
    target: Pretrained,
    output: str,
    limit: int,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 96,
    seed: int = 0,
    draft: Drafts = None,
    block_size: int | str = 5,
    batch_size: int = 8,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Writes JSON lines `{"inputs", "number"}`, or resumes an interrupted run.

    A prompt is kept if the model ends it within `max_new_tokens`, it has at least two words, no word of the
    template and no broken character, and is new regardless of case and spaces.

    Args:
      target: with a chat template.
      output: a file that does not exist yet.
      limit: number of prompts to write.
      temperature, top_p, max_new_tokens, seed: of the draws.
      draft, block_size, batch_size: see `TextGenerator`.
      progress: called with the number of prompts written.

    Returns:
      The number of draws.

    Raises:
      UsageError: there is no chat template, a number is out of range, the output exists, or the model hardly
        ever ends a prompt.
    """
    check_number("limit", limit, 1, most=bounds.COUNT)
    check_number("max_new_tokens", max_new_tokens, 1, most=bounds.COUNT)
    bounds.check_seed(seed)
    SamplingParams(temperature, top_p=top_p)
    if not temperature:
        raise UsageError("temperature is 0: all prompts would be one; take 1")
    if Path(output).exists():
        raise UsageError(f"{output} is there already: choose another output")
    template = chat_template(target.card.chat, target.name)
    if template is None:
        raise UsageError(f"{target.name} has no chat template, which tells where a user begins")
    turn = UserTurn(template.source, template.words, template.name)
    reader = Reader(tokenizer_of(target), ends_with_eos=False, chat=turn)
    form = PromptFormat(reader, prefix="", max_tokens=None, max_new_tokens=max_new_tokens)
    generator = TextGenerator(target, draft, form=form, block_size=block_size, batch_size=batch_size)
    settings = {
        **{"model": fingerprints.of_params(target.params), "temperature": temperature, "top_p": top_p},
        **{"max_new_tokens": max_new_tokens, "seed": seed},
    }
    path = outputs.place(output, folder=False)
    before = _resumed(path, settings)
    seen, first = {key_of(line["inputs"]) for line in before}, before[-1][NUMBER] + 1 if before else 0

    def drawn() -> Iterator[tuple[int, Generation]]:
        for start in itertools.count(first, batch_size):
            numbers = range(start, start + batch_size)
            texts = generator.stream(
                [""] * batch_size,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
                numbers=numbers,
            )
            yield from zip(numbers, texts, strict=True)

    written, last, vain = len(before), first, 0
    with request_files.output_lines(path, resume=True, settings=settings) as write:
        for last, text in drawn() if written < limit else ():
            key = key_of(text.outputs)
            vain += 1
            if not _is_whole(text, turn) or key in seen:
                if vain == _IN_VAIN:
                    raise UsageError(
                        f"{target.name} has written no new prompt in {vain:,} draws: raise --max_new_tokens "
                        f"(now {max_new_tokens}), or take prompts of another source"
                    )
                continue
            seen.add(key)
            vain = 0
            write(files.as_json({"inputs": text.outputs.strip(), NUMBER: last}))
            written += 1
            if progress is not None:
                progress(written)
            if written == limit:
                break
    return last + 1


def is_finished(output: str, limit: int) -> bool:
    """Tells whether an output holds as many prompts as are asked for, by an earlier run of `write_prompts`.

    A finished run's file does not tell its seed and temperature.
    """
    if not Path(output).is_file():
        return False
    lines = Path(output).read_bytes().decode("utf-8", "replace").split("\n")
    try:
        found = [files.parse_json_object(line, output) for line in lines[:-1]]
    except UsageError:
        return False
    return len(found) == limit and not lines[-1] and all(map(_is_prompt, found))


def _is_prompt(line: dict[str, Any]) -> bool:
    return isinstance(line.get("inputs"), str) and type(line.get(NUMBER)) is int


def _resumed(path: str, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Reads the complete lines of an interrupted run and truncates the file to them."""
    partial = Path(path + ".partial")
    if not partial.is_file():
        return []
    content = partial.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    # Split only at \n: prompts may contain U+2028.
    found = [files.parse_json_object(line, f"{partial}") for line in whole.decode().split("\n")[:-1]]
    if found:
        request_files.check_settings(path, settings, "remove that file")
        for line in found:
            if not _is_prompt(line):
                raise UsageError(f"{partial} holds lines of another kind: move it away")
    with files.saving(path):
        partial.write_bytes(whole)
    return found


def key_of(text: str) -> str:
    """Returns what two prompts share that differ in case and spaces alone."""
    return " ".join(text.casefold().split())


def _is_whole(text: Generation, turn: ChatTemplate) -> bool:
    said = text.outputs
    return (
        text.finish_reason == "eos"
        and len(re.findall(r"\w+", said)) >= _LEAST_WORDS
        and "\ufffd" not in said
        and not any(word and word in said for word in turn.words.values())
    )
