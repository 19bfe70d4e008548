"""Factories whose module is imported at their first call.

A registry of such factories can be read without importing JAX, and the modules of its entries can import it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def deferred(module: str, name: str) -> Callable[..., Any]:
    """Returns a factory that calls `name` from the module with the given full name."""

    def make(*arguments: Any, **settings: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*arguments, **settings)

    return make
