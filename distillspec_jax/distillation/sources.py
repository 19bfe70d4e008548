"""Sources of training sequences; any divergence works with any source.

A source turns a batch (prompts and reference targets) into the batch that the loss is computed on. It runs
inside the jitted step, with the draft's current parameters. To add a source, write its file and add one line
to `SOURCES`: `"name": deferred("distillspec_jax.distillation.file", "Class")`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from distillspec_jax.decoding import randomness
from distillspec_jax.decoding.autoregressive import sample
from distillspec_jax.decoding.sampling import SamplingParams
from distillspec_jax.decoding.stopping import StopOnEos
from distillspec_jax.deferred import deferred
from distillspec_jax.errors import UsageError, find
from distillspec_jax.models.interface import Batch, LanguageModel, prompt_lengths, shift_right
from distillspec_jax.shapes import Array, Params
from distillspec_jax.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Networks:
    """The pair and its parameters, as a source sees them inside a step.

    Attributes:
      draft, target: the networks.
      draft_params, target_params: their parameters, the draft's current ones.
      vocabulary: shared by both.
      initial_params: the draft's as they were before training, for a source that samples from them (`Stale`).
    """

    draft: LanguageModel
    draft_params: Params
    target: LanguageModel
    target_params: Params
    vocabulary: Vocabulary
    initial_params: Params | None = None


class DataSource(Protocol):
    """A frozen value: `(networks, batch, key) -> batch` with the sequences to train on."""

    def __call__(self, networks: Networks, batch: Batch, key: Array) -> Batch:
        """Makes the batch to train on, with the same features and shapes as `batch`.

        Its `decoder_loss_weights` mark the tokens of each sequence to train on. A source that changes during
        training reads `step` (`training.step.LossFn`).
        """


@dataclasses.dataclass(frozen=True)
class Fixed:
    """The data set's own targets (supervised KD)."""

    def __call__(self, networks: Networks, batch: Batch, key: Array) -> Batch:
        """See `DataSource`."""
        return batch


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Settings of a source that samples its targets from a network; no gradient flows through them.

    Attributes:
      temperature: of the network's distribution (the paper: 1).
      max_tokens: maximum sample length; None: the width of the batch's targets.
    """

    temperature: float = 1.0
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        # Checked here rather than in the step, before anything is compiled.
        name = type(self).__name__
        if not 0 <= self.temperature < math.inf:
            raise UsageError(f"{name}.temperature={self.temperature}: must be 0 (greedy) or more")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError(f"{name}.max_tokens={self.max_tokens}: must be at least 1")

    @property
    def sampling(self) -> SamplingParams:
        """Sampling parameters of the network's tokens."""
        return SamplingParams(self.temperature)


@dataclasses.dataclass(frozen=True)
class OnPolicy(Sampled):
    """On-policy samples: drawn from the draft with its current parameters.

    Attributes:
      temperature, max_tokens: see `sampled_batch`.
    """

    def __call__(self, networks: Networks, batch: Batch, key: Array) -> Batch:
        """See `DataSource`."""
        model, params = networks.draft, networks.draft_params
        return sampled_batch(model, params, batch, key, self.sampling, networks.vocabulary, self.max_tokens)


