"""The device's side of serving: compiled loops of several block sizes that pass one state on.

Every size has a loop and parameters in the form that suits its calls. Plain decoding leaves the drafter
behind; what it missed it reads in one call when speculation resumes.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.decoding.adaptive import RoundCosts
from distillspec_jax.decoding.autoregressive import AutoregressiveLoop
from distillspec_jax.decoding.drafters import Drafter
from distillspec_jax.decoding.speculative import SpeculativeLoop
from distillspec_jax.decoding.state import Loop, PairParams, Requests, Rows, State
from distillspec_jax.decoding.stopping import Stopping
from distillspec_jax.decoding.verifiers import Verifier
from distillspec_jax.errors import UsageError
from distillspec_jax.models.dense import compiler_options
from distillspec_jax.models.interface import LanguageModel
from distillspec_jax.partitioning import Partitioner
from distillspec_jax.shapes import Array, Params


@flax.struct.dataclass
class Behind:
    """A drafter's memory while the target decodes without it.

    Attributes:
      memory: as it was when it was left.
      pending_B, emitted_B: int32, the rows' pending tokens and output lengths at that time.
    """

    memory: Any
    pending_B: Array
    emitted_B: Array


class Runner:
    """Runs a batch at any of some block sizes.

    Args:
      block_sizes: 0 is one token at a time; without a drafter it is the only one.
      rows: of the batch.
      verifier, stopping, measure_overlap: see `SpeculativeLoop`.
      partitioner: splits the rows over its mesh's data axis; parameters lie where the caller put them.

    Raises:
      UsageError: a block size below 1 where there is nothing to choose from, or several without 0.
    """

    def __init__(
        self,
        target: LanguageModel,
        target_params: Params,
        drafter: Drafter | None,
        drafter_params: Any,
        *,
        block_sizes: Sequence[int],
        rows: int,
        verifier: Verifier,
        stopping: Stopping,
        measure_overlap: bool,
        partitioner: Partitioner | None = None,
    ) -> None:
        if len(block_sizes) > 1 and 0 not in block_sizes:
            raise UsageError(f"block sizes to choose from, {list(block_sizes)}, lack 0, plain decoding")
        self._loops: dict[int, Loop] = {}
        self._params: dict[int, PairParams] = {}
        # A prompt is many rows: it is read with parameters as they came.
        self._reading = PairParams(target_params, drafter_params)
        of_target, of_drafter = _Prepared(target, target_params), _Prepared(drafter, drafter_params)
        for size in sorted(set(block_sizes)):
            if drafter is None or (size == 0 and len(block_sizes) > 1):
                self._loops[size], tokens = AutoregressiveLoop(target, stopping), 1
            else:
                self._loops[size] = SpeculativeLoop(
                    target, drafter, verifier, stopping, size, measure_overlap
                )
                tokens = (size + 1) * getattr(drafter, "candidates", 1)
            # Products of few rows are one device's.
            wide, narrow = (None, None) if partitioner else (rows * tokens, rows)
            self._params[size] = PairParams(of_target.for_rows(wide), of_drafter.for_rows(narrow))
        self._largest = max(self._loops)
        self._drafter = drafter
        self._partitioner = partitioner

    def check_room(self, prompt_BT: np.ndarray, requests: Requests, width: int) -> None:
        """Raises what `read` of prompts and outputs so wide would raise, and reads nothing."""
        loop = self._loops[self._largest]
        _init.eval_shape(loop, self._reading, prompt_BT, requests, width, prompt_BT.shape[1])

    def read(
        self, prompt_BT: Array | np.ndarray, requests: Requests, width: int, prompt_width: int | None = None
    ) -> State:
        """A fresh state, with room for blocks of every size and for prompts that are wider, if so wanted."""
        if self._partitioner is not None:
            prompt_BT, requests = self._partitioner.put_rows((prompt_BT, requests))
        loop, prompt_width = self._loops[self._largest], prompt_width or prompt_BT.shape[1]
        return _init(loop, self._reading, prompt_BT, requests, width, prompt_width)

    def run(self, state: State, block_size: int, max_rounds: int, enough: int) -> State:
        """See `Loop.run`; the state is donated."""
        if self._drafter is not None:
            is_behind = isinstance(state.draft, Behind)
            if block_size and is_behind:
                memory, behind = state.draft.memory, state.draft.replace(memory=None)
                params = self._params[block_size].draft
                memory = _caught_up(self._drafter, params, memory, behind, state.rows)
                state = state.replace(draft=memory)  # type: ignore[attr-defined]
            elif not block_size and not is_behind:
                state = _left_behind(state)
        return _compiled_run()(self._loops[block_size], self._params[block_size], state, max_rounds, enough)

    def refill(self, state: State, fresh: State, slot_B: Array) -> State:
        """Gives slots to the rows of a fresh state; a slot past the end takes none. The state is donated."""
        return _refill(state, _left_behind(fresh) if isinstance(state.draft, Behind) else fresh, slot_B)

    def start_seconds(
        self,
        prompt_BT: np.ndarray,
        requests: Requests,
        width: int,
        reading_B: Sequence[int],
        repeats: int = 5,
    ) -> dict[int, float]:
        """Of giving every slot to a new prompt, with the models that each size needs.

        One after another: in a batch, rows seldom end together, and each is read for and looked at alone.

        Args:
          reading_B: how wide each prompt is read.
        """
        (slots, prompt_width), sizes = prompt_BT.shape, (min(self._loops), self._largest)
        one = jax.tree.map(lambda field: field[:1], requests)
        states = {
            size: _init(self._loops[size], self._reading, prompt_BT, requests, width, prompt_width)
            for size in sizes
        }
        taken: dict[int, list[float]] = {size: [] for size in sizes}
        for _ in range(repeats + 1):
            for size in sizes:
                loop, params = self._loops[size], self._reading
                began = time.perf_counter()
                for slot, reading in enumerate(reading_B):
                    prompt_1T = prompt_BT[slot : slot + 1, :reading]
                    fresh = _init(loop, params, prompt_1T, one, width, prompt_width)
                    if slots > 1:
                        fresh = states[size] = _refill(states[size], fresh, np.array([slot], np.int32))
                    jax.device_get((fresh.rows.status_B, fresh.rows.emitted_B))
                taken[size].append(time.perf_counter() - began)
        median = {size: float(np.median(times[1:])) for size, times in taken.items()}  # the first compiled
        return {size: median[size if size in median else self._largest] for size in self._loops}

    def costs(self, state: State, rounds: int, repeats: int = 7) -> RoundCosts:
        """Measures a round of every size, 0 among them, from a state on, which stays what it is.

        Every loop runs once to compile and then takes its turns. A shared machine is now faster, now slower:
        each size is compared with plain decoding in the same turn, and the median counts. A run's fixed cost
        is in it, as it is in serving.
        """
        turns: list[dict[int, float]] = []
        for _ in range(repeats + 1):
            turns.append({})
            for size in self._loops:
                copy = jax.block_until_ready(jax.tree.map(jnp.copy, state))
                if not size and self._drafter is not None:
                    copy = jax.block_until_ready(_left_behind(copy))
                began = time.perf_counter()
                after = jax.block_until_ready(self.run(copy, size, rounds, 1))
                seconds = time.perf_counter() - began
                done = jnp.max(after.counts.rounds_B - state.counts.rounds_B)
                turns[-1][size] = seconds / max(int(done), 1)
        del turns[0]  # it compiled
        plain = float(np.median([turn[0] for turn in turns]))
        ratio = {size: float(np.median([turn[size] / turn[0] for turn in turns])) for size in self._loops}
        return RoundCosts({size: plain * ratio[size] for size in self._loops})


class _Prepared:
    """Parameters in the forms that their owner knows, each made once."""

    def __init__(self, owner: Any, params: Any) -> None:
        self._prepare: Callable[[Any, int | None], Any] | None = getattr(owner, "prepare", None)
        self._params = params
        self._forms: dict[Any, Any] = {}

    def for_rows(self, rows: int | None) -> Any:
        """The form for calls of so many rows; None where they may be many."""
        if self._prepare is None:
            return self._params
        own = self._prepare

        def prepare(params: Any) -> Any:
            return own(params, rows)

        form = jax.tree.structure(jax.eval_shape(prepare, self._params))
        if form not in self._forms:
            self._forms[form] = jax.jit(prepare)(self._params)
        return self._forms[form]


# Shared by all runners: two with equal loops and shapes compile once.
@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _init(
    loop: Loop, params: PairParams, prompt_BT: Array, requests: Requests, width: int, prompt_width: int
) -> State:
    """`loop.init`, with room as if the prompts had been so wide: slots without a token are never seen."""
    state = loop.init(params, prompt_BT, requests, width)
    wide_BT = jax.ShapeDtypeStruct((len(prompt_BT), prompt_width), prompt_BT.dtype)
    init = functools.partial(loop.init, max_new_tokens=width)
    return jax.tree.map(_with_room, state, jax.eval_shape(init, params, wide_BT, requests))


def _with_room(narrow: Array, wide: jax.ShapeDtypeStruct) -> Array:
    more = [(0, b - a) for a, b in zip(narrow.shape, wide.shape, strict=True)]
    return jnp.pad(narrow, more) if any(end for _, end in more) else narrow


@functools.cache
def _compiled_run() -> Callable[[Loop, PairParams, State, int, int], State]:
    """`Loop.run`; made late, because asking for the backend starts it."""
    return jax.jit(
        lambda loop, *args: loop.run(*args),
        static_argnums=0,
        donate_argnums=2,
        compiler_options=compiler_options(),
    )


@functools.partial(jax.jit, donate_argnums=0)
def _refill(state: State, fresh: State, slot_B: Array) -> State:
    return jax.tree.map(lambda old, new: old.at[slot_B].set(new, mode="drop"), state, fresh)


def _left_behind(state: State) -> State:
    rows = state.rows
    # Copies: the originals go on living in the state, which is donated as a whole.
    behind = Behind(state.draft, jnp.copy(rows.pending_B), jnp.copy(rows.emitted_B))
    return state.replace(draft=behind)  # type: ignore[attr-defined]


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _caught_up(drafter: Drafter, params: Any, memory: Any, behind: Behind, rows: Rows) -> Any:
    missed_BT, count_B = _missed(rows, behind.emitted_B)
    return drafter.follow(params, memory, behind.pending_B, missed_BT, count_B)


def _missed(rows: Rows, since_B: Array) -> tuple[Array, Array]:
    """The output after its first `since_B` tokens, moved to the front, and how many there are."""
    width = rows.output_BT.shape[1]
    place_BT = jnp.minimum(since_B[:, None] + jnp.arange(width)[None], width - 1)
    return jnp.take_along_axis(rows.output_BT, place_BT, axis=1), rows.emitted_B - since_B
