"""Shared parts of `finetune` and `distill`: checkpoint directory, model card, parameters, held-out loss.

`describe_run` checks a run and makes its card; `run` opens the directory and trains in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import optax

from distillspec_jax import checkpoint, locks, memory, model_card, outputs, provenance
from distillspec_jax import metrics as metrics_lib
from distillspec_jax.buckets import stores
from distillspec_jax.data import catalog
from distillspec_jax.data.data_config import DataConfig
from distillspec_jax.errors import Unavailable, UsageError
from distillspec_jax.model_card import ModelCard
from distillspec_jax.models import pretrained, registry, zoo_manifest
from distillspec_jax.models.network import Network
from distillspec_jax.outputs import AnyPath
from distillspec_jax.partitioning import Partitioner, sharded_init
from distillspec_jax.shapes import Params
from distillspec_jax.training import hosts
from distillspec_jax.training.loop import Evaluate, LoopConfig, train
from distillspec_jax.training.preemption import stoppable
from distillspec_jax.training.step import LossFn, evaluate

VISIBLE_WITHIN = 30.0
"""Seconds in which what the first host has written appears on the others; file systems of networks cache."""


def describe_run(
    model: Network,
    data: DataConfig,
    parents: Mapping[str, str],
    gin: str,
    settings: Mapping[str, Any] | None = None,
) -> ModelCard:
    """Checks a run that is about to start and makes its card.

    Args:
      model: the network to train.
      data: its text.
      parents: maps the role of each model that the run starts from to a checkpoint directory or `zoo:NAME`.
      gin: the bindings in force.
      settings: named values that must not change when the run resumes, such as its divergence.

    Raises:
      UsageError: the model is too small for the text's vocabulary or its rows, or a parent has another
        vocabulary (a task with an explicit vocabulary keeps it).
    """
    family, config = registry.describe(model)
    check_lengths(model, data, "the model")
    data.check()  # before anything is written
    spec = catalog.find_task(data.tasks[0])
    tokenizer = data.tokenizer()
    if tokenizer.vocab_size > model.vocab_size:
        raise UsageError(
            f"the model's vocab_size {model.vocab_size} is smaller than the vocabulary of {spec.name!r} "
            f"({tokenizer.vocab_size} pieces): set vocab_size to at least that"
        )
    for role, parent in parents.items():
        stored, dtype = pretrained.split(parent)
        if dtype and role != "target":
            raise UsageError(f"{role} {parent}: training starts from the stored weights, write {stored}")
        known = pretrained.read_card(parent).tokenizer_fingerprint
        if known not in (None, tokenizer.fingerprint):
            raise UsageError(
                f"{role} {parent} was trained with another vocabulary than {spec.name!r} is read with "
                f"(tokenizer {known[:12]} against {tokenizer.fingerprint[:12]}): choose a task with its own"
            )
    return ModelCard(
        family=family,
        config=config,
        tokenizer_fingerprint=tokenizer.fingerprint,
        task=data.mixture_or_task_name,
        prefix=spec.prefix if len(data.tasks) == 1 else "",
        feature_lengths=data.lengths,
        provenance=provenance.of_process(
            gin=gin,
            parents=dict(parents),
            data={
                "name": data.mixture_or_task_name,
                "sha256": data.fingerprint(),
                "chat": data.reader.chat is not None,
            },
            settings={name: provenance.settings_of(value) for name, value in (settings or {}).items()},
        ),
        **data.conventions(),
    )


def check_lengths(model: Network, data: DataConfig, name: str) -> None:
    """Rejects data whose rows, packed or not, may hold an example longer than a model's positions.

    Args:
      name: of the model, for the message.
    """
    named: dict[str, Mapping[str, int]] = {f"TASK_FEATURE_LENGTHS={dict(data.lengths)}": data.lengths}
    if len(data.tasks) > 1:  # a mixture's held-out batches use the lengths of its tasks
        own = {task: catalog.find_task(task).feature_lengths for task in data.tasks}
        named |= {f"feature_lengths={dict(lengths)} of {task}": lengths for task, lengths in own.items()}
    for what, lengths in named.items():
        if model.room is not None and sum(lengths.values()) > model.room:
            raise UsageError(
                f"{what}: {name} has positions for {model.room} tokens, inputs and targets together: "
                "shorten either"
            )


def check_directory(directory: AnyPath) -> AnyPath:
    """Rejects an unusable run directory before anything is read or written; all hosts must call it.

    Returns:
      The path to write to: the directory, or for one in a bucket a local folder (`outputs.place`).

    Raises:
      UsageError: the folder cannot be created or written, or the bucket cannot be read.
    """
    if zoo_manifest.is_zoo_name(str(directory)):
        raise UsageError(f"MODEL_DIR={directory}: that is how a model of the zoo is named; choose a folder")
    host = jax.process_index() if stores.is_bucket(directory) else 0

    def checked() -> AnyPath:
        place = outputs.place(directory, folder=True, host=host)
        outputs.check_writable(place)
        return place

    place = hosts.agreed(checked)
    assert place is not None  # only the first host's action has no result elsewhere
    return place


def newest_step(directory: str | Path) -> int | None:
    """Returns the newest step of a run of this process; for a run in a bucket, the newest local one."""
    return checkpoint.latest_step(stores.staged(directory) or directory)


def open_directory(directory: str | Path, card: ModelCard, tokenizer: bytes) -> Path:
    """Creates the run's directory, or checks that an existing one belongs to the same run.

    Raises:
      UsageError: it holds another run (names the first difference), is one of the run's own parents, is not a
        file system path, or is on a file system that not all hosts see.
    """
    root = Path(check_directory(directory))
    hosts.agreed(lambda: _open(root, card, tokenizer), first=True)
    if not hosts.apart(root):
        hosts.agreed(lambda: _find(root))
    return root


def _open(root: Path, card: ModelCard, tokenizer: bytes) -> None:
    _check_run(root, card)
    model_card.take_folder(root, model_card.MODEL_FILE, tokenizer)
    if not (root / model_card.MODEL_FILE).exists():
        model_card.write_card(root, card, tokenizer)
    outputs.publish(root)  # before the first step, so an unwritable bucket fails now


def _find(root: Path) -> None:
    """Waits a while for what the first host has written."""
    deadline = time.monotonic() + VISIBLE_WITHIN
    while not (root / model_card.MODEL_FILE).is_file():
        if time.monotonic() > deadline:
            raise UsageError(
                f"MODEL_DIR={root}: host {jax.process_index()} does not see what host 0 has written there: "
                "choose a folder on a file system that all hosts share, or a bucket (gs://, s3://)"
            )
        time.sleep(0.2)


def check_run(directory: str | Path, card: ModelCard) -> None:
    """Rejects a directory that holds another run or a parent of this one; all hosts must call it.

    The first host reads it: what the others have of a bucket may be an earlier run's.

    Raises:
      UsageError: names the first difference.
    """
    hosts.agreed(lambda: _check_run(Path(directory), card), first=True)


def _check_run(root: Path, card: ModelCard) -> None:
    for role, parent in card.provenance.get("parents", {}).items():
        if pretrained.resolve(parent).resolve() == outputs.resolved(root):
            raise UsageError(f"MODEL_DIR={root} is the {role} that the run starts from: choose another")
    if not (root / model_card.MODEL_FILE).exists():
        return
    found = model_card.read_card(root)
    there, here = _identity(found), _identity(card)
    noted, ours = _recorded(found), _recorded(card)
    both = noted.keys() & ours.keys()  # earlier releases recorded less
    there |= {name: value for name, value in noted.items() if name in both}
    here |= {name: value for name, value in ours.items() if name in both}
    for name in here | there:  # in order
        if there.get(name) != here.get(name):
            # Also before its first step: the other run may be in progress without a checkpoint yet.
            unsaved = "" if checkpoint.finished_steps(root) else ", or remove it: no step is saved there"
            raise UsageError(
                f"MODEL_DIR={root} holds another run, whose {name} is {there.get(name)!r} and not "
                f"{here.get(name)!r}: choose an empty one{unsaved}"
            )


def _identity(card: ModelCard) -> dict[str, Any]:
    """Returns the settings that must not change when a run resumes; steps, batch sizes and the like may."""
    parents = card.provenance.get("parents", {})
    return {
        "model family": card.family,
        **registry.normalise(card),
        "tokenizer": card.tokenizer_fingerprint,
        "task": card.task,
        **{f"{role} model": name for role, name in parents.items()},
    }


def _recorded(card: ModelCard) -> dict[str, Any]:
    """Returns what else must not change, as far as the card tells: settings, lengths and training data."""
    data = card.provenance.get("data", {})
    return {
        **card.provenance.get("settings", {}),
        **({"feature lengths": card.feature_lengths} if card.feature_lengths else {}),
        **({"training data": data["sha256"]} if "sha256" in data else {}),
    }


def initial_params(
    model: Network, partitioner: Partitioner, seed: int, initial_checkpoint: str | None
) -> Params:
    """Makes a model's parameters, or reads them from a checkpoint directory.

    Raises:
      UsageError: the devices cannot hold them; or see `checkpoint.load_params`.
    """
    registry.check_fits(model, "the model", partitioner)
    if initial_checkpoint is None:
        return sharded_init(partitioner, model.init, jax.random.key(seed))
    directory = pretrained.resolve(initial_checkpoint)
    shardings = registry.shardings(model, partitioner)
    return checkpoint.load_params(directory, registry.shapes(model), shardings=shardings)


def with_dropout(model: Network, rate: float | None) -> Network:
    """Replaces a network's dropout rate; None keeps its own."""
    if rate is None:
        return model
    config: Any = dataclasses.replace(model.config, dropout_rate=rate)
    return dataclasses.replace(model, config=config)


