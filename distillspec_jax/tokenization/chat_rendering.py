"""Jinja as chat templates are written for it; it runs in the process of `confined_process` alone."""

from __future__ import annotations

import datetime
import json
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MOST_CHARACTERS = 1 << 20
"""A template may write so many, and four times what it is given."""


class ChatRendering:
    """A template, compiled.

    Args:
      content: the template and its words, as JSON.

    Raises:
      jinja2.TemplateError: it is broken.
    """

    def __init__(self, content: bytes) -> None:
        source, self._words = json.loads(content)
        # What templates are written for: transformers' environment.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        self._template = environment.from_string(source)

    def render(self, messages: list[dict[str, str]]) -> str:
        """A conversation, up to where the next answer begins.

        Args:
          messages: each with `role` and `content`.

        Raises:
          jinja2.TemplateError: the template refuses the conversation.
          ValueError: it writes too much.
        """
        given = sum(len(message["content"]) for message in messages)
        most, length, parts = _MOST_CHARACTERS + 4 * given, 0, []
        for part in self._template.generate(messages=messages, add_generation_prompt=True, **self._words):
            parts.append(part)
            length += len(part)
            if length > most:
                raise ValueError(f"it writes more than {most:,} characters")
        return "".join(parts)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)  # Jinja's own escapes HTML


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
