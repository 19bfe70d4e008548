"""Supervised training of a target or a draft: the job behind `distillspec finetune`."""

from __future__ import annotations

import functools
from pathlib import Path

import optax

from distillspec_jax import outputs
from distillspec_jax.data.data_config import DataConfig
from distillspec_jax.errors import UsageError, check_number
from distillspec_jax.models import pretrained
from distillspec_jax.models.network import Network
from distillspec_jax.partitioning import Partitioner, make_partitioner
from distillspec_jax.training import job
from distillspec_jax.training.loop import LoopConfig
from distillspec_jax.training.supervised import make_supervised_loss


@outputs.one_run
def finetune(
    model: Network | None,
    model_dir: str,
    data: DataConfig,
    loop: LoopConfig,
    *,
    optimizer: optax.GradientTransformation,
    initial_checkpoint_path: str | None = None,
    dropout_rate: float | None = None,
    z_loss: float = 0.0,
    unlikelihood: float = 0.0,
    partitioner: Partitioner | None = None,
    remat: str = "none",
    scan_layers: bool = False,
    attention: str = "plain",
    gin: str = "",
) -> Path:
    """Trains `model` on a task or mixture with cross-entropy, or resumes the run in `model_dir`.

    Args:
      model: the network; its configuration goes into the checkpoint's card. None: the initial checkpoint's.
      model_dir: the checkpoint directory to create or resume.
      data: the text.
      loop: steps, batch size, periods.
      optimizer: with its schedule, as `optimizers.adamw(optimizers.warmup_cosine(1e-3, loop.total_steps))`.
      initial_checkpoint_path: a checkpoint directory to start from.
      dropout_rate: replaces the model's own.
      z_loss, unlikelihood: see `make_supervised_loss`.
      partitioner: places arrays on devices; default: all devices on the data axis.
      remat, scan_layers, attention: see `models.rematerialisation`, `models.layer_stack` and
        `models.attention.KERNELS`.
      gin: the bindings in force, for the card.

    Returns:
      The checkpoint directory; for one in a bucket, the local folder from which it was published.
    """
    check_number("UNLIKELIHOOD", unlikelihood, minimum=0, whole=False)
    model_dir = job.check_directory(model_dir)
    if model is None:
        if initial_checkpoint_path is None:
            raise UsageError("MODEL=None and no INITIAL_CHECKPOINT_PATH: give one of them")
        initial = pretrained.read_card(initial_checkpoint_path)
        model = pretrained.network(initial_checkpoint_path, initial)
    model = job.with_dropout(model, dropout_rate)
    trained = job.as_trained(model, remat, scan_layers, attention)
    parents = {"initial": initial_checkpoint_path} if initial_checkpoint_path else {}
    data = data.read_by(initial_checkpoint_path)
    data.check_references()
    card = job.describe_run(model, data, parents, gin)
    job.check_run(model_dir, card)
    partitioner = partitioner or make_partitioner()
    partitioner.check_batch(loop.batch_size)
    params = job.initial_params(model, partitioner, loop.seed, initial_checkpoint_path)
    trained_loss = functools.partial(
        make_supervised_loss, dropout=True, z_loss=z_loss, unlikelihood=unlikelihood
    )
    counted = None if trained == model else trained_loss(model)
    held_out = job.held_out_loss(
        make_supervised_loss(model, dropout=False), data, loop.batch_size, partitioner
    )
    return job.run(
        model_dir,
        card,
        model,
        params,
        trained_loss(trained),
        data,
        loop,
        optimizer,
        partitioner,
        counted_loss_fn=counted,
        evaluate=held_out,
        verb="finetune",
    )
