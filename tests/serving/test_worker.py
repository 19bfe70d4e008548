"""The decoding thread: a defect ends what it concerns, and nobody waits for ever."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from distillspec_jax.decoding.online import OnlinePrompt, Update
from distillspec_jax.serving.routing import Route
from distillspec_jax.serving.sample import Piece, Sample
from distillspec_jax.serving.worker import Worker


class Stream:
    """The text of an output, whose tokenizer may fail."""

    stopped = False

    def __init__(self, fails: bool) -> None:
        self.tokens: list[int] = []
        self._fails = fails

    def push(self, tokens: Any, done: bool, later: bool = False) -> str:
        if self._fails:
            raise RuntimeError("a text that cannot be read")
        self.tokens += tokens
        return "word" * len(tokens)


class Batch:
    """Slots that tell a token of every prompt at each visit, until they are broken."""

    running = waiting = 0

    def __init__(self, visits: int) -> None:
        self.tickets: list[int] = []
        self.cancelled: list[int] = []
        self._visits = visits

    @property
    def busy(self) -> bool:
        return bool(self.tickets)

    def submit(self, prompt: OnlinePrompt) -> int:
        self.tickets.append(len(self.tickets))
        return self.tickets[-1]

    def visit(self) -> list[Update]:
        self._visits -= 1
        if self._visits < 0:
            raise RuntimeError("out of memory")
        return [Update(ticket, (7,)) for ticket in self.tickets if ticket not in self.cancelled]

    def cancel(self, ticket: int) -> None:
        self.cancelled.append(ticket)

    def reset(self) -> None:
        raise RuntimeError("out of memory, still")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_in_a_text_ends_that_output_and_one_of_the_batch_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told: dict[str, list[Piece]] = {"sound": [], "unreadable": [], "elsewhere": []}
    ended = threading.Semaphore(0)

    def sample(name: str) -> Sample:
        def deliver(piece: Piece) -> None:
            told[name].append(piece)
            if piece.ending is not None:
                ended.release()

        return Sample(OnlinePrompt([2], 4), Stream(name == "unreadable"), deliver, key=name)  # type: ignore[arg-type]

    first, second = Batch(visits=2), Batch(visits=10**9)
    worker = Worker({"v1": first, "v2": second}, Route("v1"), scorer=None)  # type: ignore[arg-type,dict-item]
    for name in ("sound", "unreadable"):
        worker.start_sample(sample(name))
    worker.serve(Route("v2"), {})
    worker.start_sample(sample("elsewhere"))
    worker.start()
    for _ in told:
        assert ended.acquire(timeout=60)
    worker.join(60)
    assert not worker.is_alive()
    assert [piece.text for piece in told["sound"]] == ["word", "word", ""]
    assert [pieces[-1].ending.reason for pieces in told.values() if pieces[-1].ending] == [
        "error",
        "error",
        "cancelled",
    ]
    assert first.cancelled == [1]
    told["late"] = []
    worker.start_sample(sample("late"))  # its client waited for ever
    (piece,) = told["late"]
    assert piece.ending is not None
    assert piece.ending.reason == "cancelled"
    assert "a text that cannot be read" in capsys.readouterr().err
