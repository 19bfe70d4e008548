"""Factories whose module is imported when they are first called.

A registry of such factories is read without importing JAX, and a file that joins it may import it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def deferred(module: str, name: str) -> Callable[..., Any]:
    """Returns a factory that calls `name` of the module of that full name."""

    def make(*arguments: Any, **settings: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*arguments, **settings)

    return make
