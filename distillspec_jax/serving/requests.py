"""Client requests: the validated bodies of OpenAI's `/v1/completions` and `/v1/chat/completions`.

Unsupported fields that would change the distribution or the format of the answer are rejected by name:
ignoring them would give an answer other than the requested one.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from distillspec_jax import bounds, schema
from distillspec_jax.decoding.sampling import SamplingParams
from distillspec_jax.errors import UsageError, nearest, shown

MOST_SAMPLES = 128
MOST_LOGPROBS = 20
_MOST_STOPS = 16
COMPLETION_TOKENS = 16
"""OpenAI's default for `/v1/completions`, if the client gives no limit."""

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "ignore_eos": (False,),
    "logit_bias": ({},),
    "min_p": (0,),
    "min_tokens": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tools": ([],),
}
"""Unsupported fields with their neutral values, which are accepted; some are vLLM's, whose clients send them
(`vllm bench serve` a repetition_penalty of 1)."""
_IGNORED = (
    "metadata",
    "parallel_tool_calls",
    "service_tier",
    "store",
    "prompt_cache_key",
    "safety_identifier",
)
"""Fields for the client's own bookkeeping."""


class ModelNotFound(UsageError):
    """The requested model is not the served one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _StreamOptions:
    include_usage: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Body:
    """The fields common to both kinds of request."""

    model: str | None = None
    max_tokens: int | None = None
    temperature: schema.Number | None = None
    top_p: schema.Number | None = None
    top_k: int | None = None
    n: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    user: str | None = None
    unknown: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _CompletionBody(_Body):
    prompt: str | list[Any]
    logprobs: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Message:
    role: str
    content: str | list[dict[str, Any]] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ChatBody(_Body):
    messages: list[_Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


@dataclasses.dataclass(frozen=True)
class Asked:
    """One request, validated as far as possible without the model.

    Attributes:
      chat: whether it came to `/v1/chat/completions`.
      prompts: texts, token ids, or (for a chat) one list of messages with `role` and `content`.
      max_new_tokens: maximum output length; None: the server's limit, or OpenAI's default for completions.
      temperature, top_p, top_k: the sampling distribution.
      samples: outputs per prompt.
      seed: determines the outputs; drawn at random if the client gives none.
      seeded: whether the client gave it.
      stop: strings that end an output.
      stream: send text as it is generated.
      include_usage: send the counts in a last chunk.
      logprobs: number of alternatives per token with log-probabilities; None: no log-probabilities.
      user: the client's name for its user.
    """

    chat: bool
    prompts: Sequence[Any]
    max_new_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    samples: int
    seed: int
    seeded: bool
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    logprobs: int | None
    user: str | None

    @property
    def texts(self) -> list[str | None]:
        """The prompts as a log keeps them: a text, or a chat's only message; None for any other prompt."""
        if self.chat:
            (messages,) = self.prompts
            alone = len(messages) == 1 and messages[0]["role"] == "user"
            return [messages[0]["content"] if alone else None]
        return [prompt if isinstance(prompt, str) else None for prompt in self.prompts]


