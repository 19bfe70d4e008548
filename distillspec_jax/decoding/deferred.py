"""Factories whose module is imported when they are first called."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def deferred(module: str, name: str) -> Callable[..., Any]:
    """Makes a call of `decoding.MODULE.NAME`; a registry of such calls is read without importing JAX."""

    def make(*arguments: Any, **settings: Any) -> Any:
        return getattr(importlib.import_module(f"{__package__}.{module}"), name)(*arguments, **settings)

    return make
