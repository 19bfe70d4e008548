"""The host's side of decoding: lists of prompts in, completions out.

Batches have one size and few lengths, so that little is compiled. A batch is decoded in visits of some
rounds; between visits the host reports progress. Nothing above this module sees batches.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.decoding import randomness
from distillspec_jax.decoding.autoregressive import AutoregressiveLoop
from distillspec_jax.decoding.drafters import Drafter
from distillspec_jax.decoding.law import SamplingLaw
from distillspec_jax.decoding.speculative import SpeculativeLoop
from distillspec_jax.decoding.state import Loop, PairParams, Requests, State, Status
from distillspec_jax.decoding.stopping import STOP_ON_EOS, Stopping
from distillspec_jax.decoding.verifiers import TOKEN_RULE, Verifier
from distillspec_jax.errors import UsageError
from distillspec_jax.models.interface import LanguageModel
from distillspec_jax.shapes import Array, Params

_FINISH_REASONS = {Status.ENDED: "eos", Status.LENGTH: "length", Status.FAILED: "failed"}


@dataclasses.dataclass(frozen=True)
class Completion:
    """What became of one prompt. Counts are sums, to be pooled before any ratio is formed.

    Attributes:
      tokens: emitted tokens, EOS included if it was emitted.
      finish_reason: `eos`, `length`, or `failed` (the model's logits were not finite).
      target_calls: verify passes; in autoregressive decoding one a token. Prefill is apart.
      cut_rounds: rounds whose last token was an accepted draft, ended by EOS or the limit, so that
        `len(tokens) == accepted + target_calls - cut_rounds`.
      tested_at: for each draft position, the rounds that tested it.
      accepted_at: for each draft position, the rounds that accepted it.
      overlap: sum over tested positions of sum_v min(p, q); None if it was not measured.
    """

    tokens: tuple[int, ...]
    finish_reason: str
    target_calls: int
    cut_rounds: int
    tested_at: tuple[int, ...]
    accepted_at: tuple[int, ...]
    overlap: float | None = None

    @property
    def tested(self) -> int:
        """Drafts put to the test."""
        return sum(self.tested_at)

    @property
    def accepted(self) -> int:
        """Drafts accepted."""
        return sum(self.accepted_at)


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a call of `Engine.generate` is."""

    done_prompts: int
    total_prompts: int
    emitted_tokens: int


class Engine:
    """Decodes prompts with one target and, if given, one drafter.

    Args:
      target: the network; `target_params` pass through its `prepare` once, if it offers one.
      drafter: None decodes autoregressively, by one-token calls. Its params pass through its `prepare`.
      verifier, block_size, measure_overlap: see `SpeculativeLoop`; without a drafter they mean nothing.
      stopping: when a row ends by its content.
      batch_size: rows of a batch; the last batch is filled up with rows that never run.
      prompt_bucket: prompt lengths are rounded up to a multiple of it.
      rounds_per_visit: rounds between two visits of the host.
      on_compile: told, in one line, when a new shape is about to be compiled.

    Raises:
      UsageError: a size below 1.
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
        block_size: int = 5,
        batch_size: int = 8,
        prompt_bucket: int = 32,
        rounds_per_visit: int = 32,
        measure_overlap: bool = False,
        on_compile: Callable[[str], None] | None = None,
    ) -> None:
        sizes = (batch_size, prompt_bucket, rounds_per_visit)
        for name, size in zip(("batch_size", "prompt_bucket", "rounds_per_visit"), sizes, strict=True):
            if size < 1:
                raise UsageError(f"{name} is {size}, must be at least 1")
        self._loop: Loop
        if drafter is None:
            self._loop = AutoregressiveLoop(target, stopping)
        else:
            self._loop = SpeculativeLoop(target, drafter, verifier, stopping, block_size, measure_overlap)
        self._params = PairParams(_prepared(target, target_params), _prepared(drafter, drafter_params))
        self._batch_size = batch_size
        self._prompt_bucket = prompt_bucket
        self._rounds_per_visit = rounds_per_visit
        self._measured = drafter is not None and measure_overlap
        self._on_compile = on_compile
        self._compiled: set[tuple[Any, ...]] = set()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        law: SamplingLaw,
        max_new_tokens: int | Sequence[int],
        seed: int,
        progress: Callable[[Progress], None] | None = None,
    ) -> list[Completion]:
        """Decodes every prompt; the completions come in the prompts' order.

        Args: see `stream`.
        """
        found = dict(self.stream(prompts, law, max_new_tokens, seed, progress))
        return [found[i] for i in range(len(prompts))]

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        law: SamplingLaw,
        max_new_tokens: int | Sequence[int],
        seed: int,
        progress: Callable[[Progress], None] | None = None,
    ) -> Iterator[tuple[int, Completion]]:
        """Decodes every prompt and yields (index, completion) as they finish.

        Args:
          prompts: token ids; none empty, none containing the padding id 0.
          law: fields `[]`, or one value a prompt.
          max_new_tokens: one limit, or one a prompt; each at least 1.
          seed: fixes every prompt's text, given its index and the block size.
          progress: called on the host after every visit.

        Raises:
          UsageError: a prompt, a limit or a law of the wrong form, named by its index; an impossible seed.
        """
        limits = _limits(max_new_tokens, len(prompts))
        _check_prompts(prompts)
        for field in (law.temperature, law.top_k, law.top_p):
            if field.ndim and field.shape != (len(prompts),):
                raise UsageError(f"the law has {field.shape[0]} rows for {len(prompts)} prompts")
        return self._batches(prompts, law, limits, randomness.seed_key(seed), progress or (lambda _: None))

    def _batches(
        self,
        prompts: Sequence[Sequence[int]],
        law: SamplingLaw,
        limits: np.ndarray,
        seed_key: Array,
        progress: Callable[[Progress], None],
    ) -> Iterator[tuple[int, Completion]]:
        total, emitted_before = len(prompts), 0
        if not total:
            return
        # One width for the whole call, so that its batches share their compiled form.
        width = int(limits.max())
        laws = law.for_rows(total)
        for first in range(0, total, self._batch_size):
            live = min(self._batch_size, total - first)
            # Rows that fill up the batch repeat its last prompt and are idle from the start.
            index_B = np.minimum(np.arange(first, first + self._batch_size), total - 1)
            requests = Requests(
                keys_B=randomness.row_keys(seed_key, jnp.asarray(index_B)),
                limit_B=jnp.where(jnp.arange(self._batch_size) < live, jnp.asarray(limits[index_B]), 0),
                law=laws.select(index_B),
            )
            prompt_BT = self._padded([prompts[i] for i in index_B])
            self._announce(prompt_BT.shape, width, law.truncates)
            state = _init(self._loop, self._params, prompt_BT, requests, width)
            running = True
            while running:
                state = _run(self._loop, self._params, state, self._rounds_per_visit)
                status_B, emitted_B = jax.device_get((state.rows.status_B, state.rows.emitted_B))
                idle_B = status_B[:live] != Status.RUNNING
                running = not idle_B.all()
                progress(Progress(first + int(idle_B.sum()), total, emitted_before + int(emitted_B.sum())))
            emitted_before += int(emitted_B.sum())
            yield from enumerate(self._completions(state, live), start=first)

    def _padded(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        longest = max(len(prompt) for prompt in prompts)
        width = -(-longest // self._prompt_bucket) * self._prompt_bucket
        padded_BT = np.zeros((len(prompts), width), np.int32)
        for row_T, prompt in zip(padded_BT, prompts, strict=True):
            row_T[: len(prompt)] = prompt
        return padded_BT

    def _announce(self, prompt_shape: tuple[int, ...], width: int, truncates: bool) -> None:
        shape = (prompt_shape, width, truncates)
        if shape not in self._compiled and self._on_compile is not None:
            rows, length = prompt_shape
            self._on_compile(f"compiling: {rows} rows, prompts of up to {length}, {width} new tokens")
        self._compiled.add(shape)

    def _completions(self, state: State, live: int) -> Iterator[Completion]:
        rows, counts = jax.device_get(
            ((state.rows.output_BT, state.rows.emitted_B, state.rows.status_B), state.counts)
        )
        output_BT, emitted_B, status_B = rows
        for b in range(live):
            yield Completion(
                tokens=tuple(output_BT[b, : emitted_B[b]].tolist()),
                finish_reason=_FINISH_REASONS[Status(int(status_B[b]))],
                target_calls=int(counts.rounds_B[b]),
                cut_rounds=int(counts.cut_B[b]),
                tested_at=tuple(counts.tested_BG[b].tolist()),
                accepted_at=tuple(counts.accepted_BG[b].tolist()),
                overlap=float(counts.overlap_B[b]) if self._measured else None,
            )


# Shared by all engines: two engines with equal loops and shapes compile once.
@functools.partial(jax.jit, static_argnums=(0, 4))
def _init(loop: Loop, params: PairParams, prompt_BT: Array, requests: Requests, width: int) -> State:
    return loop.init(params, prompt_BT, requests, width)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _run(loop: Loop, params: PairParams, state: State, max_rounds: int) -> State:
    return loop.run(params, state, max_rounds)


def _prepared(owner: Any, params: Any) -> Any:
    """The fast form of parameters, where their owner knows one."""
    prepare = getattr(owner, "prepare", None)
    return params if prepare is None else jax.jit(prepare)(params)


def _limits(max_new_tokens: int | Sequence[int], prompts: int) -> np.ndarray:
    limits = np.asarray(max_new_tokens)
    if limits.ndim and limits.shape != (prompts,):
        raise UsageError(f"max_new_tokens has {limits.size} values for {prompts} prompts")
    limits = np.broadcast_to(limits, (prompts,)).astype(np.int32)
    for i in np.flatnonzero(limits < 1)[:1]:
        raise UsageError(f"max_new_tokens is {limits[i]} for prompt {i}, must be at least 1")
    return limits


def _check_prompts(prompts: Sequence[Sequence[int]]) -> None:
    for i, prompt in enumerate(prompts):
        if not len(prompt):
            raise UsageError(f"prompt {i} is empty, must hold at least one token")
        if min(prompt) < 1:
            raise UsageError(f"prompt {i} holds the id {min(prompt)}, must be 1 or more (0 is padding)")