@dataclasses.dataclass(frozen=True)
class TargetGenerated(Sampled):
    """The target's samples, drawn afresh in every step. Slow: the target decodes token by token.

    Attributes:
      temperature, max_tokens: see `sampled_batch`.
    """

    def __call__(self, networks: Networks, batch: Batch, key: Array) -> Batch:
        """See `DataSource`."""
        model, params = networks.target, networks.target_params
        return sampled_batch(model, params, batch, key, self.sampling, networks.vocabulary, self.max_tokens)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Several sources; each fills its share of every batch's rows and samples only those rows.

    Attributes:
      sources: two or more.
      weights: positive shares that sum to 1, rounded to whole rows; the last source takes the rest.
    """

    sources: tuple[DataSource, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources))
        object.__setattr__(self, "weights", tuple(self.weights))
        if len(self.sources) != len(self.weights) or not self.sources:
            raise UsageError(f"Mixture: {len(self.sources)} sources but {len(self.weights)} weights")
        if min(self.weights) <= 0 or abs(sum(self.weights) - 1) > 1e-6:
            raise UsageError(f"Mixture.weights={self.weights} must be positive and sum to 1")

    def __call__(self, networks: Networks, batch: Batch, key: Array) -> Batch:
        """See `DataSource`."""
        rows = batch["decoder_target_tokens"].shape[0]
        self.check(rows, 1)
        parts, start = [], 0
        for i, (source, dealt) in enumerate(zip(self.sources, self._dealt(rows), strict=True)):
            part = {name: x[start : start + dealt] for name, x in batch.items()}
            parts.append(source(networks, part, jax.random.fold_in(key, i)))
            start += dealt
        return jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)

    def _dealt(self, rows: int) -> list[int]:
        """Splits a number of rows among the sources."""
        bounds = [round(rows * sum(self.weights[:i])) for i in range(len(self.weights))] + [rows]
        return [end - start for start, end in itertools.pairwise(bounds)]

    def check(self, rows: int, microbatches: int) -> None:
        """Checks that the shares split a batch, and each of its microbatches, into the same whole rows.

        Args:
          rows: batch size.
          microbatches: number of parts of a batch; divides `rows`.

        Raises:
          UsageError: a share is less than a row, or rounding differs between microbatches and batch; the
            message names the nearest number of microbatches that fits.
        """
        whole = self._dealt(rows)
        if 0 in whole:
            share = self.weights[whole.index(0)]
            raise UsageError(f"Mixture: share {share} of {rows} rows is none; raise BATCH_SIZE or the share")

        def in_parts(parts: int) -> list[int]:
            return [parts * dealt for dealt in self._dealt(rows // parts)]

        if in_parts(microbatches) != whole:
            fits = (n for n in range(microbatches, 0, -1) if rows % n == 0 and in_parts(n) == whole)
            raise UsageError(
                f"Mixture: MICROBATCHES={microbatches} would deal {rows} rows out as "
                f"{in_parts(microbatches)} and not as {whole}; take {next(fits)}"
            )
        for source, dealt in zip(self.sources, whole, strict=True):
            check_shares(source, dealt, microbatches)


SOURCES: dict[str, Callable[[], DataSource]] = {
    "fixed": Fixed,
    "on_policy": OnPolicy,
    "target": TargetGenerated,
    "replay": deferred("distillspec_jax.distillation.replay", "Replayed"),
    "stale": deferred("distillspec_jax.distillation.stale", "Stale"),
}
"""Short names for the Python interface and `--gin.SOURCE=fixed`; gin files name the classes."""


def source(named: str | DataSource) -> DataSource:
    """Makes the source that a key of `SOURCES` names; returns any other value unchanged.

    Raises:
      UsageError: the name is unknown.
    """
    return find("source", named, SOURCES)() if isinstance(named, str) else named


def check_shares(source: DataSource, rows: int, microbatches: int) -> None:
    """Checks the shares of every mixture nested in a source (`Mixture.check`)."""
    check = getattr(source, "check", None)
    if check is not None:
        check(rows, microbatches)


def holds(source: Any, kind: type) -> bool:
    """Tells whether a source, or one nested in it, is of a class: `Fixed` reads the references."""
    if isinstance(source, (tuple, list)):
        return any(holds(part, kind) for part in source)
    if not dataclasses.is_dataclass(source):
        return False
    parts = (getattr(source, field.name) for field in dataclasses.fields(source))
    return isinstance(source, kind) or any(holds(part, kind) for part in parts)


def sampled_batch(
    model: LanguageModel,
    params: Params,
    batch: Batch,
    key: Array,
    sampling: SamplingParams,
    vocabulary: Vocabulary,
    max_tokens: int | None = None,
) -> Batch:
    """Replaces a batch's targets with samples of `model` on the same prompts.

    A sample ends with EOS, which counts, or is cut at the width of the targets. Rows without a prompt
    (padding rows of a last batch) stay empty.

    Args:
      model, params: the network to sample from.
      batch: features as in `data.features`, not packed.
      key: of the batch; each row has its own random stream.
      sampling: the sampling distribution.
      vocabulary: gives the ids that end a sample and the ids that are never sampled.
      max_tokens: maximum sample length; None: the width of the targets.
    """
    prompt_BT = batch["encoder_input_tokens"]
    rows, width = batch["decoder_target_tokens"].shape
    length = min(width, max_tokens or width)
    distribution = sampling.distribution(vocabulary)
    keys_B = randomness.row_keys(key, jnp.arange(rows))
    stopping = StopOnEos(vocabulary.eos_ids)
    tokens_BT, length_B = sample(model, params, distribution, prompt_BT, keys_B, length, stopping)
    tokens_BT = jnp.pad(tokens_BT, ((0, 0), (0, width - length)))
    real_BT = (jnp.arange(width)[None] < length_B[:, None]) & (prompt_lengths(prompt_BT)[:, None] > 0)
    tokens_BT = jax.lax.stop_gradient(jnp.where(real_BT, tokens_BT, 0))
    return {
        **batch,
        "decoder_target_tokens": tokens_BT,
        "decoder_input_tokens": shift_right(tokens_BT),
        "decoder_loss_weights": real_BT.astype(jnp.float32),
    }
