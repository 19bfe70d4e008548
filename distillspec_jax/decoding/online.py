"""Continuous batching: prompts arrive one by one, join the batch while others decode, and can be cancelled.

The device decodes a fixed number of slots at fixed widths, so that all programs are compiled before the
first prompt arrives. The host visits it every few rounds. It removes rows that are done, inserts waiting
prompts, and starts the next rounds before it processes the tokens of the last.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from distillspec_jax import memory
from distillspec_jax.decoding import calibration
from distillspec_jax.decoding.adaptive import BlockSizeChoice, FixedBlockSize, Pace, RoundCounts
from distillspec_jax.decoding.completion import Completion, Fetched
from distillspec_jax.decoding.drafters import Drafter
from distillspec_jax.decoding.prompt_batch import PromptBatch, reading_widths
from distillspec_jax.decoding.runner import Prepared, Runner
from distillspec_jax.decoding.sampling import SamplingParams
from distillspec_jax.decoding.state import State, Status
from distillspec_jax.decoding.stopping import STOP_ON_EOS, Stopping
from distillspec_jax.decoding.verifiers import TOKEN_RULE, Verifier
from distillspec_jax.errors import UsageError
from distillspec_jax.models.interface import LanguageModel, width_of
from distillspec_jax.partitioning import Partitioner
from distillspec_jax.shapes import Params
from distillspec_jax.vocabulary import Vocabulary

_READ_TOGETHER = 4
"""The maximum number of prompts to prefill in one call: more would only delay the running rows."""

_EXPECTING = 4
"""Visits after a completion that are one round apart, as the same client may send its next prompt."""


@dataclasses.dataclass(frozen=True)
class OnlinePrompt:
    """A prompt with its own settings.

    Attributes:
      ids: token ids, not empty.
      max_new_tokens: maximum output length, EOS included.
      temperature, top_k, top_p: see `SamplingParams`.
      seed, number: determine the text, as seed and number do in `Engine.stream`.
    """

    ids: Sequence[int]
    max_new_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    number: int = 0


@dataclasses.dataclass(frozen=True)
class Update:
    """New output of a prompt from one visit.

    Attributes:
      ticket: the prompt's ticket, see `OnlineBatch.submit`.
      tokens: tokens emitted since the last update.
      completion: the whole completion, once the prompt is done.
      began: when it got its slot, by `time.perf_counter()`; None if it never did.
    """

    ticket: int
    tokens: tuple[int, ...]
    completion: Completion | None = None
    began: float | None = None


@dataclasses.dataclass
class _Row:
    """A slot's prompt, when it got the slot, and how many of its tokens have been reported."""

    ticket: int
    prompt: OnlinePrompt
    began: float = dataclasses.field(default_factory=time.perf_counter)
    told: int = 0

    @property
    def truncates(self) -> bool:
        """Whether the prompt's distribution uses top-k or top-p."""
        return self.prompt.top_k > 0 or self.prompt.top_p < 1


@dataclasses.dataclass(frozen=True)
class _Reading:
    """Prompts that the device is prefilling or has prefilled: a separate state, and its rows' slots."""

    slots: Sequence[int]
    fresh: State