def as_trained(model: Network, remat: str, scan_layers: bool, attention: str) -> Network:
    """Returns the network as the train step computes it; see `Network`.

    Raises:
      UsageError: a setting is unknown, or the attention does not support the network's dropout.
    """
    trained = dataclasses.replace(model, remat=remat, scan_layers=scan_layers, attention=attention)
    trained.check_dropout()
    return trained


def run(
    model_dir: str,
    card: ModelCard,
    model: Network,
    params: Params,
    loss_fn: LossFn,
    data: DataConfig,
    loop: LoopConfig,
    optimizer: optax.GradientTransformation,
    partitioner: Partitioner,
    *,
    evaluate: Evaluate | None = None,
    select: str | None = None,
    counted_loss_fn: LossFn | None = None,
    verb: str,
) -> Path:
    """Trains a network in its checkpoint directory, or resumes the run there.

    Args:
      model_dir, card: see `open_directory`.
      params: of `model`; their buffers are donated.
      loss_fn, optimizer, evaluate, select, counted_loss_fn: see `loop.train`.
      data: the batches, and the tokenizer to store next to the card.
      verb: describes the run in the progress bar.

    Returns:
      The checkpoint directory.

    Raises:
      UsageError: see `open_directory`, `alone` and `loop.train`.
    """
    tokens = loop.batch_size * sum(data.lengths.values())
    arrays, activations = 4 * 4 * tokens, 4 * tokens * model.config.emb_dim // loop.microbatches
    memory.check(
        f"a step of {loop.batch_size:,} rows of {dict(data.lengths)} tokens",
        arrays + activations // partitioner.mesh.size,
    )
    directory = open_directory(model_dir, card, data.tokenizer().model_bytes)
    with alone(directory):
        train(
            directory=directory,
            config=loop,
            params=params,
            param_shardings=registry.shardings(model, partitioner),
            loss_fn=loss_fn,
            counted_loss_fn=counted_loss_fn,
            batches=functools.partial(data.train_batches, loop.batch_size, loop.seed),
            optimizer=optimizer,
            partitioner=partitioner,
            evaluate=evaluate,
            select=select,
            description=f"{verb} {data.mixture_or_task_name}",
        )
    return directory


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Context manager that locks a directory against other runs; hosts that train together are one run.

    Raises:
      Unavailable: another run is in progress there, perhaps one of a preempted pod that is still saving.
    """
    with contextlib.ExitStack() as held:

        def lock() -> None:
            if held.enter_context(locks.locked(directory)) is False:
                raise Unavailable(f"MODEL_DIR={directory}: another process is training in it")

        hosts.agreed(lock, first=True)
        yield


def held_out_loss(
    loss_fn: LossFn, data: DataConfig, batch_size: int, partitioner: Partitioner
) -> Evaluate | None:
    """Makes a function from parameters to `{task/metric: value}` on validation splits; None without any."""
    batches = data.held_out_batches(batch_size)
    if not batches:
        return None

    def measure(params: Params) -> dict[str, float]:
        values: dict[str, float] = {}
        for task, of_task in batches.items():
            merged = evaluate(loss_fn, params, (partitioner.put_batch(b) for b in stoppable(of_task)))
            prefix = f"{task}/" if len(data.tasks) > 1 else ""
            values |= {prefix + name: value for name, value in metrics_lib.compute(merged).items()}
        return values

    return measure
