"""Completions: a row as the host reads it, with its tokens, its ending and its counts."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from distillspec_jax.acceptance import Record
from distillspec_jax.decoding.state import Counts, State, Status

_FINISH_REASONS = {Status.ENDED: "eos", Status.LENGTH: "length", Status.FAILED: "failed"}


@dataclasses.dataclass(frozen=True)
class Completion:
    """The output of one prompt and its counts: sums, to be pooled before any ratio is formed.

    Attributes:
      tokens: emitted tokens, EOS included if it was emitted.
      finish_reason: `eos`, `length`, `failed` (the target's logits were not finite) or `cancelled`.
      target_calls: verify passes; in autoregressive decoding one a token. Prefill is apart.
      cut_rounds: rounds whose last token was an accepted draft, ended by EOS or the limit, so that
        `len(tokens) == accepted + target_calls - cut_rounds`.
      tested_at: for each draft position, the rounds that tested it.
      accepted_at: for each draft position, the rounds that accepted it.
      overlap: sum over tested positions of sum_v min(p, q); None if it was not measured.
      drafted: drafts that were offered, tested or not (of several blocks, in the chosen one).
    """

    tokens: tuple[int, ...]
    finish_reason: str
    target_calls: int
    cut_rounds: int
    tested_at: tuple[int, ...]
    accepted_at: tuple[int, ...]
    overlap: float | None = None
    drafted: int | None = None

    @property
    def tested(self) -> int:
        """Drafts put to the test."""
        return sum(self.tested_at)

    @property
    def accepted(self) -> int:
        """Drafts accepted."""
        return sum(self.accepted_at)

    @property
    def record(self) -> Record:
        """The counts alone."""
        names = ("target_calls", "cut_rounds", "tested", "accepted", "drafted", "tested_at", "accepted_at")
        counts = {name: getattr(self, name) for name in (*names, "overlap")}
        return Record(emitted_tokens=len(self.tokens), **counts)


class Fetched(NamedTuple):
    """The rows of a state on the host: `output_BT`, `emitted_B`, `status_B` (see `Rows`) and counts."""

    output_BT: np.ndarray
    emitted_B: np.ndarray
    status_B: np.ndarray
    counts: Counts

    @classmethod
    def of(cls, state: State) -> Fetched:
        """Waits for the device, and fetches."""
        rows = state.rows
        return cls(*jax.device_get((rows.output_BT, rows.emitted_B, rows.status_B, state.counts)))

    def completion(self, row: int, measured: bool = False, cancelled: bool = False) -> Completion:
        """The completion of a row.

        Args:
          measured: whether the loop measured overlap.
          cancelled: the row was given up before it ended.
        """
        counts = self.counts
        return Completion(
            tokens=tuple(self.output_BT[row, : self.emitted_B[row]].tolist()),
            finish_reason="cancelled" if cancelled else _FINISH_REASONS[Status(int(self.status_B[row]))],
            target_calls=int(counts.rounds_B[row]),
            cut_rounds=int(counts.cut_B[row]),
            tested_at=tuple(counts.tested_BG[row].tolist()),
            accepted_at=tuple(counts.accepted_BG[row].tolist()),
            overlap=float(counts.overlap_B[row]) if measured else None,
            drafted=int(counts.drafted_B[row]),
        )
