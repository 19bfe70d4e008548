"""One output, on its way from the queue through the slots to its client."""

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
      reason: `stop` (EOS or a stop string), `length`, `failed` (non-finite logits), `cancelled`, or `error`
        (of the server).
      record: the device's counts; None if it never started.
      draft: name of the draft that served it.
    """

    reason: str
    record: Record | None = None
    draft: str = ""


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of an output, as sent to the client.

    Attributes:
      text: new text.
      tokens: number of tokens of the output so far.
      scores: of new tokens, if requested.
      ending: set in the last piece.
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
      deliver: receives pieces; called in the worker's thread.
      key: determines the draft that serves it, see `routing`.
      logprobs: whether scores are requested.
      streams: whether text is delivered as it is generated, instead of at the end.
      arrived, began, first_token, ended: `time.perf_counter()`; it begins when it gets a slot.
      draft: name of the draft that serves it, once known.
      revision: of the registry that chose it.
      ending: set once it has ended.
    """

    prompt: OnlinePrompt
    stream: TextStream
    deliver: Callable[[Piece], None]
    key: str
    logprobs: bool = False
    streams: bool = True
    arrived: float = dataclasses.field(default_factory=time.perf_counter)
    began: float | None = None
    first_token: float | None = None
    ended: float | None = None
    draft: str = ""
    revision: int | None = None
    ending: Ending | None = None
