"""The cases by what is attacked: one line a case, or one line of what every command or field is tried with."""

from __future__ import annotations

import importlib
import random
from collections.abc import Sequence

from tests.attack.case import Case, numbered

GROUPS = (
    "losses",
    "undisturbed",
    "outputs",
    "schemas",
    "templates",
    "tokenizers",
    "text",
    "numbers",
    "flags",
    "configuration",
    "sources",
    "requests",
    "disks",
    "flips",
)


def group(name: str) -> list[Case]:
    """A module's cases, each once."""
    return numbered(importlib.import_module(f"tests.attack.cases.{name}").cases())


def quick(seed: int, share: int = 30) -> list[Case]:
    """The undisturbed calls, all calls of outputs that tell without decoding, and a few of every other group."""
    rng = random.Random(seed)
    found = []
    for name in GROUPS:
        known = [case for case in group(name) if not case.alone]
        found += known if name in ("undisturbed",) else rng.sample(known, min(share, len(known)))
    return found


def flat(*parts: Sequence[Case]) -> list[Case]:
    """Cases of several lists."""
    return [case for part in parts for case in part]
