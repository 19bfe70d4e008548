"""Answers to clients: the objects of OpenAI's API, whole or in chunks, and its errors."""

from __future__ import annotations

import dataclasses
import itertools
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

from distillspec_jax.serving.requests import Asked
from distillspec_jax.serving.sample import Ending, Piece
from distillspec_jax.serving.scoring import TokenScore
from distillspec_jax.tokenization.tokenizer import Tokenizer

DONE = b"data: [DONE]\n\n"
"""The end of a stream of server-sent events."""


@dataclasses.dataclass
class Choice:
    """One output, as delivered so far."""

    text: str = ""
    tokens: int = 0
    scores: list[TokenScore] = dataclasses.field(default_factory=list)
    ending: Ending | None = None

    def add(self, piece: Piece) -> None:
        """Adds a piece."""
        self.text += piece.text
        self.tokens = piece.tokens
        self.scores += piece.scores
        self.ending = piece.ending


class Answers:
    """Writes the answers to one request.

    Args:
      asked: the request.
      model: the served name.
      tokenizer: spells tokens.
      prompt_tokens: of all prompts together.

    Attributes:
      identity: of the answer.
    """

    def __init__(self, asked: Asked, model: str, tokenizer: Tokenizer, prompt_tokens: int) -> None:
        self.identity = f"{'chatcmpl' if asked.chat else 'cmpl'}-{secrets.token_hex(12)}"
        self._asked, self._model, self._tokenizer = asked, model, tokenizer
        self._prompt_tokens, self._created = prompt_tokens, int(time.time())
        self._offsets: dict[int, int] = {}
        self._begun: set[int] = set()

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Makes the answer to a request that does not stream."""
        return {
            **self._head(""),
            "choices": [self._choice(number, one) for number, one in enumerate(choices)],
            "usage": self._usage(choices),
        }

    def chunks(self, number: int, piece: Piece) -> Iterator[dict[str, Any]]:
        """Yields the stream's chunks for a piece of one output: its text, then its finish reason."""
        if self._asked.chat and number not in self._begun:
            self._begun.add(number)
            yield self._chunk(number, {"delta": {"role": "assistant", "content": ""}})
        if piece.text or piece.scores:
            said: dict[str, Any] = (
                {"delta": {"content": piece.text}} if self._asked.chat else {"text": piece.text}
            )
            yield self._chunk(number, {**said, "logprobs": self._logprobs(piece.scores, number)})
        if piece.ending is not None:
            body: dict[str, Any] = {"delta": {}} if self._asked.chat else {"text": ""}
            yield self._chunk(number, body, finish_reason=piece.ending.reason)

    def last(self, choices: Sequence[Choice]) -> dict[str, Any] | None:
        """Makes the chunk with the counts; None unless the client asked for it."""
        if not self._asked.include_usage:
            return None
        return {**self._head(".chunk"), "choices": [], "usage": self._usage(choices)}

    def _head(self, kind: str) -> dict[str, Any]:
        # Completions use the same name for whole answers and chunks.
        name = f"chat.completion{kind}" if self._asked.chat else "text_completion"
        return {"id": self.identity, "object": name, "created": self._created, "model": self._model}

    def _chunk(self, number: int, body: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": number, "logprobs": None, **body, "finish_reason": finish_reason}
        usage = {"usage": None} if self._asked.include_usage else {}
        return {**self._head(".chunk"), "choices": [choice], **usage}

    def _choice(self, number: int, choice: Choice) -> dict[str, Any]:
        assert choice.ending is not None
        said: dict[str, Any] = (
            {"message": {"role": "assistant", "content": choice.text, "refusal": None}}
            if self._asked.chat
            else {"text": choice.text}
        )
        return {
            "index": number,
            **said,
            "logprobs": self._logprobs(choice.scores, number),
            "finish_reason": choice.ending.reason,
        }

    def _usage(self, choices: Sequence[Choice]) -> dict[str, Any]:
        emitted = sum(one.tokens for one in choices)
        usage: dict[str, Any] = {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": emitted,
            "total_tokens": self._prompt_tokens + emitted,
        }
        records = [one.ending.record for one in choices if one.ending and one.ending.record]
        if any(record.drafted for record in records):
            # OpenAI's fields for predicted outputs.
            accepted = sum(record.accepted for record in records)
            rejected = sum(record.drafted or 0 for record in records) - accepted
            usage["completion_tokens_details"] = {
                "accepted_prediction_tokens": accepted,
                "rejected_prediction_tokens": rejected,
            }
        return usage

    def _logprobs(self, scores: Sequence[TokenScore], number: int) -> dict[str, Any] | None:
        wanted = self._asked.logprobs
        if wanted is None:
            return None
        return self._of_chat(scores, wanted) if self._asked.chat else self._of_text(scores, wanted, number)

    def _of_chat(self, scores: Sequence[TokenScore], wanted: int) -> dict[str, Any]:
        def entry(token: int, logprob: float) -> dict[str, Any]:
            spelt = self._tokenizer.piece_bytes(token)
            return {"token": self._spelt(token), "logprob": _finite(logprob), "bytes": list(spelt)}

        return {
            "content": [
                {
                    **entry(one.token, one.logprob),
                    "top_logprobs": list(itertools.starmap(entry, one.top[:wanted])),
                }
                for one in scores
            ],
            "refusal": None,
        }

    def _of_text(self, scores: Sequence[TokenScore], wanted: int, number: int) -> dict[str, Any]:
        tokens = [self._spelt(one.token) for one in scores]
        *offsets, end = itertools.accumulate(map(len, tokens), initial=self._offsets.get(number, 0))
        self._offsets[number] = end
        return {
            "tokens": tokens,
            "token_logprobs": [_finite(one.logprob) for one in scores],
            "top_logprobs": [
                {self._spelt(token): _finite(logprob) for token, logprob in one.top[:wanted]}
                for one in scores
            ]
            if wanted
            else None,
            "text_offset": offsets,
        }

    def _spelt(self, token: int) -> str:
        """Spells a token as text; EOS and padding, which add no text, by their names."""
        added = self._tokenizer.piece_bytes(token)
        return added.decode("utf-8", "replace") if added else self._tokenizer.piece(token)


def _finite(logprob: float) -> float:
    """Replaces -inf, which JSON lacks, with OpenAI's substitute."""
    return max(logprob, -9999.0)


def error(message: str, kind: str = "invalid_request_error", code: str | None = None) -> dict[str, Any]:
    """Makes an error object."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
