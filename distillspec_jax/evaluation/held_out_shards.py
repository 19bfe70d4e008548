"""Sharded evaluation: each shard writes a file of examples per model; merging pools them like one run."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distillspec_jax import files, outputs, schema, shards
from distillspec_jax.data import catalog
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import held_out
from distillspec_jax.evaluation.held_out import HeldOut, Measured
from distillspec_jax.models import fingerprints, pretrained


@dataclasses.dataclass(frozen=True)
class _Settings:
    """The settings of a card that are read back."""

    task: schema.Text
    metric: schema.Text
    split: schema.Text
    models: dict[str, str]
    tokenizers: dict[str, str | None] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _Line:
    """One example of one model; files of older releases have no `cluster`."""

    nll: schema.Number | None
    tokens: schema.Count
    reference: str
    output: str | None
    cluster: str | None = None


def measure_shard(
    names: Sequence[str],
    output: str | Path,
    task: str,
    shard: str,
    *,
    split: str,
    limit: int | None,
    batch_size: int,
    chat: bool = False,
    lengths: Mapping[str, int] | None = None,
    dtype: str | None = None,
    doing: Callable[[str], None] = lambda _: None,
) -> Path:
    """Measures models on the I-th of N shares of a task's batches, into the shard's folder next to `output`.

    A model whose file exists is not measured again.

    Args:
      names: of the models; for these and `dtype` see `pretrained.load`.
      shard: `I/N`, see `shards.parse`.
      task, split, limit, batch_size, chat, lengths: see `held_out.measure`.
      doing: called with a progress line for each model.

    Returns:
      The folder.

    Raises:
      UsageError: see `held_out.measure`; fewer batches than shards; or the folder is of another run.
    """
    own = shards.parse(shard)
    folder = outputs.place(own.folder(output), folder=True)
    models = {name: pretrained.load(name, dtype=dtype) for name in names}
    rows = {
        name: held_out.examples_for(model, task, split=split, limit=limit, chat=chat, lengths=lengths)
        for name, model in models.items()
    }
    texts = [[row.inputs_text, row.targets_text] for row in rows[names[0]]]
    units = own.of(-(-len(texts) // batch_size), f"batches of {batch_size} rows")
    share = range(units.start * batch_size, min(units.stop * batch_size, len(texts)))
    settings: dict[str, Any] = {
        **{"task": task, "metric": catalog.find_task(task).metric, "split": split},
        **{"batch_size": batch_size, "chat": chat, "dtype": dtype, "rows": fingerprints.of_json(texts)},
        "models": {name: fingerprints.of_params(model.params) for name, model in models.items()},
        "lengths": dict(lengths or catalog.find_task(task).feature_lengths),
        "tokenizers": {name: model.card.tokenizer_fingerprint for name, model in models.items()},
        "order": list(models),  # files are numbered by it
    }
    lines = {_file(number): len(share) for number in range(len(models))}
    part = shards.Part("evaluate", own.index, own.count, len(texts), lines, settings)
    part.check(folder)
    part.begin(folder)
    for number, (name, model) in enumerate(models.items()):
        doing(f"[{number + 1}/{len(models)}] {name}")
        path = folder / _file(number)
        if not path.is_file():
            found = held_out.measure_rows(
                model, task, rows[name], batch_size=batch_size, chat=chat, share=share, lengths=lengths
            )
            files.write_whole(path, "".join(files.as_json(line) + "\n" for line in _lines(found)))
        outputs.publish(folder)
    return folder


def merge_held_out(folders: Sequence[Path]) -> tuple[str, dict[str, HeldOut]]:
    """Pools the measurements of all shards of a run, model by model.

    Args:
      folders: from `shards.find`.

    Returns:
      A description of the measurement, and the models by name.

    Raises:
      UsageError: a card or line is damaged; names file and line.
    """
    place, card = f"{folders[0] / shards.CARD}, settings", shards.read_card(folders[0])
    settings = schema.read(_Settings, card.settings, place, "the settings of an evaluation")
    found = {
        name: HeldOut.of(_read(folders, _file(number), settings.tokenizers.get(name)), settings.metric)
        for number, name in enumerate(settings.models)
    }
    if not found:
        raise UsageError(f"{place}: field models: it names none")
    return f"{settings.task}, {settings.split} split", found


def _file(number: int) -> str:
    return f"model-{number}.jsonl"


def _lines(found: Measured) -> list[dict[str, Any]]:
    columns = (found.nll.tolist(), found.tokens.tolist(), found.references, found.outputs)
    rows = itertools.zip_longest(*columns, found.clusters or [])
    return [dataclasses.asdict(_Line(*row)) for row in rows]


def _read(folders: Sequence[Path], name: str, tokenizer: str | None) -> Measured:
    lines = [
        schema.read(_Line, line, place, "a line of an evaluation")
        for folder in folders
        for place, line in files.json_lines(files.read_lines(folder / name), folder / name)
    ]
    return Measured(
        np.asarray([np.nan if line.nll is None else line.nll for line in lines], np.float32),
        np.asarray([line.tokens for line in lines], np.int32),
        [line.reference for line in lines],
        [line.output for line in lines if line.output is not None],
        [line.cluster or f"line {number}" for number, line in enumerate(lines)],
        tokenizer,
    )
