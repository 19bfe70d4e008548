"""Completions: the host's view of a row, with its tokens, finish reason and counts."""

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
    """The output of one prompt and its counts, which are sums: pool them before computing any ratio.

    Attributes:
      tokens: emitted tokens, EOS included if it was emitted.
      finish_reason: `eos`, `length`, `failed` (the target's logits were not finite) or `cancelled`.
      target_calls: verify passes; one per token in autoregressive decoding. Prefill is excluded.
      cut_rounds: rounds whose last token was an accepted draft that was EOS or reached the limit, so
        `len(tokens) == accepted + target_calls - cut_rounds`.
      tested_at: for each draft position, the number of rounds that tested it.
      accepted_at: for each draft position, the number of rounds that accepted it.
      overlap: sum over tested positions of sum_v min(p, q); None if it was not measured.
      drafted: drafts that were offered, tested or not (with several blocks, in the chosen one).
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
        """Number of tested drafts."""
        return sum(self.tested_at)

    @property
    def accepted(self) -> int:
        """Number of accepted drafts."""
        return sum(self.accepted_at)

    @property
    def record(self) -> Record:
        """The counts, without the tokens."""
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
        """Waits for the device and fetches the rows."""
        rows = state.rows
        return cls(*jax.device_get((rows.output_BT, rows.emitted_B, rows.status_B, state.counts)))

    def completion(self, row: int, measured: bool = False, cancelled: bool = False) -> Completion:
        """Makes the completion of a row.

        Args:
          measured: whether the loop measured the overlap.
          cancelled: whether the row was cancelled before it ended.
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
