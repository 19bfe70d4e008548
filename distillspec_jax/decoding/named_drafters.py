"""Names of the drafters that need no model; reading them imports no JAX.

A new one is one file and one line in `FACTORIES` (or one call of `register`); every command and the
Python API then know its name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from distillspec_jax.deferred import deferred
from distillspec_jax.errors import UsageError

if TYPE_CHECKING:
    from distillspec_jax.decoding.drafters import Drafter

DrafterFactory = Callable[[int], "Drafter"]
"""Makes a drafter for a vocabulary of so many ids; it takes no parameters (`None`)."""

FACTORIES: dict[str, DrafterFactory] = {
    "lookup": deferred("distillspec_jax.decoding.prompt_lookup", "PromptLookup")
}


def register(name: str, factory: DrafterFactory) -> None:
    """Makes a drafter known as `--drafter=NAME` and `drafter="NAME"`.

    Raises:
      UsageError: the name is taken, or means something else.
    """
    if name in FACTORIES or name in ("", "none"):
        raise UsageError(f"the drafter name {name!r} is taken: choose another")
    FACTORIES[name] = factory


def names() -> list[str]:
    """The names of the drafters that need no model."""
    return list(FACTORIES)
