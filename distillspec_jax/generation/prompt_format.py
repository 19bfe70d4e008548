"""Prompt format: how a raw text becomes the prompt ids that a model was trained on."""

from __future__ import annotations

import dataclasses

from distillspec_jax.data import catalog
from distillspec_jax.errors import UsageError
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.tokenization.prompt_reader import Reader
from distillspec_jax.tokenization.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class PromptFormat:
    """How a raw input becomes a prompt.

    Attributes:
      reader: the vocabulary, and what surrounds a text: EOS, a chat template.
      prefix: prepended to every input.
      max_tokens: maximum prompt length of the model, including EOS; None: no known limit.
      max_new_tokens: default length of the output.
      truncate: truncate longer prompts instead of rejecting them.
    """

    reader: Reader
    prefix: str
    max_tokens: int | None
    max_new_tokens: int
    truncate: bool = False

    def ids(self, text: str, where: str) -> list[int]:
        """Makes the prompt of a text. `where` names the input in an error.

        Raises:
          UsageError: the prompt is too long and may not be truncated, or template or tokenizer fail on it.
        """
        ids = self._read(text, where, None)
        if self.max_tokens is None or len(ids) <= self.max_tokens:
            return ids
        if not self.truncate:
            raise UsageError(
                f"{where} has {len(ids)} tokens, the model was built for {self.max_tokens}: "
                "shorten it or pass --truncate_inputs"
            )
        return self._read(text, where, self.max_tokens)

    def _read(self, text: str, where: str, max_tokens: int | None) -> list[int]:
        try:
            return self.reader.prompt(self.prefix + text, max_tokens)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error


def prompt_format(
    target: Pretrained,
    *,
    tokenizer: Tokenizer | None = None,
    task: str | None = None,
    prefix: str | None = None,
    truncate: bool = False,
    chat: bool = False,
) -> PromptFormat:
    """Makes a model's format: that of a task (given, or from `zoo:TASK/...`), else the checkpoint's own.

    Args:
      tokenizer: default: the target's own.
      task: use this task's prefix and lengths.
      prefix: overrides the prefix; the empty string means verbatim inputs.
      truncate: truncate prompts that are too long.
      chat: wrap inputs in the checkpoint's chat template.

    Raises:
      UsageError: the task is unknown, or the chat template or tokenizer is missing.
    """
    own_prefix, lengths = catalog.form_of_prompts(target.name, target.card, task)
    if chat and not target.card.chat:
        raise UsageError(f"{target.name} has no chat template: leave --chat out")
    return PromptFormat(
        reader=Reader.of_card(target.card, tokenizer or tokenizer_of(target), chat=chat, name=target.name),
        prefix=own_prefix if prefix is None else prefix,
        max_tokens=lengths.get("inputs"),
        max_new_tokens=lengths.get("targets", 128),
        truncate=truncate,
    )


def tokenizer_of(model: Pretrained, *others: Pretrained) -> Tokenizer:
    """Returns the tokenizer of a checkpoint, or else of the first of the others that has one.

    Raises:
      UsageError: there is none.
    """
    for one in (model, *others):
        if one.tokenizer_bytes is not None:
            try:
                return Tokenizer.from_bytes(one.tokenizer_bytes, one.card.eos_ids)
            except UsageError as error:
                raise UsageError(f"{one.name}: {error}") from error
    raise UsageError(f"{model.name} carries no tokenizer: text cannot be turned into its token ids")
