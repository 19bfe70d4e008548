"""How a text becomes ids: one code for training streams, for stored sets and for prompts of users.

No TensorFlow here, and no JAX.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distillspec_jax.errors import UsageError
from distillspec_jax.tokenization.chat_template import ChatTemplate
from distillspec_jax.tokenization.tokenizer import Tokenizer

if TYPE_CHECKING:
    from distillspec_jax.model_card import ModelCard


@dataclass(frozen=True)
class Reader:
    """A vocabulary and what a model was taught to find around a text.

    Attributes:
      tokenizer: the vocabulary.
      ends_with_eos: EOS follows a prompt, as the embedded tasks have it.
      chat: wraps a prompt; then nothing else is added.
      begins_with_eos: EOS stands before a prompt, as if it followed another text.
    """

    tokenizer: Tokenizer
    ends_with_eos: bool = True
    chat: ChatTemplate | None = None
    begins_with_eos: bool = False

    @classmethod
    def of_card(cls, card: ModelCard, tokenizer: Tokenizer, *, chat: bool = False, name: str = "") -> Reader:
        """Makes the reader of a checkpoint's prompts; `name` is what an error calls it.

        Raises:
          UsageError: a chat template is asked for where there is none.
        """
        template = chat_template(card.chat, name) if chat else None
        if chat and template is None:
            raise UsageError(f"{name} has no chat template: leave CHAT out")
        if template is not None:
            template.prepare()
        return cls(tokenizer, card.prompts_end_with_eos, template, card.prompts_begin_with_eos)

    def prompt(self, text: str, max_length: int | None = None) -> list[int]:
        """Ids of a prompt, its text cut so that what belongs around it survives at `max_length` ids in all.

        Without EOS or template a text goes on where it stops; an empty one begins after the EOS of another.

        Raises:
          UsageError: the template takes more than that, or is broken.
        """
        if self.chat is not None:
            return self._chat(self.chat, text, max_length)
        before = [self.tokenizer.eos_id] if self.begins_with_eos else self.tokenizer.first_ids
        ids = [*before, *self.tokenizer.encode(text)]
        if not self.ends_with_eos:
            return ids[:max_length] or [self.tokenizer.eos_id]
        kept = ids if max_length is None else ids[: max_length - 1]
        return [*kept, self.tokenizer.eos_id]

    def conversation(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a conversation, up to where the next answer begins.

        Args:
          messages: each with `role` and `content`.

        Raises:
          UsageError: there is no chat template, or it is broken or refuses the conversation.
        """
        if self.chat is None:
            raise UsageError("the model has no chat template: ask for completions of texts")
        return self.tokenizer.encode(self.chat.converse(messages))

    def _chat(self, chat: ChatTemplate, text: str, max_length: int | None) -> list[int]:
        ids, said = self.tokenizer.encode(chat.wrap(text)), self.tokenizer.encode(text)
        while max_length is not None and (over := len(ids) - max_length) > 0:
            if over > len(said):
                raise UsageError(
                    f"the chat template alone takes {len(ids) - len(said)} tokens, a prompt may have "
                    f"{max_length}: raise TASK_FEATURE_LENGTHS['inputs']"
                )
            said = said[: len(said) - over]
            # A cut may go through a character, whose first bytes alone are none.
            ids = self.tokenizer.encode(chat.wrap(self.tokenizer.decode(said).rstrip("\ufffd")))
        return ids

    def target(self, text: str, max_length: int | None = None, *, ended: bool = True) -> list[int]:
        """Ids of what a model shall say: EOS is last where the text ends, and a cut text has none.

        Args:
          text: what it says; an empty one is EOS alone.
          max_length: ids to keep, EOS included.
          ended: False: who wrote the text was cut short.
        """
        ids = [*self.tokenizer.encode(text), *([self.tokenizer.eos_id] if ended else [])]
        return ids[:max_length] or [self.tokenizer.eos_id]

    @property
    def fingerprint(self) -> str:
        """Digests all that decides the ids."""
        chat = self.chat and [self.chat.source, dict(self.chat.words)]
        conventions = [
            self.tokenizer.fingerprint,
            self.tokenizer.eos_ids,
            self.ends_with_eos,
            self.begins_with_eos,
            chat,
        ]
        return hashlib.sha256(json.dumps(conventions).encode()).hexdigest()[:16]


def chat_template(chat: dict[str, str], name: str = "") -> ChatTemplate | None:
    """The template of `ModelCard.chat`; None where that is empty. `name` is what errors call its owner."""
    words = dict(chat)
    source = words.pop("template", None)
    return None if source is None else ChatTemplate(source, words, name or "the checkpoint")
