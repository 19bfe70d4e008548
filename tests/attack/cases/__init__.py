"""The cases by what is attacked: one line a case, or one line of what every command or field is tried with."""

from __future__ import annotations

import importlib
import os
import random

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
    """A module's cases, each once; of command lines those that a system can pass to a program."""
    known = numbered(importlib.import_module(f"tests.attack.cases.{name}").cases())
    return [case for case in known if case.command == "api" or _can_be_passed(case.argv)]


def _can_be_passed(argv: tuple[str, ...]) -> bool:
    try:
        return not any(b"\0" in os.fsencode(word) for word in argv)
    except UnicodeEncodeError:
        return False


SLOW = ("finetune", "distill", "dryrun", "demo", "zoo")
"""Commands that import TensorFlow, or compile more than the quick part has time for."""


def quick(seed: int, share: int = 2) -> list[Case]:
    """The known losses, and a few of every other group."""
    rng = random.Random(seed)
    found = group("losses")
    for name in GROUPS[1:]:
        known = [case for case in group(name) if not case.alone and case.command not in SLOW]
        found += rng.sample(known, share)
    return found