def read(body: Any, chat: bool, served: str) -> Asked:
    """Validates a request's body.

    Args:
      body: the parsed JSON.
      chat: whether it came to the chat route.
      served: name of the served model.

    Raises:
      ModelNotFound: another model is requested.
      UsageError: a field is missing, has the wrong type, is out of range or unsupported; names the first.
    """
    kind = _ChatBody if chat else _CompletionBody
    found: Any = schema.read(kind, body, "the request")
    if found.model not in (None, served):
        raise ModelNotFound(
            f"model {shown(found.model)} is not served here: {nearest(found.model, [served])}"
        )
    _check_unknown(found.unknown, [field.name for field in dataclasses.fields(kind)], found.n)
    samples = 1 if found.n is None else found.n
    if not 1 <= samples <= MOST_SAMPLES:
        raise UsageError(f"n is {samples}, must be from 1 to {MOST_SAMPLES}")
    temperature, top_p = (1.0 if one is None else one for one in (found.temperature, found.top_p))
    top_k = max(found.top_k or 0, 0)  # in vLLM, -1 means "off"
    SamplingParams(temperature, top_k, top_p)
    if found.seed is not None and not 0 <= found.seed <= bounds.SEED:
        raise UsageError(f"seed is {shown(found.seed)}, must be from 0 to {bounds.SEED}")
    limit = found.max_tokens
    if chat and found.max_completion_tokens is not None:
        limit = found.max_completion_tokens  # the newer name
    if limit is not None and limit < 1:
        raise UsageError(f"max_tokens is {limit}, must be at least 1")
    return Asked(
        chat=chat,
        prompts=[_messages(found.messages)] if chat else _prompts(found.prompt),
        max_new_tokens=limit,
        temperature=float(temperature),
        top_p=float(top_p),
        top_k=top_k,
        samples=samples,
        seed=secrets.randbits(32) if found.seed is None else found.seed,
        seeded=found.seed is not None,
        stop=_stops(found.stop),
        stream=bool(found.stream),
        include_usage=bool(found.stream_options and found.stream_options.include_usage),
        logprobs=_logprobs(found, chat),
        user=found.user,
    )


def _check_unknown(unknown: Mapping[str, Any], known: Sequence[str], samples: int | None) -> None:
    for name, value in unknown.items():
        if value is None or name in _IGNORED or (name == "best_of" and value == samples):
            continue
        if name in _NEUTRAL:
            if value not in _NEUTRAL[name]:
                raise UsageError(f"{name} is not supported: leave it out")
            continue
        raise UsageError(f"unknown field {shown(name)}: {nearest(name, {*known} - {'unknown'})}")


def _prompts(prompt: str | list[Any]) -> Sequence[Any]:
    if isinstance(prompt, str):
        return [prompt]
    if prompt and all(_is_id(one) for one in prompt):
        return [tuple(prompt)]
    if not prompt:
        raise UsageError("prompt is empty: give a text, a list of texts, or token ids")
    for one in prompt:
        if not isinstance(one, str) and not (isinstance(one, list) and one and all(map(_is_id, one))):
            raise UsageError(f"prompt holds {shown(one)}: must be a text, a list of texts, or token ids")
    if len(prompt) > MOST_SAMPLES:
        raise UsageError(f"prompt holds {len(prompt):,} prompts, must be at most {MOST_SAMPLES}")
    return [one if isinstance(one, str) else tuple(one) for one in prompt]


def _is_id(one: Any) -> bool:
    return isinstance(one, int) and not isinstance(one, bool)


def _messages(messages: Sequence[_Message]) -> list[dict[str, str]]:
    if not messages:
        raise UsageError("messages is empty: give one at least")
    return [{"role": one.role, "content": _content(one, i)} for i, one in enumerate(messages)]


def _content(message: _Message, number: int) -> str:
    if isinstance(message.content, str):
        return message.content
    parts = message.content or []
    for part in parts:
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise UsageError(
                f"messages[{number}] has a part of type {shown(part.get('type'))}: only text is known"
            )
    return "".join(part["text"] for part in parts)


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    found = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(found) > _MOST_STOPS or not all(found):
        raise UsageError(f"stop has {len(found)} strings: at most {_MOST_STOPS}, none of them empty")
    return found


def _logprobs(found: Any, chat: bool) -> int | None:
    wanted = (found.top_logprobs or 0 if found.logprobs else None) if chat else found.logprobs
    if chat and found.top_logprobs is not None and not found.logprobs:
        raise UsageError("top_logprobs without logprobs: set logprobs to true")
    if wanted is not None and not 0 <= wanted <= MOST_LOGPROBS:
        raise UsageError(f"{'top_' if chat else ''}logprobs is {wanted}, must be from 0 to {MOST_LOGPROBS}")
    return wanted
