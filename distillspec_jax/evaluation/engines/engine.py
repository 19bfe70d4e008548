"""The description of an engine, and how a histogram of accepted drafts becomes a record."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distillspec_jax import bounds
from distillspec_jax.acceptance import PartialRecord
from distillspec_jax.errors import UsageError

ROUNDINGS = 100
"""The growth of the fastest counter, in units of the last digit that an engine writes, that ends an interval:
rounding is then at most 1 % of the drafts."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """The counts of one answered request, or of one interval between two scrapes.

    Attributes:
      record: as far as the engine tells.
      block_size: drafts a round at most, where the engine states it.
    """

    record: PartialRecord
    block_size: int | None = None


Deltas = Mapping[str, int | Mapping[int, int]]
"""Increments of counters by the names of `Counters`; those by position as {position: increment}."""


@dataclasses.dataclass(frozen=True)
class Counters:
    """The Prometheus counters of an engine.

    Attributes:
      names: our name for each counter, to the engine's, without `_total`.
      position: the label that holds a draft's position, from 0, of counters that have one.
      answer: makes an interval's counts of the increments; gets the block size that the user vouches for.
      chosen_by: the label that tells several models' counters apart; those of one are read.
      digits: significant digits that the engine writes of counters without a position; None: all.
    """

    names: Mapping[str, str]
    position: str
    answer: Callable[[Deltas, int | None], Answer]
    chosen_by: str = "model_name"
    digits: int | None = None


@dataclasses.dataclass(frozen=True)
class Engine:
    """One engine.

    Attributes:
      name: as people call it.
      recognises: whether a JSON object is an answer of this engine, with counts or without.
      answer: the counts in such an object, at a place for errors; None where it has none (nothing was
        drafted, or the engine was not asked to tell). Gets the block size that the user vouches for.
      counters: None where the engine has none.
    """

    name: str
    recognises: Callable[[Mapping[str, Any]], bool]
    answer: Callable[[Mapping[str, Any], str, int | None], Answer | None]
    counters: Counters | None = None


def tested(
    rounds: int | None, drafted: int | None, accepted: int | None, block_size: int | None, full: int | None
) -> int | None:
    """Computes tested = rounds + accepted - rounds that accepted all, where every round offered a full block.

    Args:
      rounds, drafted, accepted: of some texts.
      block_size: drafts a round at most. All rounds offered as many if, and only if, drafted is the product.
      full: rounds that accepted a whole block.

    Returns:
      None where one of them is not known, or rounds offered fewer drafts: then nobody can tell.
    """
    if rounds is None or drafted is None or accepted is None or block_size is None or full is None:
        return None
    return rounds + accepted - full if drafted == rounds * block_size else None


def of_histogram(
    place: str,
    histogram: Sequence[int] | None,
    *,
    rounds: int | None,
    drafted: int | None,
    accepted: int,
    block_size: int | None = None,
    emitted_tokens: int | None = None,
    tested_at: Sequence[int] | None = None,
) -> Answer:
    """Makes the counts of a request.

    Args:
      place: for errors.
      histogram: entry j counts the rounds that accepted exactly j drafts.
      rounds, drafted, accepted, emitted_tokens: as far as they are told.
      block_size: drafts a round at most, where it is known.
      tested_at: rounds that tested each position, where it can be told; else `tested` decides.

    Raises:
      UsageError: counts that contradict each other, by place.
    """
    if drafted is not None and accepted > drafted:
        raise UsageError(f"{place}: {accepted:,} drafts accepted of {drafted:,}")
    if block_size is not None and not 1 <= block_size <= bounds.BLOCK_SIZE:
        raise UsageError(f"{place}: {block_size:,} drafts a round, must be from 1 to {bounds.BLOCK_SIZE}")
    accepted_at: tuple[int, ...] | None = None
    full: int | None = None
    if histogram and (sum(histogram) or rounds == 0):
        if rounds is not None and sum(histogram) != rounds:
            raise UsageError(f"{place}: a histogram of {sum(histogram):,} rounds, but {rounds:,} rounds")
        if sum(j * count for j, count in enumerate(histogram)) != accepted:
            raise UsageError(f"{place}: {accepted:,} drafts accepted, but others by the histogram")
        width = block_size or max((j for j, count in enumerate(histogram) if count), default=0) or 1
        accepted_at = tuple(sum(histogram[j:]) for j in range(1, width + 1))
        full = histogram[block_size] if block_size is not None and block_size < len(histogram) else 0
    sum_tested = (
        sum(tested_at) if tested_at is not None else tested(rounds, drafted, accepted, block_size, full)
    )
    record = PartialRecord(
        emitted_tokens=emitted_tokens,
        target_calls=rounds,
        tested=sum_tested,
        accepted=accepted,
        drafted=drafted,
        tested_at=tested_at,
        accepted_at=accepted_at,
    )
    return Answer(record, block_size)


def by_position(deltas: Deltas, name: str, least: int = 0) -> tuple[int, ...] | None:
    """Lists the increments of a counter by position, from position 0 on; None where there are none."""
    found = deltas.get(name)
    if not isinstance(found, Mapping) or not found:
        return None
    return tuple(found.get(i, 0) for i in range(max(max(found) + 1, least)))


def whole(deltas: Deltas, name: str) -> int | None:
    """Returns the increment of a counter; None where there is none."""
    found = deltas.get(name)
    return found if isinstance(found, int) else None


def of_counters(deltas: Deltas, *, block_size: int | None, emitted_tokens: int | None = None) -> Answer:
    """Makes the counts of an interval of increments that are named as fields of a record.

    Args:
      block_size: drafts a round at most, where it is known.
      emitted_tokens: where they can be told.
    """
    accepted_at = by_position(deltas, "accepted_at", block_size or 0)
    rounds, drafted, accepted = (whole(deltas, n) for n in ("target_calls", "drafted", "accepted"))
    consistent = accepted_at is None or accepted is None or sum(accepted_at) == accepted
    full = None
    if accepted_at is not None and consistent and block_size is not None:
        full = accepted_at[block_size - 1] if len(accepted_at) == block_size else None
    record = PartialRecord(
        texts=whole(deltas, "texts"),
        emitted_tokens=emitted_tokens,
        target_calls=rounds,
        tested=tested(rounds, drafted, accepted, block_size, full),
        accepted=accepted,
        drafted=drafted,
        accepted_at=accepted_at if consistent else None,
    )
    return Answer(record, block_size)
