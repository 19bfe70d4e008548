"""The cells of a sweep's grid, and their checks."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from distillspec_jax import bounds
from distillspec_jax.decoding import rules
from distillspec_jax.decoding.verifiers import Verifier
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation.result_row import NO_DRAFTER


@dataclasses.dataclass(frozen=True)
class Cell:
    """A point of the grid; `NO_DRAFTER` with block size 0 is the baseline of its conditions.

    Attributes:
      rule: as `verifier` reads it; each rule has its own table and baseline.
    """

    drafter: str
    block_size: int
    temperature: float
    rule: str
    batch_size: int

    @property
    def is_baseline(self) -> bool:
        return self.block_size == 0

    @property
    def baseline(self) -> Cell:
        """Decoding without a draft under the same conditions."""
        return dataclasses.replace(self, drafter=NO_DRAFTER, block_size=0)

    @property
    def conditions(self) -> str:
        """Temperature, rule and batch size, in words."""
        return f"T = {self.temperature:g}, {self.rule} rule, batch {self.batch_size}"


def verifier(rule: str) -> Verifier:
    """Makes the verification rule of `NAME` or `NAME:EPSILON`.

    Raises:
      UsageError: see `rules.rule`; or the epsilon is not a number.
    """
    name, colon, number = rule.partition(":")
    if not colon:
        return rules.rule(name)
    try:
        epsilon = float(number)
    except ValueError:
        raise UsageError(f"rule {rule!r}: {number!r} is no number; write NAME or NAME:EPSILON") from None
    return rules.rule(name, epsilon=epsilon)


def cells(
    drafters: Iterable[str],
    block_sizes: Sequence[int],
    temperatures: Sequence[float],
    rule_names: Sequence[str],
    batch_sizes: Sequence[int],
) -> list[Cell]:
    """Lists every cell, table by table, with the baseline first for each temperature.

    Raises:
      UsageError: a label is reserved, an axis is empty or has duplicates, a size is out of range, or a rule
        is unknown.
    """
    drafters = list(drafters)
    if NO_DRAFTER in drafters:
        raise UsageError(f"drafter label {NO_DRAFTER!r} means decoding without a draft: choose another label")
    axes: dict[str, Sequence[Any]] = {"temperatures": temperatures, "rules": rule_names}
    axes |= {"batch_sizes": batch_sizes} | ({"block_sizes": block_sizes} if drafters else {})
    for name, values in axes.items():
        if not values:
            raise UsageError(f"{name} is empty, need at least one")
        if len(set(values)) != len(values):
            raise UsageError(f"{name} is {list(values)}: a value occurs twice")
    for name, sizes, most in (
        ("block_size", block_sizes, bounds.BLOCK_SIZE),
        ("batch_size", batch_sizes, bounds.ROWS),
    ):
        for size in sizes:
            check_whole(name, size, 1, most)
    for rule in rule_names:
        verifier(rule)
    per_table = len(temperatures) * (1 + len(drafters) * len(block_sizes))
    bounds.check_most("the number of cells", len(rule_names) * len(batch_sizes) * per_table, bounds.CELLS)
    found = []
    for rule, batch_size, temperature in itertools.product(rule_names, batch_sizes, temperatures):
        found.append(Cell(NO_DRAFTER, 0, temperature, rule, batch_size))
        found += [
            Cell(label, size, temperature, rule, batch_size) for label in drafters for size in block_sizes
        ]
    return found


def groups(points: Sequence[Cell]) -> list[list[Cell]]:
    """Groups cells to measure together: baselines, then by table and by block size, since each compiles."""
    tables = list(dict.fromkeys((cell.rule, cell.batch_size) for cell in points))

    def order(cell: Cell) -> tuple[bool, int, int]:
        return not cell.is_baseline, tables.index((cell.rule, cell.batch_size)), cell.block_size

    found: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in sorted(points, key=order):  # stable: keeps the order of temperatures and drafters
        found.setdefault((*order(cell), cell.temperature), []).append(cell)
    return list(found.values())


def check_whole(name: str, value: int, least: int, most: int) -> None:
    """Raises UsageError unless the value is a whole number from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name} is {value!r}, must be a whole number of at least {least}")
    bounds.check_most(name, value, most)
