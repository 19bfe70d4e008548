"""Held-out loss and task quality of models, example by example, so models can be compared pairwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from distillspec_jax import bounds, files, memory
from distillspec_jax.data import catalog, text_metrics
from distillspec_jax.data.examples import Example, examples
from distillspec_jax.evaluation import paired
from distillspec_jax.evaluation.paired import Interval
from distillspec_jax.generation.prompt_format import prompt_format, tokenizer_of
from distillspec_jax.generation.text_generator import TextGenerator
from distillspec_jax.models import fingerprints
from distillspec_jax.models.interface import shift_right, width_of
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.tokenization.prompt_reader import Reader


@dataclasses.dataclass(frozen=True)
class Measured:
    """A model's losses and outputs on some of a task's examples, before pooling.

    Attributes:
      nll: float32, summed negative log-likelihood of each reference, nats.
      tokens: int32, number of tokens of each reference, including EOS.
      references: texts.
      outputs: greedy text of each prompt; empty if the task has no metric.
      clusters: a label of each example, equal where they depend on each other, see `_cluster`.
      tokenizer: fingerprint of the model's; None if unknown.
    """

    nll: np.ndarray
    tokens: np.ndarray
    references: list[str]
    outputs: list[str]
    clusters: Sequence[str] | None = None
    tokenizer: str | None = None


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """A model's results on a task's held-out examples.

    Attributes:
      nll: summed negative log-likelihood of each reference, nats.
      tokens: number of tokens of each reference, including EOS.
      outputs: greedy text of each prompt.
      scores: the primary metric, example by example; empty if the task has none.
      corpus: the metric function's values over all examples.
      clusters, tokenizer: see `Measured`.
    """

    nll: np.ndarray
    tokens: np.ndarray
    outputs: list[str]
    scores: np.ndarray
    corpus: dict[str, float]
    clusters: Sequence[str] | None = None
    tokenizer: str | None = None

    @classmethod
    def of(cls, measured: Measured, metric_name: str) -> HeldOut:
        """Scores the outputs against the references with a metric of `data.text_metrics.METRICS`."""
        metric = text_metrics.find_metric(metric_name)
        shared: dict[str, Any] = {"clusters": measured.clusters, "tokenizer": measured.tokenizer}
        if metric.corpus is None:
            return cls(measured.nll, measured.tokens, [], np.zeros(0), {}, **shared)
        pairs = list(zip(measured.references, measured.outputs, strict=True))
        scores = np.asarray([text_metrics.per_example(metric_name, *pair) for pair in pairs])
        corpus = dict(metric.corpus(measured.references, measured.outputs))
        return cls(measured.nll, measured.tokens, measured.outputs, scores, corpus, **shared)

    @property
    def loss(self) -> Interval:
        """The pooled loss, nats per token; the interval is over examples."""
        return paired.ratio(self.nll, self.tokens, clusters=self.clusters)

    @property
    def perplexity(self) -> Interval:
        """The exponential of `loss`, in terms of the model's own tokens; infinite beyond all floats."""
        with np.errstate(over="ignore"):
            return Interval(*map(float, np.exp(self.loss)))

    @property
    def summary(self) -> dict[str, Any]:
        """All pooled values, for JSON."""
        return {
            "examples": len(self.tokens),
            "tokens": int(self.tokens.sum()),
            "nll_per_token": {"value": self.loss.value, "ci95": self.loss.ends},
            "perplexity": {"value": self.perplexity.value, "ci95": self.perplexity.ends},
            **{name: {"value": float(value)} for name, value in self.corpus.items()},
        }

    def loss_beyond(self, other: HeldOut) -> Interval:
        """Computes `loss` minus another model's on the same tokens."""
        return paired.ratio(self.nll - other.nll, self.tokens, clusters=self.clusters)

    def shares_tokens(self, other: HeldOut) -> bool:
        """Tells whether two models read the same references as the same tokens, so that losses compare."""
        return self.tokenizer == other.tokenizer and np.array_equal(self.tokens, other.tokens)


def measure(
    model: Pretrained,
    task: str,
    *,
    split: str,
    limit: int | None,
    batch_size: int = 16,
    chat: bool = False,
    lengths: Mapping[str, int] | None = None,
) -> HeldOut:
    """Measures teacher-forced loss, and greedy decoding quality if the task has a metric.

    Args:
      limit: use only the first examples of the split; default: all.
      chat: wrap prompts in the model's chat template.
      lengths: {"inputs", "targets"}, EOS included; default: the task's own.

    Raises:
      UsageError: an unknown task or split, a limit below 1, invalid lengths, or a model without tokenizer
        or chat template.
    """
    rows = examples_for(model, task, split=split, limit=limit, chat=chat, lengths=lengths)
    found = measure_rows(model, task, rows, batch_size=batch_size, chat=chat, lengths=lengths)
    return HeldOut.of(found, catalog.find_task(task).metric)


