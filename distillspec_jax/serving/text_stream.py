"""Incremental text of an output: the part that may be sent, and the cut at a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from distillspec_jax.tokenization.tokenizer import Tokenizer

_UNFINISHED = "\ufffd"
"""The decoding of a character's first bytes until the rest arrives."""


class TextStream:
    """The text of one output.

    It holds back the first bytes of an incomplete character, and any possible beginning of a stop string.

    Args:
      tokenizer: of the target.
      stop: strings that end the text, which is cut before the first of them.

    Attributes:
      tokens: all ids up to the one that ended the text.
      sent: the text returned so far.
      stopped: whether a stop string was found.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self.tokens: list[int] = []
        self.sent = ""
        self.stopped = False

    def push(self, tokens: Sequence[int], done: bool, later: bool = False) -> str:
        """Adds tokens; returns the text that may be sent now.

        Args:
          done: no more tokens will come, so nothing is held back.
          later: text is only needed at the end.
        """
        if self.stopped:
            return ""
        if later and not done and not self._stop:
            self.tokens += tokens  # their text is not needed yet
            return ""
        before = len(self.tokens)
        self.tokens += tokens
        text = self._tokenizer.decode(self.tokens)
        if self._stop and (cut := _first(text, self._stop)) is not None:
            # The last token that counts is the one that completed the stop string.
            while len(self.tokens) > before + 1 and _first(self._decoded(-1), self._stop) is not None:
                self.tokens.pop()
            self.stopped = done = True
            text = text[:cut]
        if not done:
            text = text.rstrip(_UNFINISHED)
            text = text[: len(text) - self._held_back(text)]
        if not text.startswith(self.sent):  # the tokenizer changed earlier text: wait for the end
            return ""
        new, self.sent = text[len(self.sent) :], max(text, self.sent, key=len)
        return new

    def _decoded(self, end: int) -> str:
        return self._tokenizer.decode(self.tokens[:end])

    def _held_back(self, text: str) -> int:
        """Counts the characters at the end of the text that may begin a stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stop):
                return size
        return 0


def _first(text: str, stop: Sequence[str]) -> int | None:
    """Returns the start of the first stop string; None if there is none."""
    return min((at for at in map(text.find, stop) if at >= 0), default=None)
