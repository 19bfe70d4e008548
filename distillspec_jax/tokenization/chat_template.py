"""The template that wraps a message the way a model was taught to answer: Jinja, as checkpoints bring it."""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from distillspec_jax.errors import UsageError


@dataclass(frozen=True)
class ChatTemplate:
    """A template and the words that it may name.

    Attributes:
      source: Jinja. It runs in a sandbox, for it comes with the weights.
      words: `bos_token`, `eos_token` and the like.
    """

    source: str = field(repr=False)
    words: Mapping[str, str] = field(default_factory=dict)

    def wrap(self, text: str) -> str:
        """A conversation of one message by the user, up to where the answer begins.

        Raises:
          UsageError: the template is broken, or refuses the conversation.
        """
        messages = [{"role": "user", "content": text}]
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **self.words)
        except (jinja2.TemplateError, TypeError) as error:
            raise UsageError(f"the checkpoint's chat template: {str(error).splitlines()[0]}") from error

    @functools.cached_property
    def _template(self) -> jinja2.Template:
        # What templates are written for: transformers' environment.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        return environment.from_string(self.source)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)  # Jinja's own escapes HTML


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
