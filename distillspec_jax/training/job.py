"""What `finetune` and `distill` share: a checkpoint directory, its card, parameters, data, the loop."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from distillspec_jax import checkpoint
from distillspec_jax import metrics as metrics_lib
from distillspec_jax.checkpoint import ModelCard
from distillspec_jax.data import catalog
from distillspec_jax.errors import UsageError
from distillspec_jax.models import pretrained, registry
from distillspec_jax.models.t5 import EncoderDecoder
from distillspec_jax.partitioning import Partitioner, sharded_init
from distillspec_jax.shapes import Params
from distillspec_jax.training.step import LossFn, evaluate


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which text a run sees.

    Attributes:
      mixture_or_task_name: a seqio task or mixture.
      feature_lengths: `{"inputs": tokens, "targets": tokens}`; None: the task's own.
      split: of the training data.
      pack: several short examples in a row (supervised training only).
      eval_limit: held-out examples a task; the first ones of `validation`.
    """

    mixture_or_task_name: str
    feature_lengths: Mapping[str, int] | None = None
    split: str = "train"
    pack: bool = False
    eval_limit: int = 96

    @property
    def tasks(self) -> tuple[str, ...]:
        """The mixture's tasks, or the task itself."""
        if self.mixture_or_task_name == catalog.EMBEDDED_MIXTURE:
            return tuple(catalog.EMBEDDED_MIXTURE_RATES)
        return (catalog.find_task(self.mixture_or_task_name).name,)

    @property
    def lengths(self) -> dict[str, int]:
        if self.feature_lengths is not None:
            catalog.check_lengths(self.feature_lengths)
            return dict(self.feature_lengths)
        specs = [catalog.find_task(t) for t in self.tasks]
        return {f: max(s.feature_lengths[f] for s in specs) for f in ("inputs", "targets")}

    def tokenizer(self) -> Any:
        return catalog.tokenizer(catalog.find_task(self.tasks[0]))

    def fingerprint(self) -> str:
        """sha256 over the raw bytes of every training file: what `provenance` remembers of the data."""
        digest = hashlib.sha256()
        for task in self.tasks:
            path = catalog.find_task(task).splits.get(self.split)
            if path is not None and Path(path).is_file():
                digest.update(Path(path).read_bytes())
        return digest.hexdigest()[:16]


def describe_run(model: EncoderDecoder, data: DataConfig, parents: Mapping[str, str], gin: str) -> ModelCard:
    """The card of a run that is about to start."""
    family, config = registry.describe(model)
    spec = catalog.find_task(data.tasks[0])
    tokenizer = data.tokenizer()
    if tokenizer.vocab_size > model.vocab_size:
        raise UsageError(
            f"the model's vocab_size {model.vocab_size} is smaller than the vocabulary of {spec.name!r} "
            f"({tokenizer.vocab_size} pieces): set vocab_size to at least that"
        )
    return ModelCard(
        family=family,
        config=config,
        tokenizer_fingerprint=checkpoint.fingerprint(tokenizer.model_bytes),
        task=data.mixture_or_task_name,
        prefix=spec.prefix if len(data.tasks) == 1 else "",
        feature_lengths=data.lengths,
        provenance=checkpoint.provenance(
            gin=gin, parents=dict(parents), data={"name": data.mixture_or_task_name, "sha256": data.fingerprint()}
        ),
    )


def open_directory(directory: str | Path, card: ModelCard, tokenizer: bytes) -> Path:
    """Creates the run's directory, or checks that the one there belongs to the same model."""
    root = Path(directory)
    if (root / checkpoint.MODEL_FILE).exists():
        there = checkpoint.read_card(root)
        for field in ("family", "config", "tokenizer_fingerprint"):
            was = registry.normalise(there) if field == "config" else getattr(there, field)
            now = registry.normalise(card) if field == "config" else getattr(card, field)
            if was != now:
                raise UsageError(f"MODEL_DIR={directory} holds another run: its {field} differs; choose an empty one")
        return root
    checkpoint.write_card(root, card, tokenizer)
    return root


def initial_params(
    model: EncoderDecoder, partitioner: Partitioner, seed: int, initial_checkpoint: str | None
) -> tuple[Params, Params]:
    """Parameters (fresh, or from a checkpoint directory) and their shardings."""
    key = jax.random.key(seed)
    shardings = partitioner.parameters(jax.eval_shape(model.init, key))
    if initial_checkpoint is None:
        return sharded_init(partitioner, model.init, key), shardings
    directory = pretrained.resolve(initial_checkpoint)
    return checkpoint.load_params(directory, registry.shapes(model), shardings=shardings), shardings


def place(model: EncoderDecoder, params: Params, partitioner: Partitioner) -> Params:
    """Loaded parameters, moved to their shardings."""
    return jax.device_put(params, partitioner.parameters(jax.eval_shape(model.init, jax.random.key(0))))


def held_out(
    loss_fn: LossFn, data: DataConfig, batch_size: int, partitioner: Partitioner, limit: int | None = None
) -> Callable[[Params], dict[str, float]]:
    """Parameters to `{task/metric: value}` on each task's validation split."""
    from distillspec_jax.data import features

    batches: dict[str, list[dict[str, np.ndarray]]] = {}

    def run(params: Params) -> dict[str, float]:
        values: dict[str, float] = {}
        for task in data.tasks:
            if task not in batches:
                batches[task] = list(
                    features.eval_batches(
                        task,
                        split="validation",
                        lengths=catalog.find_task(task).feature_lengths if len(data.tasks) > 1 else data.lengths,
                        batch_size=batch_size,
                        limit=limit or data.eval_limit,
                    )
                )
            merged = evaluate(loss_fn, params, (partitioner.put_batch(b) for b in batches[task]))
            prefix = f"{task}/" if len(data.tasks) > 1 else ""
            values |= {prefix + name: value for name, value in metrics_lib.compute(merged).items()}
        return values

    return run


OptimizerFactory = Callable[[optax.Schedule], optax.GradientTransformation]
