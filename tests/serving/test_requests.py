"""Whatever a body holds, it is a request or refused in one line."""

from __future__ import annotations

import dataclasses
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from distillspec_jax.errors import UsageError
from distillspec_jax.serving import requests

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["tiny", "user", "text", 1, 0, -1, 16, 0.5, 1e-45, 1e308, 2**32 - 1, 2**32]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner, max_size=3),
    ),
    max_leaves=6,
)
NAMES = [
    *(field.name for field in dataclasses.fields(requests._CompletionBody)),
    *(field.name for field in dataclasses.fields(requests._ChatBody)),
    *requests._NEUTRAL,
    *requests._IGNORED,
    "anything else",
]


@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5), st.booleans())
def test_any_body_is_a_request_or_refused(body: dict[str, Any], chat: bool) -> None:
    good = {"messages": [{"role": "user", "content": "hi"}]} if chat else {"prompt": "hi"}
    refused: list[str] = []
    for whole in (body, {**good, **body}, {**body, **good}):
        try:
            asked = requests.read(whole, chat, "tiny")
        except UsageError as error:
            refused.append(str(error))
            continue
        assert asked.chat == chat
        assert asked.prompts
        assert 0 <= asked.seed < 2**32
        assert asked.temperature >= 0
        assert 0 < asked.top_p <= 1
        assert 1 <= asked.samples <= requests.MOST_SAMPLES
        assert asked.max_new_tokens is None or asked.max_new_tokens >= 1
    assert not [message for message in refused if "\n" in message]


def test_defaults_are_openais() -> None:
    asked = requests.read({"prompt": "hi"}, False, "tiny")
    assert (asked.temperature, asked.top_p, asked.top_k, asked.samples) == (1.0, 1.0, 0, 1)
    assert (asked.stop, asked.stream, asked.logprobs) == ((), False, None)
    assert requests.read({"prompt": "hi"}, False, "tiny").seed != asked.seed
    chat = requests.read({"messages": [{"role": "user", "content": "hi"}]}, True, "tiny")
    assert chat.max_new_tokens is None


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"prompt": [1, 2]}, {"prompts": [(1, 2)]}),
        ({"prompt": [[1], "two", [3, 4]]}, {"prompts": [(1,), "two", (3, 4)]}),
        ({"prompt": "x", "top_k": -1}, {"top_k": 0}),
        ({"prompt": "x", "n": 3, "best_of": 3}, {"samples": 3}),
        ({"prompt": "x", "logit_bias": {}, "echo": False, "metadata": {"a": 1}}, {"samples": 1}),
        # As `vllm bench serve` 0.32 asks: nothing, by a field of vLLM's.
        ({"prompt": "x", "repetition_penalty": 1.0, "logprobs": None}, {"samples": 1}),
        ({"prompt": "x", "logprobs": 0}, {"logprobs": 0}),
        ({"prompt": "x", "stop": "."}, {"stop": (".",)}),
    ],
)
def test_completions(body: dict[str, Any], found: dict[str, Any]) -> None:
    asked = requests.read(body, False, "tiny")
    assert {name: getattr(asked, name) for name in found} == found


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"max_completion_tokens": 4, "max_tokens": 9}, {"max_new_tokens": 4}),
        ({"logprobs": True, "top_logprobs": 2}, {"logprobs": 2}),
        ({"logprobs": True}, {"logprobs": 0}),
        ({"logprobs": False}, {"logprobs": None}),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                    }
                ]
            },
            {"prompts": [[{"role": "user", "content": "ab"}]]},
        ),
    ],
)
def test_chats(body: dict[str, Any], found: dict[str, Any]) -> None:
    asked = requests.read({"messages": [{"role": "user", "content": "hi"}], **body}, True, "tiny")
    assert {name: getattr(asked, name) for name in found} == found


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"messages": []}, "messages is empty"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "only text is known"),
        ({"messages": [{"content": "hi"}]}, "no field 'role'"),
        ({"top_logprobs": 2}, "top_logprobs without logprobs"),
        ({"tools": [{"type": "function"}]}, "tools is not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format is not supported"),
    ],
)
def test_chats_that_are_refused(body: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        requests.read({"messages": [{"role": "user", "content": "hi"}], **body}, True, "tiny")


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([{"role": "user", "content": "hello"}], "hello"),
        ([{"role": "user", "content": [{"type": "text", "text": "hello"}]}], "hello"),
        ([{"role": "system", "content": "hello"}], None),
        ([{"role": role, "content": "hello"} for role in ("user", "assistant", "user")], None),
    ],
)
def test_a_log_keeps_a_chats_text_where_it_is_one_prompt(messages, text):
    assert requests.read({"messages": messages}, True, "tiny").texts == [text]
    assert requests.read({"prompt": ["hello", "you"]}, False, "tiny").texts == ["hello", "you"]
    assert requests.read({"prompt": [1, 2]}, False, "tiny").texts == [None]
