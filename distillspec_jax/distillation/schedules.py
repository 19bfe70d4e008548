"""Sources that change during training: a batch depends only on the step, so restarts do not affect it."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from distillspec_jax.distillation.sources import DataSource, Networks, check_shares
from distillspec_jax.errors import UsageError, check_number
from distillspec_jax.models.interface import Batch
from distillspec_jax.shapes import Array


@dataclasses.dataclass(frozen=True)
class Turning:
    """Switches from one source to another, at once or by a growing share of every batch.

    Before the switch, and after a complete one, the unused source costs nothing. In between, both fill whole
    batches and only their own rows are kept, so a step costs as much as a step of each source together.

    Attributes:
      before, after: the sources.
      begin: number of steps with `before` only.
      end: step from which the share of `after` is constant; it grows linearly from `begin` on, in whole rows
        of each of the `MICROBATCHES`. Equal to `begin`: at once.
      share: in (0, 1], the final share of `after`.
    """

    before: DataSource
    after: DataSource
    begin: int
    end: int
    share: float = 1.0

    def __post_init__(self) -> None:
        check_number("Turning.begin", self.begin, 0)
        check_number("Turning.end", self.end, self.begin)
        check_number("Turning.share", self.share, 0, most=1, whole=False)
        if not self.share:
            raise UsageError("Turning.share=0: must be above 0, at most 1: use the source of `before` alone")

    def check(self, rows: int, microbatches: int) -> None:
        """See `sources.check_shares`.

        Raises:
          UsageError: the final share is less than half a row of each part.
        """
        part = rows // microbatches
        if self.share * part < 0.5:
            raise UsageError(
                f"Turning.share={self.share} of {part} rows is none; raise BATCH_SIZE or the share"
            )
        for source in (self.before, self.after):
            check_shares(source, rows, microbatches)

    def rows_after(self, step: Array, rows: int) -> Array:
        """Counts the rows of `after` in a batch, int32: with 24 rows and steps 0 to 8, step 1 has 3."""
        grown = jnp.clip((step - self.begin + 0.0) / max(self.end - self.begin, 1), 0.0, 1.0)
        reached = jnp.where(step >= self.end, 1.0, grown)
        return jnp.floor(rows * self.share * reached + 0.5).astype(jnp.int32)

    def __call__(self, networks: Networks, batch: Batch, key: Array) -> Batch:
        """See `DataSource`; the last rows are those of `after`."""
        batch, rows = dict(batch), batch["decoder_target_tokens"].shape[0]
        count = self.rows_after(batch["step"][0], rows)
        before, after = (
            jax.lax.cond(
                needed,
                functools.partial(source, networks),
                lambda batch, _: batch,
                batch,
                jax.random.fold_in(key, i),
            )
            for i, (source, needed) in enumerate(((self.before, count < rows), (self.after, count > 0)))
        )
        turned_B = jnp.arange(rows) >= rows - count

        def chosen(before: Array, after: Array) -> Array:
            return jnp.where(turned_B.reshape(-1, *[1] * (before.ndim - 1)), after, before)

        return jax.tree.map(chosen, before, after)
