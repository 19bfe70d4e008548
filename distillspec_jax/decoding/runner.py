"""The device side of decoding: compiled loops for several block sizes that share one state.

Every size has its own loop, and parameters in the form that is fastest for its calls. Autoregressive
decoding (size 0) drops the drafter's memory and prefills prompts without it. When speculation resumes, the
drafter reads the prompts and texts again.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.decoding.autoregressive import AutoregressiveLoop
from distillspec_jax.decoding.drafters import Drafter
from distillspec_jax.decoding.speculative import SpeculativeLoop
from distillspec_jax.decoding.state import Loop, PairParams, Rows, RowSettings, State, placed
from distillspec_jax.decoding.stopping import Stopping
from distillspec_jax.decoding.verifiers import Verifier
from distillspec_jax.errors import UsageError
from distillspec_jax.models.cpu_forms import compiled
from distillspec_jax.models.interface import LanguageModel
from distillspec_jax.partitioning import Partitioner
from distillspec_jax.shapes import Array, Params


class Runner:
    """Runs a batch at any of the given block sizes.

    Attributes:
      block_sizes: in ascending order.

    Args:
      target_params: the parameters, or a `Prepared` that several runners of one target share.
      block_sizes: 0 decodes one token at a time; without a drafter, it is the only size.
      rows: number of rows in the batch.
      verifier, stopping, measure_overlap: see `SpeculativeLoop`.
      partitioner: splits the rows over its mesh's data axis; the caller places the parameters.

    Raises:
      UsageError: the only block size is below 1 although there is a drafter, or several sizes lack 0.
    """

    def __init__(
        self,
        target: LanguageModel,
        target_params: Params | Prepared,
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
            raise UsageError(
                f"block sizes to choose from, {list(block_sizes)}, lack 0, autoregressive decoding"
            )
        self._loops: dict[int, Loop] = {}
        self._params: dict[int, PairParams] = {}
        shared = isinstance(target_params, Prepared)
        of_target = target_params if shared else Prepared(target, target_params)
        of_drafter = Prepared(drafter, drafter_params)
        # Prefill multiplies matrices of many rows, so it uses the canonical parameters.
        self._reading = PairParams(of_target.params, drafter_params)
        for size in sorted(set(block_sizes)):
            if drafter is None or (size == 0 and len(block_sizes) > 1):
                self._loops[size], tokens = AutoregressiveLoop(target, stopping), 1
            else:
                self._loops[size] = SpeculativeLoop(
                    target, drafter, verifier, stopping, size, measure_overlap
                )
                tokens = (size + 1) * drafter.candidates
            # The forms for few rows work on a single device only.
            wide, narrow = (None, None) if partitioner else (rows * tokens, rows)
            self._params[size] = PairParams(of_target.for_rows(wide), of_drafter.for_rows(narrow))
        self.block_sizes = tuple(self._loops)
        self._largest = max(self._loops)
        self._drafter = drafter
        self._vocab_size = target.vocab_size
        self._partitioner = partitioner

    def check_room(self, prompt_BT: jax.ShapeDtypeStruct, settings: RowSettings, width: int) -> int:
        """Raises the errors that `read` would raise for these widths, without computing anything.

        Args:
          prompt_BT, settings: shapes and dtypes.

        Returns:
          A lower bound on the bytes that decoding such rows needs on each device, besides the parameters:
          its share of the state, and of a round's target logits and distributions.
        """
        rows, prompt_width = prompt_BT.shape
        loop = self._loops[self._largest]
        state = _init.eval_shape(loop, loop, self._reading, prompt_BT, settings, width, prompt_width, None)
        kept = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        blocks = 1 if self._drafter is None else self._drafter.candidates
        logits = 2 * 4 * rows * blocks * (self._largest + 1) * self._vocab_size
        return int(kept + logits) // (1 if self._partitioner is None else self._partitioner.mesh.size)

    def read(
        self,
        prompt_BT: Array | np.ndarray,
        settings: RowSettings,
        width: int,
        prompt_width: int | None = None,
        block_size: int | None = None,
    ) -> State:
        """Prefills prompts into a fresh state with room for blocks of every size.

        Args:
          prompt_BT: int32 `[B, T]`.
          settings: the rows' settings.
          width: room for output tokens.
          prompt_width: reserve room for prompts of this width; default: their own width.
          block_size: block size of the next run; at 0 the drafter does not read the prompts. By default it
            does.
        """
        prompt_BT, settings = self._placed((prompt_BT, settings))
        largest = self._loops[self._largest]
        loop = largest if block_size or block_size is None else self._loops[0]
        prompt_width = prompt_width or prompt_BT.shape[1]
        partitioner = self._partitioner
        return _init(loop, largest, self._reading, prompt_BT, settings, width, prompt_width, partitioner)

    def run(self, state: State, block_size: int, max_rounds: int, enough: int) -> State:
        """See `Loop.run`; donates the state. Drafting needs a state read for drafting, or `resumed`."""
        if not block_size:
            state = without_draft(state)
        return _run(self._loops[block_size], self._params[block_size], state, max_rounds, enough)

    def resumed(self, state: State, prompt_BT: np.ndarray) -> State:
        """Prepares an autoregressive state for drafting: the drafter reads all prompts and texts.

        Args:
          prompt_BT: the prompt of every row, as wide as the state has room for; arbitrary for idle rows.
        """
        (prompt_BT,) = self._placed((prompt_BT,))
        loop = self._loops[self._largest]
        assert isinstance(loop, SpeculativeLoop)  # callers resume only with a drafter
        memory = _resumed(loop, self._reading, prompt_BT, state.rows)
        return dataclasses.replace(state, draft=memory)

    def refill(self, state: State, fresh: State, slot_B: Array | np.ndarray) -> State:
        """Copies fresh rows into slots; drops rows with a slot past the end. Donates the state."""
        return _refill(without_draft(state) if fresh.draft is None else state, fresh, slot_B)

    def _placed(self, arrays: Any) -> Any:
        return arrays if self._partitioner is None else self._partitioner.put_rows(arrays)


class Prepared:
    """Parameters in their owner's prepared forms, each made once; the tree structure identifies a form.

    Args:
      owner: the model or drafter that the parameters belong to.
      params: the parameters in canonical form.
    """

    def __init__(self, owner: LanguageModel | Drafter | None, params: Any) -> None:
        self._owner = owner
        self.params = params
        self._forms: dict[Any, Any] = {jax.tree.structure(params): params}

    def for_rows(self, rows: int | None) -> Any:
        """Returns the form for calls of `rows` rows; None if there may be many."""
        owner = self._owner
        if owner is None:
            return self.params

        def prepare(params: Any) -> Any:
            return owner.prepare(params, rows)

        form = jax.tree.structure(jax.eval_shape(prepare, self.params))
        if form not in self._forms:
            self._forms[form] = jax.jit(prepare)(self.params)
        return self._forms[form]


# Shared by all runners, so that two with equal loops and shapes compile once.
@functools.partial(jax.jit, static_argnums=(0, 1, 5, 6, 7))
def _init(
    loop: Loop,
    largest: Loop,
    params: PairParams,
    prompt_BT: Array,
    settings: RowSettings,
    width: int,
    prompt_width: int,
    partitioner: Partitioner | None,
) -> State:
    """Runs `loop.init`, then pads the state to the room of prompts of `prompt_width` and loop `largest`.

    The extra cache slots are padding, which attention never sees.
    """
    state = loop.init(params, prompt_BT, settings, width)
    wide_BT = jax.ShapeDtypeStruct((len(prompt_BT), prompt_width), prompt_BT.dtype)
    wide = jax.eval_shape(functools.partial(largest.init, max_new_tokens=width), params, wide_BT, settings)
    state = jax.tree.map(_with_room, state, without_draft(wide) if state.draft is None else wide)
    return placed(state, partitioner)


def _with_room(narrow: Array, wide: jax.ShapeDtypeStruct) -> Array:
    more = [(0, b - a) for a, b in zip(narrow.shape, wide.shape, strict=True)]
    return jnp.pad(narrow, more) if any(end for _, end in more) else narrow


_run = compiled(lambda loop, *args: loop.run(*args), static_argnums=0, donate_argnums=2)


@functools.partial(jax.jit, donate_argnums=0)
def _refill(state: State, fresh: State, slot_B: Array | np.ndarray) -> State:
    return jax.tree.map(lambda old, new: old.at[slot_B].set(new, mode="drop"), state, fresh)


def without_draft(state: State) -> State:
    """Returns the state without a drafter's memory."""
    return dataclasses.replace(state, draft=None)


@functools.partial(jax.jit, static_argnums=0)
def _resumed(loop: SpeculativeLoop, params: PairParams, prompt_BT: Array, rows: Rows) -> Any:
    """Makes the memory of the loop's drafter by reading the rows' prompts and texts."""
    fresh = loop.init(params, prompt_BT, rows.settings, rows.output_BT.shape[1])
    first_B = fresh.rows.pending_B  # the only value of the target that is used, so XLA computes no more
    return loop.drafter.follow(params.draft, fresh.draft, first_B, rows.output_BT, rows.emitted_B)
