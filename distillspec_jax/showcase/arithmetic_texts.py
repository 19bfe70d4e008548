"""Drills in arithmetic: the equations of generated problems, and random ones written in the same ways.

A model that copies a question's numbers still adds them wrongly: an answer has one or two digits for each sum
among fifty tokens of prose. A drill is little else; its left sides stand in the input, so that only results
are new.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator

EQUATIONS_PER_ROW = 8
_NUMBER = r"[$€£]?\d[\d.]*(?:/\d+)?"
_UNIT = r"(?: [a-z]+){0,2}"
_EQUATION = re.compile(rf"({_NUMBER}{_UNIT}(?: ?[-+*x/] ?{_NUMBER}{_UNIT})+) ?= ?({_NUMBER})(?![\d/])")


def equations(answer: str) -> Iterator[tuple[str, str]]:
    """Yields (left side, whole) of the equations in a worked answer."""
    for found in _EQUATION.finditer(answer):
        yield found[1], found[0].rstrip(".")


def drills(
    found: Iterable[tuple[str, str]], prefix: str, made: float, rng: random.Random
) -> Iterator[tuple[str, str]]:
    """Yields rows of equations: those found, and random ones between them.

    Args:
      found: (left side, whole) of equations.
      prefix: of the inputs.
      made: random equations per found one.
      rng: what decides.
    """
    row: list[tuple[str, str]] = []
    for one in found:
        row.append(one)
        while rng.random() < made / (1 + made):
            row.append(_made(rng))
        while len(row) >= EQUATIONS_PER_ROW:
            whole, row = row[:EQUATIONS_PER_ROW], row[EQUATIONS_PER_ROW:]
            yield prefix + "; ".join(left for left, _ in whole), "\n".join(text for _, text in whole)


def bare(rng: random.Random, prefix: str, rows: int) -> Iterator[tuple[str, str]]:
    """Yields rows of three random problems, larger ones among them; the last result is the answer."""
    for _ in range(rows):
        problems = [_bare(rng) for _ in range(3)]
        steps = [f"{problem} = {value}" for problem, value in problems]
        yield (
            prefix + "; ".join(problem for problem, _ in problems),
            "\n".join(steps) + f"\n#### {problems[-1][1]}",
        )


def _made(rng: random.Random) -> tuple[str, str]:
    """A random equation of two to five small numbers."""
    operator = rng.choice("++++---***/%")
    space = rng.choice(("", " ", " "))
    unit = rng.choice(("", "", "", "$", "€", "£"))
    if operator == "+":
        terms = [_number(rng) for _ in range(rng.choice((2, 2, 2, 3, 4, 5)))]
        left, value = f"{space}+{space}".join(f"{unit}{term}" for term in terms), sum(terms)
    elif operator == "-":
        a, b = sorted((_number(rng), _number(rng)), reverse=True)
        left, value = f"{unit}{a}{space}-{space}{unit}{b}", a - b
    elif operator == "*":
        a, b = _number(rng), rng.randint(2, rng.choice((10, 10, 30, 100)))
        if rng.random() < 0.5:
            a, b = b, a
        left, value = f"{a}{space}{rng.choice('*x')}{space}{unit}{b}", a * b
    elif operator == "/":
        a, b = rng.randint(2, rng.choice((10, 10, 30))), _number(rng)
        left, value = f"{unit}{a * b}{space}/{space}{a}", b
    else:
        part = rng.randrange(5, 100, 5)
        whole = rng.randrange(20, rng.choice((200, 1000)), 20)
        shown = rng.choice((f"{part}/100", f"0.{part:02d}".rstrip("0")))
        left, value = f"{shown}{space}*{space}{unit}{whole}", part * whole // 100
    return left, f"{left}{space}={space}{unit}{value}"


def _number(rng: random.Random) -> int:
    value = rng.randint(1, rng.choice((10, 30, 100, 100, 100, 300, 1000)))
    return value * rng.choice((1, 1, 1, 1, 10, 100))


def _bare(rng: random.Random) -> tuple[str, int]:
    def number(digits: int) -> int:
        return rng.randint(2, 10 ** rng.randint(1, digits))

    operator = rng.choice("+-**//%")
    if operator in "+-":
        a, b = number(4), number(4)
        return (f"{a} + {b}", a + b) if operator == "+" else (f"{max(a, b)} - {min(a, b)}", abs(a - b))
    if operator == "*":
        a, b = number(3), number(2)
        if rng.random() < 0.5:
            a, b = b, a
        return f"{a} * {b}", a * b
    if operator == "/":
        a, b = number(2), number(2)
        return f"{a * b} / {a}", b
    part, whole = rng.randrange(5, 100, 5), rng.randrange(20, 2000, 20)
    return f"{part}/100 * {whole}", part * whole // 100
