"""Held-out loss and task quality of one model, example by example, so that models can be paired."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from distillspec_jax.data import catalog, metrics
from distillspec_jax.data.examples import Example, examples
from distillspec_jax.data.reader import Reader
from distillspec_jax.decoding.text import TextGenerator, prompt_format, tokenizer_of
from distillspec_jax.models.pretrained import Pretrained


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """A model on a task's held-out examples.

    Attributes:
      nll: summed negative log-likelihood of each reference, nats.
      tokens: tokens of each reference, EOS included.
      outputs: greedy text of each prompt.
      scores: the primary metric, example by example.
      corpus: the metric function's values over all examples.
    """

    nll: np.ndarray
    tokens: np.ndarray
    outputs: list[str]
    scores: np.ndarray
    corpus: dict[str, float]


def measure(model: Pretrained, task: str, *, split: str, limit: int | None, batch_size: int = 16) -> HeldOut:
    """Teacher-forced loss and greedy decoding quality on the first `limit` examples of a split."""
    rows = examples(task, split=split, limit=limit, reader=Reader.of_card(model.card, tokenizer_of(model)))
    spec = catalog.find_task(task)
    nll, tokens = reference_loss(model, rows, spec.feature_lengths["targets"], batch_size)
    generator = TextGenerator(
        model, form=prompt_format(model, task=task, truncate=True), batch_size=batch_size
    )
    outputs = [g.outputs for g in generator.stream([row.inputs_text for row in rows])]
    references = [row.targets_text for row in rows]
    metric = metrics.find_metric(spec.metric)
    scores = [metrics.per_example(spec.metric, r, o) for r, o in zip(references, outputs, strict=True)]
    corpus = metric.corpus(references, outputs) if metric.corpus else {}
    return HeldOut(nll, tokens, outputs, np.asarray(scores), dict(corpus))


def reference_loss(
    model: Pretrained, rows: list[Example], max_targets: int, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Summed loss and number of tokens of every reference; no example is dropped."""
    reader = Reader(tokenizer_of(model))

    @jax.jit
    def loss(params, inputs_BT, targets_BT):  # type: ignore[no-untyped-def]
        batch = {
            "encoder_input_tokens": inputs_BT,
            "decoder_input_tokens": jnp.pad(targets_BT, ((0, 0), (1, 0)))[:, :-1],
        }
        nll_BT = optax.softmax_cross_entropy_with_integer_labels(
            model.model.logits(params, batch), targets_BT
        )
        return jnp.sum(jnp.where(targets_BT > 0, nll_BT, 0.0), axis=1)

    width = max(len(row.prompt) for row in rows)
    found, counts = [], []
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        inputs_BT = np.zeros((batch_size, width), np.int32)
        targets_BT = np.zeros((batch_size, max_targets), np.int32)
        for b, row in enumerate(part):
            inputs_BT[b, : len(row.prompt)] = row.prompt
            target = reader.target(row.targets_text, max_targets)
            targets_BT[b, : len(target)] = target
        found.append(np.asarray(loss(model.params, inputs_BT, targets_BT))[: len(part)])
        counts.append((targets_BT > 0).sum(1)[: len(part)])
    return np.concatenate(found), np.concatenate(counts)


def copy_baseline(task: str, *, split: str, limit: int | None) -> tuple[np.ndarray, dict[str, float]]:
    """The obvious baseline: the input itself as the output."""
    rows = examples(task, split=split, limit=limit)
    spec = catalog.find_task(task)
    metric = metrics.find_metric(spec.metric)
    outputs, references = [row.inputs_text for row in rows], [row.targets_text for row in rows]
    scores = [metrics.per_example(spec.metric, r, o) for r, o in zip(references, outputs, strict=True)]
    return np.asarray(scores), dict(metric.corpus(references, outputs)) if metric.corpus else {}
