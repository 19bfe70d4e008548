"""The device's side of serving: compiled loops of several block sizes that pass one state on.

Every size has a loop and parameters in the form that suits its calls. Plain decoding has no drafter: its
memory is let go, and prompts are read without it. When speculation resumes, it reads prompts and texts again.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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

_ENDLESS = 1e6
"""A temperature at which all ids that may be drawn are about as likely, the end among them."""


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
                tokens = (size + 1) * drafter.candidates
            # Products of few rows are one device's.
            wide, narrow = (None, None) if partitioner else (rows * tokens, rows)
            self._params[size] = PairParams(of_target.for_rows(wide), of_drafter.for_rows(narrow))
        self._largest = max(self._loops)
        self._drafter = drafter
        self._partitioner = partitioner

    def check_room(self, prompt_BT: np.ndarray, requests: Requests, width: int) -> None:
        """Raises what `read` of prompts and outputs so wide would raise, and reads nothing."""
        loop = self._loops[self._largest]
        _init.eval_shape(loop, loop, self._reading, prompt_BT, requests, width, prompt_BT.shape[1])

    def read(
        self,
        prompt_BT: Array | np.ndarray,
        requests: Requests,
        width: int,
        prompt_width: int | None = None,
        block_size: int | None = None,
    ) -> State:
        """A fresh state, with room for blocks of every size and for prompts that are wider, if so wanted.

        Args:
          block_size: of the next run; before plain decoding the drafter reads nothing. By default it reads.
        """
        prompt_BT, requests = self._placed((prompt_BT, requests))
        largest = self._loops[self._largest]
        loop = largest if block_size or block_size is None else self._loops[0]
        prompt_width = prompt_width or prompt_BT.shape[1]
        return _init(loop, largest, self._reading, prompt_BT, requests, width, prompt_width)

    def run(self, state: State, block_size: int, max_rounds: int, enough: int) -> State:
        """See `Loop.run`; the state is donated. Drafts need a state read for drafting, or `resumed`."""
        if not block_size:
            state = plain(state)
        return _compiled_run()(self._loops[block_size], self._params[block_size], state, max_rounds, enough)

    def resumed(self, state: State, prompt_BT: np.ndarray) -> State:
        """A state of plain decoding, once the drafter has read prompts and texts.

        Args:
          prompt_BT: of every row, as wide as the state has room for; rows that idle may have any.
        """
        (prompt_BT,) = self._placed((prompt_BT,))
        memory = _resumed(self._loops[self._largest], self._reading, prompt_BT, state.rows)
        return state.replace(draft=memory)  # type: ignore[attr-defined]

    def refill(self, state: State, fresh: State, slot_B: Array | np.ndarray) -> State:
        """Gives slots to the rows of a fresh state; a slot past the end takes none. The state is donated."""
        return _refill(plain(state) if fresh.draft is None else state, fresh, slot_B)

    def _placed(self, arrays: Any) -> Any:
        return arrays if self._partitioner is None else self._partitioner.put_rows(arrays)

    def start_seconds(
        self,
        prompt_BT: np.ndarray,
        requests: Requests,
        width: int,
        reading_B: Sequence[int],
        round_seconds: Mapping[int, float],
        repeats: int,
    ) -> dict[int, float]:
        """Of giving every slot to a new prompt, with the models that each size needs.

        One after another: in a batch, rows seldom end together, and each is read for and looked at alone.
        The run that follows is dear to begin: dispatch, and weights that reading has driven out of the cache.
        What its first round takes beyond any other counts, too.

        Args:
          reading_B: how wide each prompt is read.
          round_seconds: of every size, see `costs`.
        """
        (slots, prompt_width), sizes = prompt_BT.shape, (min(self._loops), self._largest)
        one = jax.tree.map(lambda field: field[:1], requests)
        largest = self._loops[self._largest]
        states = {
            size: _init(self._loops[size], largest, self._reading, prompt_BT, requests, width, prompt_width)
            for size in sizes
        }
        taken: dict[int, list[float]] = {size: [] for size in sizes}
        for _ in range(repeats + 1):
            for size in sizes:
                loop, params = self._loops[size], self._reading
                began = time.perf_counter()
                for slot, reading in enumerate(reading_B):
                    prompt_1T = prompt_BT[slot : slot + 1, :reading]
                    fresh = _init(loop, largest, params, prompt_1T, one, width, prompt_width)
                    if slots > 1:
                        fresh = self.refill(states[size], fresh, np.array([slot], np.int32))
                    states[size] = self.run(fresh, size, 1, 1)
                    jax.device_get((states[size].rows.status_B, states[size].rows.emitted_B))
                taken[size].append(time.perf_counter() - began - slots * round_seconds[size])
        median = {size: float(np.median(times[1:])) for size, times in taken.items()}  # the first compiled
        return {size: median[size if size in median else self._largest] for size in self._loops}

    def costs(self, state: State, rounds: int, repeats: int = 7) -> RoundCosts:
        """Measures a round of every size, 0 among them, from a state on, which stays what it is.

        Every loop runs once to compile and then takes its turns, each after a round that is not timed. A
        shared machine is now faster, now slower: each size is compared with plain decoding in the same turn,
        and the median counts. A run's fixed cost is in it, as it is in serving, spread over as many rounds:
        texts are drawn at a temperature at which they hardly ever end, and a round costs the same at any.
        """
        state = _at_temperature(state, _ENDLESS)
        turns: list[dict[int, float]] = []
        for _ in range(repeats + 1):
            turns.append({})
            for size in self._loops:
                copy = jax.tree.map(jnp.copy, state)
                before = jax.block_until_ready(self.run(copy, size, 1, 1))
                done = int(jnp.max(before.counts.rounds_B))
                began = time.perf_counter()
                after = jax.block_until_ready(self.run(before, size, rounds, 1))
                seconds = time.perf_counter() - began
                turns[-1][size] = seconds / max(int(jnp.max(after.counts.rounds_B)) - done, 1)
        del turns[0]  # it compiled
        return RoundCosts.median([RoundCosts(turn) for turn in turns])


class _Prepared:
    """Parameters in the forms that their owner knows, each made once; a form is told by its tree."""

    def __init__(self, owner: LanguageModel | Drafter | None, params: Any) -> None:
        self._owner = owner
        self._params = params
        self._forms: dict[Any, Any] = {jax.tree.structure(params): params}

    def for_rows(self, rows: int | None) -> Any:
        """The form for calls of so many rows; None where they may be many."""
        owner = self._owner
        if owner is None:
            return self._params

        def prepare(params: Any) -> Any:
            return owner.prepare(params, rows)

        form = jax.tree.structure(jax.eval_shape(prepare, self._params))
        if form not in self._forms:
            self._forms[form] = jax.jit(prepare)(self._params)
        return self._forms[form]


# Shared by all runners: two with equal loops and shapes compile once.
@functools.partial(jax.jit, static_argnums=(0, 1, 5, 6))
def _init(
    loop: Loop,
    largest: Loop,
    params: PairParams,
    prompt_BT: Array,
    requests: Requests,
    width: int,
    prompt_width: int,
) -> State:
    """`loop.init`, with room as if the prompts had been so wide, and the loop the `largest`.

    Slots without a token are never seen.
    """
    state = loop.init(params, prompt_BT, requests, width)
    wide_BT = jax.ShapeDtypeStruct((len(prompt_BT), prompt_width), prompt_BT.dtype)
    wide = jax.eval_shape(functools.partial(largest.init, max_new_tokens=width), params, wide_BT, requests)
    return jax.tree.map(_with_room, state, plain(wide) if state.draft is None else wide)


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
def _refill(state: State, fresh: State, slot_B: Array | np.ndarray) -> State:
    return jax.tree.map(lambda old, new: old.at[slot_B].set(new, mode="drop"), state, fresh)


def _at_temperature(state: State, temperature: float) -> State:
    requests = state.rows.requests
    distribution = requests.distribution.replace(  # type: ignore[attr-defined]
        temperature=jnp.full_like(requests.distribution.temperature, temperature)
    )
    requests = requests.replace(distribution=distribution)  # type: ignore[attr-defined]
    return state.replace(rows=state.rows.replace(requests=requests))  # type: ignore[attr-defined]


def plain(state: State) -> State:
    """The state without a drafter's memory."""
    return state.replace(draft=None)  # type: ignore[attr-defined]


@functools.partial(jax.jit, static_argnums=0)
def _resumed(loop: Loop, params: PairParams, prompt_BT: Array, rows: Rows) -> Any:
    """The memory of the loop's drafter, given the rows' prompts and texts."""
    fresh = loop.init(params, prompt_BT, rows.requests, rows.output_BT.shape[1])
    first_B = fresh.rows.pending_B  # nothing else of the target is computed
    drafter = loop.drafter  # type: ignore[attr-defined]
    return drafter.follow(params.draft, fresh.draft, first_B, rows.output_BT, rows.emitted_B)
