"""Values that gin binds fit the annotations of what they are bound to, before anything is made of them.

gin itself binds anything to anything; a text where a number belongs is then a traceback from wherever it is
first used, perhaps hours later.
"""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gin

from distillspec_jax.errors import UsageError, nearest

_LONGEST = 60
"""Characters of a value that a message quotes."""
_LITERALS = (bool, int, float, complex, str, bytes, list, tuple, dict, set, type(None))
"""Types that a gin file can write down; everything else is made by a function or class that it names."""

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text in quotes",
    Path: "a path in quotes",
    bool: "True or False",
    types.NoneType: "None",
}


def check(job: Callable[..., Any]) -> None:
    """Checks what is bound to a job, and to all that is made for it.

    Raises:
      UsageError: a class or function without its parentheses, or a value of a type that the parameter does
        not take. Names the parameter (or the macro), the value, and what is taken.
    """
    found = list(_bound(job))
    for name, bound, _ in found:
        if isinstance(bound, gin.config.ConfigurableReference) and not bound.evaluate:
            made = bound.configurable.wrapped
            kind = "class" if inspect.isclass(made) else "function"
            raise UsageError(f"{name} is the {kind} {made.__name__}: write @{bound.scoped_selector}()")
    for name, bound, hint in found:
        if isinstance(bound, str) and not _is_unicode(bound):
            raise UsageError(f"{name}={bound!r}: holds a lone surrogate, no valid Unicode")
        if not _holds_references(bound) and not _fits(bound, hint):
            raise UsageError(_complaint(name, bound, hint))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_Bound = tuple[str, Any, Any]


def _bound(made: Callable[..., Any], around: tuple[str, ...] = ()) -> Iterator[_Bound]:
    """Yields (name, value, type) of what is bound to a function, and in turn to what is made for it.

    Args:
      around: what it is made for, and that is made for, by their names in gin.
    """
    hints = _hints(made)
    for name, value in gin.get_bindings(made, resolve_references=False).items():
        yield from _parts(f"{made.__name__}.{name}", value, hints.get(name, Any), around)


def _parts(name: str, value: Any, hint: Any, around: tuple[str, ...]) -> Iterator[_Bound]:
    yield name, value, hint
    if isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _parts(name, part, Any, around)
    if not isinstance(value, gin.config.ConfigurableReference) or not value.evaluate:
        return
    made, selector = value.configurable.wrapped, value.scoped_selector
    if selector in around:
        circle = " -> ".join(one.removesuffix("/gin.macro") for one in (*around, selector))
        raise UsageError(f"{name} is made of itself: {circle}")
    around = (*around, selector)
    with gin.config_scope(value.scopes or gin.current_scope()):
        if made is gin.config.macro:
            for given in gin.get_bindings(made, resolve_references=False).values():
                yield from _parts("/".join(value.scopes), given, hint, around)
        else:
            yield from _bound(made, around)


def _holds_references(bound: Any) -> bool:
    """Whether a value, or something in it, is made only later."""
    if isinstance(bound, gin.config.ConfigurableReference):
        return True
    parts = bound.values() if isinstance(bound, dict) else bound
    return isinstance(bound, (dict, list, tuple)) and any(map(_holds_references, parts))


def _hints(made: Callable[..., Any]) -> dict[str, Any]:
    """The types of a function's parameters, or of a dataclass's fields; none where they cannot be told."""
    try:
        return typing.get_type_hints(made)
    except (NameError, TypeError, AttributeError):  # imported for type checkers alone, or no annotations
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a literal is of a type; everything is of a type that this function does not know."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, choice) for choice in arguments)
    if origin is typing.Literal:
        return value in arguments
    kind = origin or hint
    if kind in (Any, object) or not inspect.isclass(kind) or not isinstance(value, _LITERALS):
        return True
    if kind in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole or (kind is float and isinstance(value, float))
    if issubclass(kind, (str, Path)):
        return isinstance(value, str)
    if issubclass(kind, collections.abc.Mapping):
        of_key, of_value = arguments or (Any, Any)
        return isinstance(value, dict) and all(
            _fits(key, of_key) and _fits(entry, of_value) for key, entry in value.items()
        )
    if _is_collection(kind):
        of_entry = Any if len(arguments) != 1 and arguments[1:] != (...,) else arguments[0]
        return isinstance(value, (list, tuple, set)) and all(_fits(entry, of_entry) for entry in value)
    return not getattr(kind, "_is_protocol", False) and isinstance(value, kind)  # no literal has our methods


def _is_collection(kind: type) -> bool:
    return issubclass(kind, collections.abc.Collection) and not hasattr(kind, "_fields")  # no named tuple


def _complaint(name: str, bound: Any, hint: Any) -> str:
    value = repr(bound)
    quoted = value if len(value) <= _LONGEST else f"{value[:_LONGEST]}…"
    if typing.get_origin(hint) is typing.Literal:
        return f"{name}={quoted}: {nearest(str(bound), [str(one) for one in typing.get_args(hint)])}"
    return f"{name}={quoted}: must be {_described(hint)}"


def _described(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_described(choice) for choice in arguments))
    kind = origin or hint
    if kind in _WORDS:
        return _WORDS[kind]
    if issubclass(kind, collections.abc.Mapping):
        return "a dictionary" + (f" of {_plural(arguments[1])}" if arguments else "")
    if _is_collection(kind):
        return "a list" + (f" of {_plural(arguments[0])}" if arguments else "")
    return f"a {kind.__name__}, made by an @function()"


def _plural(hint: Any) -> str:
    words = {int: "whole numbers", float: "numbers", str: "texts in quotes"}
    return words.get(hint, "what it takes")
