"""Parts of a long run, tried one after the other: one that fails is reported, and the others are run."""

from __future__ import annotations

import contextlib
import dataclasses
import traceback
from collections.abc import Iterator

from distillspec_jax.cli import errors
from distillspec_jax.errors import Unavailable
from distillspec_jax.terminal import news


@dataclasses.dataclass
class Attempts:
    """What was tried.

    Attributes:
      failed: names of the parts that ended with an error.
    """

    failed: list[str] = dataclasses.field(default_factory=list)

    @contextlib.contextmanager
    def at(self, part: str) -> Iterator[None]:
        """Reports an error of its body; `Preempted` and ^C, which end the whole run, pass."""
        try:
            yield
        except Unavailable:  # the same command resumes
            raise
        except Exception as error:
            said = errors.explain(error)
            if said is None:
                traceback.print_exc()
            self.failed.append(part)
            news(f"{part} failed: {said or repr(error)}")

    @property
    def status(self) -> int:
        """The exit status of the whole."""
        return int(bool(self.failed))
