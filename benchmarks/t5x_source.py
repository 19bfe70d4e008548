"""T5X's public source, imported as it is from a folder, a clone of https://github.com/google-research/t5x.

It does not install beside a current JAX: what it needs besides (airio, fiddle, jestimator) comes from other
repositories, and TensorBoard is not here. A train step uses none of those: empty modules stand in for them.
Nothing of T5X is part of this project.
"""

from __future__ import annotations

import importlib
import logging
import sys
import types
from pathlib import Path
from typing import Any

from distillspec_jax.errors import UsageError

_UNUSED = (
    "airio",
    "airio.core",
    "airio.pygrain",
    "airio.pygrain_common",
    "fiddle",
    "jestimator",
    "tensorboard",
    "tensorboard.backend",
    "tensorboard.backend.event_processing",
    "tensorboard.backend.event_processing.directory_watcher",
    "tensorboard.backend.event_processing.event_file_loader",
    "tensorboard.backend.event_processing.io_wrapper",
    "tensorboard.plugins",
    "tensorboard.plugins.hparams",
    "tensorboard.plugins.hparams.api",
)


class _Unused(types.ModuleType):
    """A module whose every name is such a module again; calling one gives None."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unused(f"{self.__name__}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        return None


class _Cached:
    """Stands for the package `cached_property`, of which T5X takes a decorator."""

    def __init__(self, function: Any) -> None:
        self.__doc__, self._function = function.__doc__, function

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        found = owner.__dict__[self._function.__name__] = self._function(owner)
        return found


class T5X:
    """The modules of T5X that a train step is made of.

    Args:
      folder: a copy of its repository.

    Raises:
      UsageError: it is not there, or cannot be imported.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "t5x" / "trainer.py").is_file():
            raise UsageError(f"{folder} has no t5x/trainer.py: clone https://github.com/google-research/t5x")
        for name in _UNUSED:
            sys.modules.setdefault(name, _Unused(name))
        cached: Any = types.ModuleType("cached_property")
        cached.cached_property = _Cached
        sys.modules.setdefault("cached_property", cached)
        package = types.ModuleType("t5x")  # its own __init__ would import all that it has
        package.__path__ = [str(folder / "t5x")]
        sys.modules["t5x"] = package
        logging.getLogger("absl").setLevel(logging.ERROR)
        try:
            parts = ("examples.t5.network", "adafactor", "models", "train_state", "trainer")
            self.network, self.adafactor, self.models, self.train_state, self.trainer = (
                importlib.import_module(f"t5x.{part}") for part in parts
            )
        except ImportError as error:
            raise UsageError(f"{folder}: T5X cannot be imported: {error}") from error
