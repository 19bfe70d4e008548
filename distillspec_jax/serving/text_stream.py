"""Text that grows by tokens: what may be sent already, and where a stop string ends it."""

from __future__ import annotations

from collections.abc import Sequence

from distillspec_jax.tokenization.tokenizer import Tokenizer

_UNFINISHED = "\ufffd"
"""How the first bytes of a character read until the others come."""


class TextStream:
    """The text of one output.

    Held back until more is known: the first bytes of a character, and what may be the beginning of a stop
    string.

    Args:
      tokenizer: of the target.
      stop: strings that end the text, which is cut before the first of them.

    Attributes:
      tokens: all ids up to the one that ended the text.
      sent: the text that was handed out.
      stopped: a stop string was met.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self.tokens: list[int] = []
        self.sent = ""
        self.stopped = False

    def push(self, tokens: Sequence[int], done: bool, later: bool = False) -> str:
        """Adds tokens; returns the text that may be sent now.

        Args:
          done: no more will come: nothing is held back.
          later: no text is wanted before it is done.
        """
        if self.stopped:
            return ""
        if later and not done and not self._stop:
            self.tokens += tokens  # nobody has to know what they say yet
            return ""
        before = len(self.tokens)
        self.tokens += tokens
        text = self._tokenizer.decode(self.tokens)
        if self._stop and (cut := _first(text, self._stop)) is not None:
            # The token that completed it is the last one that counts.
            while len(self.tokens) > before + 1 and _first(self._decoded(-1), self._stop) is not None:
                self.tokens.pop()
            self.stopped = done = True
            text = text[:cut]
        if not done:
            text = text.rstrip(_UNFINISHED)
            text = text[: len(text) - self._held_back(text)]
        if not text.startswith(self.sent):  # a tokenizer that rewrites what it said: wait for the end
            return ""
        new, self.sent = text[len(self.sent) :], max(text, self.sent, key=len)
        return new

    def _decoded(self, end: int) -> str:
        return self._tokenizer.decode(self.tokens[:end])

    def _held_back(self, text: str) -> int:
        """Characters at the end of the text that may begin a stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stop):
                return size
        return 0


def _first(text: str, stop: Sequence[str]) -> int | None:
    """Where the first stop string begins; None if there is none."""
    return min((at for at in map(text.find, stop) if at >= 0), default=None)
