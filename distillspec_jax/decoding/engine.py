"""The host side of decoding: turns lists of prompts into completions.

The device decodes a fixed number of slots. When a row is done and prompts are waiting, the loop returns and
the next prompts take the free slots, so a long row does not keep the others idle. Few shapes are used, so
little is compiled: each call has one prompt width and one output width, both rounded up; prompts are
prefilled at that width or repeated halves of it, in batches whose sizes are powers of two.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax import bounds, memory
from distillspec_jax.decoding import calibration
from distillspec_jax.decoding.adaptive import BlockSizeChoice, FixedBlockSize, RoundCounts
from distillspec_jax.decoding.completion import Completion, Fetched
from distillspec_jax.decoding.drafters import Drafter
from distillspec_jax.decoding.prompt_batch import PromptBatch, reading_widths
from distillspec_jax.decoding.round_costs import RoundCosts
from distillspec_jax.decoding.runner import Runner
from distillspec_jax.decoding.sampling import SamplingDistribution
from distillspec_jax.decoding.slots import DecodingProgress, Slots
from distillspec_jax.decoding.state import RowSettings, State
from distillspec_jax.decoding.stopping import STOP_ON_EOS, Stopping
from distillspec_jax.decoding.verifiers import TOKEN_RULE, Verifier
from distillspec_jax.errors import UsageError
from distillspec_jax.models.interface import LanguageModel, width_of
from distillspec_jax.partitioning import Partitioner
from distillspec_jax.shapes import Params

_Shape = tuple[int, int, int, bool]
"""The compile key of a call: slots, prompt width, output width, whether the distribution truncates."""

_MOST_POSITIONS = 1 << 30


class Engine:
    """Decodes prompts with one target and, if given, one drafter.

    Args:
      target: the network; `target_params` pass through its `prepare` once.
      drafter: None decodes autoregressively, with one-token calls. Its params pass through its `prepare`.
      verifier, measure_overlap: see `SpeculativeLoop`; unused without a drafter.
      block_size: drafts per round; or several sizes (`adaptive.AUTO`). Then each host visit picks the size
        with the highest predicted speed-up, from costs measured once per shape and the acceptance so far,
        earlier calls included. Size 0 is autoregressive decoding, which the others must beat by 3 %.
      stopping: decides from a row's content when it ends.
      batch_size: slots, i.e. prompts decoded together; with fewer prompts, some slots never run.
      prompt_bucket: prompt and output lengths are rounded up to a multiple of it, and short outputs to a
        power of two, as far as the models have positions; limits are not rounded.
      rounds_per_visit: rounds between two host visits.
      partitioner: decode on its mesh, with rows split over the data axis; the caller places the parameters.
      on_compile: called with one line of text before anything is compiled for a new shape.

    Raises:
      UsageError: a size is below 1 or above `bounds.ROWS`.
    """

    def __init__(
        self,
        target: LanguageModel,
        target_params: Params,
        drafter: Drafter | None = None,
        drafter_params: Any = None,
        *,
        verifier: Verifier = TOKEN_RULE,
        stopping: Stopping = STOP_ON_EOS,
        block_size: int | Sequence[int] = 5,
        batch_size: int = 8,
        prompt_bucket: int = 32,
        rounds_per_visit: int = 32,
        measure_overlap: bool = False,
        partitioner: Partitioner | None = None,
        on_compile: Callable[[str], None] | None = None,
    ) -> None:
        sizes = (batch_size, prompt_bucket, rounds_per_visit)
        for name, size in zip(("batch_size", "prompt_bucket", "rounds_per_visit"), sizes, strict=True):
            if size < 1:
                raise UsageError(f"{name} is {size}, must be at least 1")
            bounds.check_most(name, size, bounds.ROWS)
        block_sizes = (block_size,) if isinstance(block_size, int) else tuple(block_size)
        self._block_sizes = (0,) if drafter is None else block_sizes
        self._runner = Runner(
            target,
            target_params,
            drafter,
            drafter_params,
            block_sizes=self._block_sizes,
            rows=batch_size,
            verifier=verifier,
            stopping=stopping,
            measure_overlap=measure_overlap,
            partitioner=partitioner,
        )
        self._choices: dict[_Shape, BlockSizeChoice] = {}
        self._batch_size = batch_size
        self._prompt_bucket = prompt_bucket
        self._rounds_per_visit = rounds_per_visit
        self._measured = drafter is not None and measure_overlap
        self._on_compile = on_compile
        self._compiled: set[tuple[Any, ...]] = set()
        self._fitting: set[tuple[int, int]] = set()

    def held_to(self, block_size: int) -> Engine:
        """Returns an engine that uses only one of the block sizes; it shares weights and compiled programs.

        Raises:
          UsageError: `block_size` is not one of the engine's block sizes.
        """
        if block_size not in self._block_sizes:
            raise UsageError(f"block_size is {block_size}, must be one of {list(self._block_sizes)}")
        held = copy.copy(self)
        held._block_sizes = (block_size,)
        return held

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        distribution: SamplingDistribution,
        max_new_tokens: int | Sequence[int],
        seed: int,
        progress: Callable[[DecodingProgress], None] | None = None,
    ) -> list[Completion]:
        """Decodes every prompt and returns the completions in the order of the prompts.

        Args: see `stream`.
        """
        found = dict(self.stream(prompts, distribution, max_new_tokens, seed, progress))
        return [found[i] for i in range(len(prompts))]

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        distribution: SamplingDistribution,
        max_new_tokens: int | Sequence[int],
        seed: int,
        progress: Callable[[DecodingProgress], None] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Completion]]:
        """Decodes every prompt and yields (index, completion) pairs in the order in which they finish.

        Args:
          prompts: token ids; none empty.
          distribution: fields `[]`, or one value per prompt.
          max_new_tokens: one limit, or one per prompt; each at least 1.
          seed: determines every prompt's text, together with its number and the block size.
          progress: called on the host after every visit.
          numbers: prompts with different numbers have independent noise; default: their indices.

        Raises:
          UsageError: a malformed prompt, limit or distribution, named by its index; an invalid seed; or more
            tokens than the models have positions for.
        """
        batch = PromptBatch.of(prompts, distribution, max_new_tokens, seed, numbers)
        widths = self._widths(batch) if len(prompts) else (0, 0)
        return self._decode(batch, widths, progress or (lambda _: None))

    def round_costs(
        self,
        prompts: Sequence[Sequence[int]],
        distribution: SamplingDistribution,
        max_new_tokens: int | Sequence[int],
        repeats: int = 7,
    ) -> RoundCosts:
        """Measures the cost of starting a batch and of a round at every block size, on the first prompts.

        Args:
          repeats: number of measurements; the median of each is used.

        Raises:
          UsageError: as in `stream`.
        """
        batch = PromptBatch.of(prompts, distribution, max_new_tokens, seed=0)
        prompt_width, width = self._widths(batch)
        rows = self._first_rows(batch, prompt_width)
        state = self._runner.read(*rows, width)
        costs = calibration.round_costs(self._runner, state, self._rounds_per_visit, repeats)
        slots = [min(i, len(prompts) - 1) for i in range(self._batch_size)]  # padded as in `PromptBatch.rows`
        reading_B = [self._reading_width(batch, [i], prompt_width) for i in slots]
        start = calibration.start_seconds(self._runner, *rows, width, reading_B, costs.seconds, repeats)
        return dataclasses.replace(costs, start=start)

    def _decode(
        self, batch: PromptBatch, widths: tuple[int, int], progress: Callable[[DecodingProgress], None]
    ) -> Iterator[tuple[int, Completion]]:
        slots = Slots(len(batch.prompts), self._batch_size)
        if not slots.in_flight:
            return
        prompt_width, width = widths
        shape = (slots.count, prompt_width, width, batch.distribution.truncates)
        self._announce(f"{slots.count} rows", shape)

        def read(indices: Sequence[int], rows: int, reading: int, block_size: int | None) -> State:
            return self._runner.read(*batch.rows(indices, rows, reading), width, prompt_width, block_size)

        first = list(slots.in_flight.values())
        reading = self._reading_width(batch, first, prompt_width)
        padded = np.resize(first, slots.count)
        sizes = self._sizes(
            shape, lambda: (read(first, slots.count, reading, None), batch.padded(padded, prompt_width))
        )
        block_size, rounds = sizes.next()
        # Already announced with the whole shape.
        self._compiled.add(
            (f"{slots.count} of {slots.count} rows", shape, (False, bool(block_size), reading))
        )
        state = read(first, slots.count, reading, block_size)
        round_counts = RoundCounts(state.counts.accepted_BG.shape)
        ready: list[tuple[int, Completion]] = []
        while slots.in_flight:
            if block_size and state.draft is None:
                state = self._runner.resumed(state, batch.padded(slots.prompts(), prompt_width))
            # If prompts are waiting, the loop returns as soon as one row is done, otherwise when all are.
            state = self._runner.run(state, block_size, rounds, slots.enough)
            yield from ready  # the caller works on these while the device decodes
            status_B, emitted_B, *counted = jax.device_get(
                (
                    state.rows.status_B,
                    state.rows.emitted_B,
                    state.counts.rounds_B,
                    state.counts.accepted_BG,
                )
            )
            sizes.observe(block_size, *round_counts.since(*counted))
            done, finished = slots.release(status_B, emitted_B)
            if slots.in_flight or slots.waiting:
                block_size, rounds = sizes.next()
            taken = slots.take(done)
            if taken:
                rows = min(_power_of_two(len(taken)), slots.count)
                whole = rows == slots.count == len(taken)
                # A drafter that must resume for the other rows will read these prompts then, too. Before
                # autoregressive decoding, it reads none.
                read_for = block_size if whole or state.draft is not None else 0
                indices = list(taken.values())
                reading = self._reading_width(batch, indices, prompt_width)
                self._announce(f"{rows} of {slots.count} rows", shape, (not whole, bool(read_for), reading))
                fresh = read(indices, rows, reading, read_for)
                round_counts.refilled(list(taken))
            # Meanwhile the device prefills.
            fetched = Fetched.of(state) if done else None
            finishing = [fetched.completion(slot, self._measured) for slot in done] if fetched else []
            progress(slots.progress)
            if taken:
                into_B = np.resize([*taken, *[slots.count] * rows], rows)  # past the end: dropped
                state = fresh if whole else self._runner.refill(state, fresh, jnp.asarray(into_B))
            ready = list(zip(finished, finishing, strict=True))
        yield from ready

    def _widths(self, batch: PromptBatch) -> tuple[int, int]:
        """Computes the padded prompt and output widths: rounded up, but only as far as the models allow."""
        longest, step = width_of(batch.prompts), self._prompt_bucket
        while True:
            prompt_width, width = (-(-size // step) * step for size in (longest, batch.longest))
            width = min(width, _power_of_two(batch.longest))
            if (prompt_width, width) in self._fitting:
                return prompt_width, width
            if prompt_width + width > _MOST_POSITIONS:
                raise UsageError(
                    f"prompts of {longest:,} tokens and {batch.longest:,} more: at most {_MOST_POSITIONS:,} "
                    "together, as positions are counted in 32 bits"
                )
            try:
                needed = self._runner.check_room(*batch.described(self._batch_size, prompt_width), width)
                break
            except UsageError as error:
                if step == 1:
                    # The models' message knows only the total room; say how much of it is the drafts'.
                    block = max(self._block_sizes)
                    of_these = f" ({batch.longest} asked for, and {block + 1} for a block of drafts)"
                    raise UsageError(f"{error}{of_these if block else ''}") from error
                step //= 2
        rows = f"{self._batch_size:,} prompts of {prompt_width:,} tokens and {width:,} more"
        memory.check(f"decoding batches of {rows}", needed)
        self._fitting.add((prompt_width, width))
        return prompt_width, width

    def _reading_width(self, batch: PromptBatch, indices: Sequence[int], whole: int) -> int:
        """Finds the narrowest prefill width that fits these prompts."""
        longest = width_of([batch.prompts[i] for i in indices])
        return min(width for width in reading_widths(whole, self._prompt_bucket) if width >= longest)

    def _first_rows(self, batch: PromptBatch, width: int) -> tuple[np.ndarray, RowSettings]:
        first = range(min(self._batch_size, len(batch.prompts)))
        return batch.rows(first, self._batch_size, width)

    def _announce(self, what: str, shape: _Shape, variant: Any = None) -> None:
        if (what, shape, variant) not in self._compiled and self._on_compile is not None:
            _, length, width, _ = shape
            self._on_compile(f"compiling: {what}, prompts of up to {length}, {width} new tokens")
        self._compiled.add((what, shape, variant))

    def _sizes(
        self, shape: _Shape, read: Callable[[], tuple[State, np.ndarray]]
    ) -> BlockSizeChoice | FixedBlockSize:
        """Returns the chooser of block sizes; what it learns about a shape is kept for the engine's lifetime.

        Args:
          read: makes a state of that shape, to measure costs on, and its prompts.
        """
        if len(self._block_sizes) == 1:
            return FixedBlockSize(self._block_sizes[0], self._rounds_per_visit)
        if shape not in self._choices:
            state, prompt_BT = read()
            costs = calibration.round_costs(self._runner, state, self._rounds_per_visit)
            self._runner.resumed(state, prompt_BT)  # compiles it now to avoid a pause later
            self._choices[shape] = BlockSizeChoice(costs, self._rounds_per_visit)
        return self._choices[shape]


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
