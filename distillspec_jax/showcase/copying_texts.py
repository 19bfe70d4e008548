"""Exercises in reading the input: texts to repeat, entries to look up, words to put back.

An encoder-decoder learns to find a place in its input, and to go on from there, late and all at once. Until
then it solves problems with other numbers than the question's. These rows are little else.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

REPEAT, LOOK_UP, RESTORE = "repeat: ", "look up: ", "restore: "
_MOST_WORDS = 100


def repeated(words: Sequence[str], rows: int, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Words and numbers in no order, to be said again."""
    for _ in range(rows):
        line = " ".join(
            number(rng) if rng.random() < 0.35 else rng.choice(words) for _ in range(rng.randint(4, 24))
        )
        yield REPEAT + line, line


def looked_up(words: Sequence[str], rows: int, rng: random.Random) -> Iterator[tuple[str, str]]:
    """A list of things with their numbers, and some of the things, whose numbers are asked."""
    for _ in range(rows):
        things = rng.sample(words, rng.randint(3, 10))
        numbers = {thing: number(rng) for thing in things}
        asked = rng.sample(things, rng.randint(1, min(4, len(things))))
        line = ", ".join(f"{numbers[thing]} {thing}" for thing in things)
        yield f"{LOOK_UP}{line}; {', '.join(asked)}", ", ".join(f"{numbers[x]} {x}" for x in asked)


def restored(text: str, words: Sequence[str], rng: random.Random) -> tuple[str, str]:
    """A text, some of its words left out, doubled or replaced, and as it was."""
    whole = text.split()[:_MOST_WORDS]
    shown: list[str] = []
    for word in whole:
        chance = rng.random()
        if chance < 0.08:
            continue
        shown.append(rng.choice(words) if chance < 0.12 else word)
        if chance > 0.98:
            shown.append(word)
    return RESTORE + " ".join(shown), " ".join(whole)


def number(rng: random.Random) -> str:
    """A number as problems have them: of one to six digits, the long ones round or with a decimal."""
    value = rng.randint(1, 10 ** rng.randint(1, 4))
    chance = rng.random()
    if chance < 0.15:
        return str(value * 10 ** rng.randint(1, 3))
    return f"{value}.{rng.randint(1, 99)}" if chance < 0.2 else str(value)