def examples_for(
    model: Pretrained,
    task: str,
    *,
    split: str,
    limit: int | None,
    chat: bool = False,
    lengths: Mapping[str, int] | None = None,
) -> list[Example]:
    """Reads the examples for `measure`.

    Raises:
      UsageError: see `measure`.
    """
    reader = Reader.of_card(model.card, tokenizer_of(model), chat=chat, name=model.name)
    return examples(task, split=split, limit=limit, reader=reader, lengths=lengths)


def measure_rows(
    model: Pretrained,
    task: str,
    rows: list[Example],
    *,
    batch_size: int,
    chat: bool = False,
    share: range | None = None,
    lengths: Mapping[str, int] | None = None,
) -> Measured:
    """Measures a share of the rows exactly as `measure` does among all rows.

    Args:
      share: indices of rows, starting at a multiple of the batch size; default: all rows.
      lengths: see `measure`.

    Raises:
      UsageError: see `measure`.
    """
    bounds.check_most("batch_size", batch_size, bounds.ROWS)
    spec, share = catalog.find_task(task), share or range(len(rows))
    width = width_of([row.prompt for row in rows])
    rows = [rows[i] for i in share]
    nll, tokens = reference_loss(model, rows, (lengths or spec.feature_lengths)["targets"], batch_size, width)
    references = [row.targets_text for row in rows]
    own: dict[str, Any] = {
        "clusters": [_cluster(row) for row in rows],
        "tokenizer": model.card.tokenizer_fingerprint,
    }
    if text_metrics.find_metric(spec.metric).corpus is None:
        return Measured(nll, tokens, references, [], **own)
    form = prompt_format(model, task=task, truncate=True, chat=chat)
    if lengths is not None:
        form = dataclasses.replace(form, max_tokens=lengths["inputs"], max_new_tokens=lengths["targets"])
    generator = TextGenerator(model, form=form, batch_size=batch_size)
    outputs = [g.outputs for g in generator.stream([row.inputs_text for row in rows])]
    return Measured(nll, tokens, references, outputs, **own)


def _cluster(row: Example) -> str:
    """Labels an example by its input, which the losses of all its references depend on.

    Texts without an input (language modelling of whole texts) share nothing unless they are the same.
    """
    return fingerprints.of_json([row.inputs_text, "" if row.inputs_text.strip() else row.targets_text])


def reference_loss(
    model: Pretrained, rows: list[Example], max_targets: int, batch_size: int, width: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Sums the loss and the tokens of every reference; no example is dropped.

    Args:
      width: of the padded prompts; default: that of the longest.
    """
    reader = Reader(tokenizer_of(model))
    logits = 2 * 4 * batch_size * max_targets * model.model.vocab_size  # and their logarithms
    memory.check(f"a loss of batches of {batch_size:,} rows of {max_targets:,} tokens", logits)

    @jax.jit
    def loss(params, inputs_BT, targets_BT, length_B):  # type: ignore[no-untyped-def]
        batch = {
            "encoder_input_tokens": inputs_BT,
            "decoder_input_tokens": shift_right(targets_BT),
        }
        nll_BT = optax.softmax_cross_entropy_with_integer_labels(
            model.model.logits(params, batch), targets_BT
        )
        own_BT = jnp.arange(targets_BT.shape[1])[None] < length_B[:, None]  # id 0 may be a real token
        return jnp.sum(jnp.where(own_BT, nll_BT, 0.0), axis=1)

    width = width_of([row.prompt for row in rows]) if width is None else width
    found, counts = [], []
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        inputs_BT = np.full((batch_size, width), -1, np.int32)
        targets_BT, length_B = np.zeros((batch_size, max_targets), np.int32), np.zeros(batch_size, np.int32)
        for b, row in enumerate(part):
            inputs_BT[b, : len(row.prompt)] = row.prompt
            target = reader.target(row.targets_text, max_targets)
            targets_BT[b, : len(target)], length_B[b] = target, len(target)
        found.append(np.asarray(loss(model.params, inputs_BT, targets_BT, length_B))[: len(part)])
        counts.append(length_B[: len(part)])
    return np.concatenate(found), np.concatenate(counts)


def write(path: str | Path, found: Mapping[str, HeldOut]) -> None:
    """Writes the pooled results of several models as JSON.

    Raises:
      UsageError: see `files.write_json`.
    """
    files.write_json(path, {name: one.summary for name, one in found.items()}, is_written)


def is_written(path: Path) -> bool:
    """Tells whether a file was written by `write`."""
    found = files.read_json(path)
    return bool(found) and all(isinstance(one, dict) and "perplexity" in one for one in found.values())


def copy_baseline(task: str, *, split: str, limit: int | None) -> tuple[np.ndarray, dict[str, float]]:
    """Scores the trivial baseline that copies the input to the output."""
    rows = examples(task, split=split, limit=limit)
    spec = catalog.find_task(task)
    metric = text_metrics.find_metric(spec.metric)
    outputs, references = [row.inputs_text for row in rows], [row.targets_text for row in rows]
    scores = [text_metrics.per_example(spec.metric, r, o) for r, o in zip(references, outputs, strict=True)]
    return np.asarray(scores), dict(metric.corpus(references, outputs)) if metric.corpus else {}
