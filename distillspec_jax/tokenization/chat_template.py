"""The template that wraps a message the way a model was taught to answer: Jinja, as checkpoints bring it."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from distillspec_jax.errors import UsageError
from distillspec_jax.tokenization.confinement import Confined, Refused


@dataclass(frozen=True)
class ChatTemplate:
    """A template and the words that it may name.

    Attributes:
      source: Jinja. It runs in a sandbox and in a process with limits, for it comes with the weights.
      words: `bos_token`, `eos_token` and the like.
      name: whose it is, for errors.
    """

    source: str = field(repr=False)
    words: Mapping[str, str] = field(default_factory=dict)
    name: str = field(default="the checkpoint", compare=False)

    def wrap(self, text: str) -> str:
        """A conversation of one message by the user, up to where the answer begins.

        Raises:
          UsageError: the template is broken, refuses the conversation, or takes too much time or memory.
        """
        return self.converse([{"role": "user", "content": text}])

    def converse(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A conversation up to where the next answer begins.

        Args:
          messages: each with `role` and `content`.

        Raises:
          UsageError: see `wrap`.
        """
        try:
            return str(self._process.call("render", [dict(message) for message in messages]))
        except Refused as error:
            raise UsageError(f"{self.name}'s chat template: {error}") from error

    def prepare(self) -> None:
        """Begins the process that renders it, which is then ready when the first text comes."""
        _ = self._process

    @functools.cached_property
    def _process(self) -> Confined:
        return _process(json.dumps([self.source, dict(self.words)]).encode())


@functools.lru_cache(maxsize=4)
def _process(content: bytes) -> Confined:
    return Confined("distillspec_jax.tokenization.chat_rendering:ChatRendering", content)
