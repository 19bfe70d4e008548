"""Names of the drafters that need no model; this module does not import JAX.

A new drafter is one file and one line in `FACTORIES` (or one call of `register`); every command and the
Python API then accept its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from distillspec_jax.deferred import deferred
from distillspec_jax.errors import UsageError

if TYPE_CHECKING:
    from distillspec_jax.decoding.drafters import Drafter

DrafterFactory = Callable[[int], "Drafter"]
"""Makes a drafter for a vocabulary of the given size; its parameters are `None`."""

FACTORIES: dict[str, DrafterFactory] = {
    "lookup": deferred("distillspec_jax.decoding.prompt_lookup", "PromptLookup")
}


def register(name: str, factory: DrafterFactory) -> None:
    """Registers a drafter under `--drafter=NAME` and `drafter="NAME"`.

    Raises:
      UsageError: the name is taken or reserved.
    """
    if name in FACTORIES or name in ("", "none"):
        raise UsageError(f"the drafter name {name!r} is taken: choose another")
    FACTORIES[name] = factory


def names() -> list[str]:
    """Lists the names of the drafters that need no model."""
    return list(FACTORIES)


def chosen(drafters: Sequence[str]) -> list[str]:
    """Returns the drafters that a user chose: none of them for `none`, which must be the only one.

    Raises:
      UsageError: there are others beside it.
    """
    others = [name for name in drafters if name != "none"]
    if others and len(others) < len(drafters):
        raise UsageError(f"--drafter=none beside --drafter={others[0]}: choose one")
    return others