class OnlineBatch:
    """Slots of one target and, if given, one drafter, which prompts join as they arrive.

    A prompt's text depends only on the prompt, its seed and its number, not on arrival time or neighbours.
    Not thread-safe: one thread must submit, cancel and visit.

    Args:
      target, drafter, drafter_params, verifier, stopping: see `Engine`.
      target_params: see `Runner`.
      vocabulary: the vocabulary of the sampling distributions.
      block_size: drafts per round, or several sizes to choose from, as in `Engine`.
      slots: number of prompts decoded together.
      prompt_width, width: maximum prompt length and output length, in tokens.
      prompt_bucket: prompts are prefilled at `prompt_width`, repeatedly halved and rounded up to a multiple
        of this while they fit.
      rounds_per_visit: minimum rounds between two visits. With fewer, prompts join and tokens leave sooner;
        while no slot is free there may be more, see `Pace`.
      partitioner: decode on its mesh, with rows split over the data axis; the caller places the parameters.

    Raises:
      UsageError: the sizes are invalid, or exceed the models' positions or the machine's memory.
    """

    def __init__(
        self,
        target: LanguageModel,
        target_params: Params | Prepared,
        drafter: Drafter | None = None,
        drafter_params: Any = None,
        *,
        vocabulary: Vocabulary,
        verifier: Verifier = TOKEN_RULE,
        stopping: Stopping = STOP_ON_EOS,
        block_size: int | Sequence[int] = 5,
        slots: int = 8,
        prompt_width: int,
        width: int,
        prompt_bucket: int = 32,
        rounds_per_visit: int = 4,
        partitioner: Partitioner | None = None,
    ) -> None:
        for name, size in (("slots", slots), ("prompt_width", prompt_width), ("width", width)):
            if size < 1:
                raise UsageError(f"{name} is {size}, must be at least 1")
        sizes = (block_size,) if isinstance(block_size, int) else tuple(block_size)
        self._vocabulary, self._partitioner = vocabulary, partitioner
        self._runner = Runner(
            target,
            target_params,
            drafter,
            drafter_params,
            block_sizes=(0,) if drafter is None else sizes,
            rows=slots,
            verifier=verifier,
            stopping=stopping,
            measure_overlap=False,
            partitioner=partitioner,
        )
        self._widths = tuple(reading_widths(prompt_width, prompt_bucket))
        self._width, self._rounds = width, rounds_per_visit
        # The prompt of idle slots: it is prefilled, but its limit is 0 (`PromptBatch.rows`).
        self._idle = OnlinePrompt([0], 1)
        self._tickets = itertools.count()
        self.slots = slots
        described = self._batch([self._idle]).described(slots, prompt_width)
        needed = self._runner.check_room(*described, width)
        memory.check(f"decoding {slots:,} rows of {prompt_width:,} tokens and {width:,} more", needed)
        self._sizes: FixedBlockSize | BlockSizeChoice = FixedBlockSize(
            self._runner.block_sizes[0], self._rounds
        )
        self._block_size = self._runner.block_sizes[-1]
        self._pace = Pace()
        self.reset()

    def reset(self) -> None:
        """Drops all prompts and starts afresh, also after an error, which may have lost the donated state."""
        self._prompts: list[Sequence[int]] = [self._idle.ids] * self.slots
        self._waiting: collections.OrderedDict[int, OnlinePrompt] = collections.OrderedDict()
        self._rows: dict[int, _Row] = {}
        self._cancelled: set[int] = set()
        self._running, self._expecting = False, 0
        idle = self._batch([self._idle])
        self._state = self._read(idle, [0], self.slots, self._widths[0], idle=True)
        self._counts = RoundCounts(self._state.counts.accepted_BG.shape)

    def warm(self) -> None:
        """Compiles every program that a prompt can need, and measures the block sizes if there are several.

        Raises:
          RuntimeError: prompts are in flight.
        """
        if self.busy:
            raise RuntimeError("an OnlineBatch is warmed before its first prompt")
        idle = self._batch([self._idle])
        if len(self._runner.block_sizes) > 1:
            state = self._read(
                self._batch([OnlinePrompt([0], self._width)]), [0], self.slots, self._widths[0]
            )
            costs = calibration.round_costs(self._runner, state, self._rounds)
            self._sizes = BlockSizeChoice(costs, self._rounds)
        # On a mesh, a program's outputs may be sharded differently from the inputs it was compiled for: feed
        # them back in, to compile for them, too.
        passes = 1 if self._partitioner is None else 3
        for truncates in (False, True) * passes:
            for size in self._runner.block_sizes[::-1]:  # size 0 last, because it drops the drafter's memory
                for rows in _rows_of_readings(min(_READ_TOGETHER, self.slots)):
                    for reading in self._widths:
                        fresh = self._read(idle, [0], rows, reading, size, idle=True)
                    self._refill(_Reading([], fresh), truncates)
                self._state = self._runner.run(self._state, size, 1, 1)
            self._resume()
        jax.block_until_ready(self._state)

    def submit(self, prompt: OnlinePrompt) -> int:
        """Queues a prompt and returns its ticket.

        Raises:
          UsageError: the prompt, its limit, its distribution or its seed is invalid, or too long.
        """
        self._batch([prompt])
        if width_of([prompt.ids]) > self._widths[0] or prompt.max_new_tokens > self._width:
            raise UsageError(
                f"a prompt of {len(prompt.ids):,} tokens and {prompt.max_new_tokens:,} more: at most "
                f"{self._widths[0]:,} tokens of a prompt and {self._width:,} new ones"
            )
        ticket = next(self._tickets)
        self._waiting[ticket] = prompt
        return ticket

    def cancel(self, ticket: int) -> None:
        """Cancels a prompt; the next visit reports its last tokens. Does nothing if it is already done."""
        self._cancelled.add(ticket)

    @property
    def busy(self) -> bool:
        """Whether a visit would have anything to do."""
        return bool(self._rows or self._waiting)

    @property
    def running(self) -> int:
        """Number of prompts in slots."""
        return len(self._rows)

    @property
    def waiting(self) -> int:
        """Number of prompts waiting for a slot."""
        return len(self._waiting)

    def visit(self) -> list[Update]:
        """Waits for the current rounds, starts the next ones, and reports the results of the former.

        The device continues decoding while the caller processes the updates.
        """
        updates = [Update(ticket, (), _NEVER_BEGUN) for ticket in self._cancelled & self._waiting.keys()]
        for update in updates:
            del self._waiting[update.ticket]
        running = sorted(self._rows)
        readings = self._read_waiting()  # queued behind the current rounds: the device never waits for us
        if self._running:
            fetched = Fetched.of(self._state)
            counts = fetched.counts
            since = self._counts.since(np.asarray(counts.rounds_B), np.asarray(counts.accepted_BG))
            self._pace.ended(since[0] / len(running))
            self._sizes.observe(self._block_size, *since)
            updates += filter(None, [self._told(slot, fetched) for slot in running])
        self._cancelled.clear()
        ended = any(update.completion for update in updates)
        self._expecting = _EXPECTING if ended else max(0, self._expecting - 1)
        self._put(readings + self._read_waiting())
        self._running = bool(self._rows)
        if self._running:
            self._block_size, rounds = self._sizes.next()
            if len(self._rows) == self.slots and rounds == self._rounds:
                rounds = self._pace.rounds(rounds)  # no prompt can join before a row ends
            elif self._expecting:
                rounds = 1  # a client that has its answer may ask again, and the slot is still free
            if self._block_size and self._state.draft is None:
                self._resume()
            # Return as soon as any row ends, to answer its client and free its slot.
            self._state = self._runner.run(self._state, self._block_size, rounds, len(self._rows))
            self._pace.begun()
        return updates

    def _told(self, slot: int, fetched: Fetched) -> Update | None:
        row = self._rows[slot]
        cancelled = fetched.status_B[slot] == Status.RUNNING and row.ticket in self._cancelled
        tokens = tuple(fetched.output_BT[slot, row.told : fetched.emitted_B[slot]].tolist())
        row.told += len(tokens)
        if fetched.status_B[slot] == Status.RUNNING and not cancelled:
            return Update(row.ticket, tokens, began=row.began) if tokens else None
        del self._rows[slot]
        if cancelled:
            rows = self._state.rows
            status_B = rows.status_B.at[slot].set(int(Status.LENGTH))
            self._state = dataclasses.replace(self._state, rows=dataclasses.replace(rows, status_B=status_B))
        return Update(row.ticket, tokens, fetched.completion(slot, cancelled=cancelled), row.began)

    def _read_waiting(self) -> list[_Reading]:
        """Assigns free slots to waiting prompts and starts their prefill."""
        free = [slot for slot in range(self.slots) if slot not in self._rows][: len(self._waiting)]
        taken = [(slot, *self._waiting.popitem(last=False)) for slot in free]
        for slot, ticket, prompt in taken:
            self._rows[slot] = _Row(ticket, prompt)
            self._prompts[slot] = prompt.ids
        # A drafter that must resume for the other rows will read these prompts then, too.
        drafting = 0 if self._state.draft is None else max(self._runner.block_sizes)
        readings = []
        # Prompts of one width are prefilled together.
        by_width = sorted(taken, key=lambda one: self._reading_width(one[2]))
        for width, group in itertools.groupby(by_width, key=lambda one: self._reading_width(one[2])):
            members = list(group)
            for begin in range(0, len(members), _READ_TOGETHER):
                part = members[begin : begin + _READ_TOGETHER]
                rows = _rows_of_readings(len(part))[-1]
                batch = self._batch([prompt for _, _, prompt in part])
                fresh = self._read(batch, range(len(part)), rows, width, drafting)
                readings.append(_Reading([slot for slot, _, _ in part], fresh))
        return readings

    def _put(self, readings: Sequence[_Reading]) -> None:
        """Copies prefilled rows into their slots."""
        truncates = any(row.truncates for row in self._rows.values())
        for reading in readings:
            self._refill(reading, truncates)
            self._counts.refilled(reading.slots)
        if not readings:
            self._state = _truncating(self._state, truncates)

    def _read(
        self,
        batch: PromptBatch,
        indices: Sequence[int],
        rows: int,
        reading: int,
        block_size: int | None = None,
        idle: bool = False,
    ) -> State:
        prompt_BT, settings = batch.rows(indices, rows, reading)
        if idle:
            settings = dataclasses.replace(settings, limit_B=np.zeros(rows, np.int32))
        return self._runner.read(prompt_BT, settings, self._width, self._widths[0], block_size)

    def _refill(self, reading: _Reading, truncates: bool) -> None:
        """Copies fresh rows into their slots; drops rows without a slot."""
        slots = np.full(len(reading.fresh.rows.status_B), self.slots, np.int32)
        slots[: len(reading.slots)] = reading.slots
        self._state = self._runner.refill(
            _truncating(self._state, truncates), _truncating(reading.fresh, truncates), slots
        )

    def _resume(self) -> None:
        """Makes the drafter read prompts and texts again if its memory was dropped."""
        if self._state.draft is None and max(self._runner.block_sizes):
            prompt_BT = self._batch([OnlinePrompt(ids, 1) for ids in self._prompts]).padded(
                range(self.slots), self._widths[0]
            )
            self._state = self._runner.resumed(self._state, prompt_BT)

    def _batch(self, prompts: Sequence[OnlinePrompt]) -> PromptBatch:
        sampling = SamplingParams(
            [one.temperature for one in prompts],
            [one.top_k for one in prompts],
            [one.top_p for one in prompts],
        )
        # `truncates` is set when rows enter their slots; here, it would multiply the prefill programs.
        distribution = dataclasses.replace(sampling.host_distribution(self._vocabulary), truncates=False)
        return PromptBatch.of(
            [one.ids for one in prompts],
            distribution,
            [one.max_new_tokens for one in prompts],
            [one.seed for one in prompts],
            [one.number for one in prompts],
        )

    def _reading_width(self, prompt: OnlinePrompt) -> int:
        longest = width_of([prompt.ids])
        return min(width for width in self._widths if width >= longest)


_NEVER_BEGUN = Completion((), "cancelled", 0, 0, (), (), None, 0)


def _rows_of_readings(most: int) -> list[int]:
    """Row counts of the programs that prefill up to `most` prompts: powers of two; the last fits all."""
    return [1 << power for power in range((most - 1).bit_length() + 1)]


def _truncating(state: State, truncates: bool) -> State:
    """Returns the state with the static flag `truncates` of its sampling distribution replaced."""
    rows = state.rows
    distribution = dataclasses.replace(rows.settings.distribution, truncates=truncates)
    settings = dataclasses.replace(rows.settings, distribution=distribution)
    return dataclasses.replace(state, rows=dataclasses.replace(rows, settings=settings))
