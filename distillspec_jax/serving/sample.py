"""One output on its way: from the queue through the slots to whoever waits for it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

from distillspec_jax.acceptance import Record
from distillspec_jax.decoding.online import OnlinePrompt
from distillspec_jax.serving.scoring import TokenScore
from distillspec_jax.serving.text_stream import TextStream


@dataclasses.dataclass(frozen=True)
class Ending:
    """How an output ended.

    Attributes:
      reason: `stop` (EOS or a stop string), `length`, `failed` (logits that were not finite), `cancelled`,
        or `error` (the server's own).
      record: what the device counted; None if it never began.
      draft: name of the draft that served it.
    """

    reason: str
    record: Record | None = None
    draft: str = ""


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of an output, as it is sent.

    Attributes:
      text: new text.
      tokens: how many tokens the output has so far.
      scores: of new tokens, if they are wanted.
      ending: of the last piece.
    """

    text: str
    tokens: int
    scores: Sequence[TokenScore] = ()
    ending: Ending | None = None


@dataclasses.dataclass
class Sample:
    """One output.

    Attributes:
      prompt: its ids and settings.
      stream: its text so far.
      deliver: takes pieces; called in the worker's thread.
      key: decides which draft serves it, see `routing`.
      logprobs: whether scores are wanted.
      streams: whether text is delivered as it is made; else all of it at the end.
      arrived, first_token, ended: `time.perf_counter()`.
      draft: name of the draft that serves it, once it is known.
      revision: of the registry that chose it.
      ending: once it has ended.
    """

    prompt: OnlinePrompt
    stream: TextStream
    deliver: Callable[[Piece], None]
    key: str
    logprobs: bool = False
    streams: bool = True
    arrived: float = dataclasses.field(default_factory=time.perf_counter)
    first_token: float | None = None
    ended: float | None = None
    draft: str = ""
    revision: int | None = None
    ending: Ending | None = None
