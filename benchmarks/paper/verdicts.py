"""What comparisons say of a claim, in words: held, in part, not at all, or nothing that could be seen."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.paper.rows import LEVEL, Comparison, survivors
from distillspec_jax.evaluation.paired import Interval


def verdict(
    comparisons: Sequence[Comparison],
    *,
    expected: int = 1,
    what: str = "comparisons",
    among: Sequence[Comparison] | None = None,
) -> str:
    """Says whether a claim held; null is what includes no difference, or what the number of looks explains.

    Args:
      comparisons: those of the claim.
      expected: 1: claimed to lie above their nulls; -1: below; 0: claimed not to lie above.
      what: their name in the sentence.
      among: all that were looked at and are marked in the table; None: the same.
    """
    known = [one for one in comparisons if one.interval.ends is not None]
    if not known:
        return f"Cannot be told: no {what} with an interval."
    looked = known if among is None else [one for one in among if one.interval.ends is not None]
    mine = {id(one) for one in known}
    sides = [side for one, side in zip(looked, survivors(looked), strict=True) if id(one) in mine]
    count = len(sides)
    above, below, null = sides.count(1), sides.count(-1), sides.count(0)
    for_it, against = (above, below) if expected > 0 else (below, above)
    if expected == 0:
        for_it, against = below + null, above
    if against and for_it:
        word = "It held in part"
    elif against:
        word = "It did not hold"
    elif for_it == count:
        word = "It held"
    elif for_it:
        word = "It held in part"
    else:
        word = "Null: nothing to see at this number of prompts"
    told = f"of {count} {what} {above} above, {below} below, {null} null"
    return f"{word}: {told} ({count * LEVEL:.1f} by chance)."


def times(interval: Interval, digits: int = 2) -> str:
    """Writes a number with its interval: `1.17 (1.13–1.21)`."""
    if interval.ends is None:
        return f"{interval.value:.{digits}f}" if interval.value == interval.value else "–"
    return f"{interval.value:.{digits}f} ({interval.low:.{digits}f}–{interval.high:.{digits}f})"


def marked(comparisons: Sequence[Comparison], digits: int = 2) -> list[str]:
    """Writes each with its interval, in bold where it survives among all of them that have one."""
    known = [one for one in comparisons if one.interval.ends is not None]
    kept = {id(one) for one, side in zip(known, survivors(known), strict=True) if side}
    sides = [id(one) in kept for one in comparisons]
    return [
        f"**{times(one.interval, digits)}**" if side else times(one.interval, digits)
        for one, side in zip(comparisons, sides, strict=True)
    ]


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    made = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*made, *("| " + " | ".join(line) + " |" for line in lines)])
