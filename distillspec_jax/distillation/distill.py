"""Distilling a draft from its target: the job behind `distillspec distill`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from distillspec_jax.distillation.divergences import Divergence, ForwardKL
from distillspec_jax.distillation.held_out import expected_acceptance
from distillspec_jax.distillation.loss import make_distillation_loss
from distillspec_jax.distillation.sources import DataSource, OnPolicy
from distillspec_jax.distillation.step_profile import step_profile
from distillspec_jax.errors import UsageError
from distillspec_jax.models import pretrained
from distillspec_jax.models.t5 import EncoderDecoder
from distillspec_jax.partitioning import Partitioner, make_partitioner
from distillspec_jax.training import job, optimizers
from distillspec_jax.training.loop import LoopConfig, train
from distillspec_jax.training.step import LossFn


def distill(
    target: str,
    draft: str,
    model_dir: str,
    data: job.DataConfig,
    loop: LoopConfig,
    *,
    divergence: Divergence | None = None,
    source: DataSource | None = None,
    learning_rate: float = 3e-4,
    warmup_steps: int = 20,
    hold_until: int = 0,
    final_fraction: float = 0.1,
    optimizer: job.OptimizerFactory = optimizers.adafactor,
    assume_same_vocabulary: bool = False,
    partitioner: Partitioner | None = None,
    remat: str = "none",
    profile: bool = False,
    gin: str = "",
) -> Path:
    """Trains `draft` towards `target`; resumes what `model_dir` holds. Neither of the two is ever written.

    Args:
      target: checkpoint directory or `zoo:NAME`.
      draft: where the draft starts: checkpoint directory or `zoo:NAME`.
      model_dir: the checkpoint directory to make, or to go on with.
      data: prompts (and, for fixed data, references). Rows are never packed here.
      loop: steps, batch size, periods.
      divergence: forward KL by default.
      source: the draft's own samples by default.
      learning_rate, warmup_steps, hold_until, final_fraction: see `optimizers.warmup_cosine`.
      optimizer: schedule to transformation.
      assume_same_vocabulary: vouch for a pair of which one tokenizer is unknown.
      partitioner: where arrays live; all devices on the data axis by default.
      remat: of the draft, see `models.rematerialisation`.
      profile: report where a step's time goes, see `step_profile`; three more programs to compile.
      gin: the bindings in force, for the card.

    Returns:
      The checkpoint directory.
    """
    optimizers.check_schedule(loop.total_steps, learning_rate)
    if data.pack:
        raise UsageError("DataConfig.pack=True: sequences are not packed in distillation; set it to False")
    partitioner = partitioner or make_partitioner()
    partitioner.check_batch(loop.batch_size)
    teacher, _ = job.load(target, partitioner)
    student, shardings = job.load(draft, partitioner)
    trained = dataclasses.replace(student.model, remat=remat)
    pretrained.check_pair(teacher, student, assume_same_vocabulary)
    if teacher.model.vocab_size != student.model.vocab_size:
        raise UsageError(
            f"draft {draft} has {student.model.vocab_size} logits and target {target} "
            f"{teacher.model.vocab_size}: distillation compares whole laws; pad the smaller embedding"
        )
    card = job.describe_run(student.model, data, {"target": target, "draft": draft}, gin)
    tokenizer = data.tokenizer()
    real_ids: dict[str, Any] = {"vocab_size": tokenizer.vocab_size, "eos_id": tokenizer.eos_id}
    prompts = [
        partitioner.put_batch(batch)
        for of_task in data.held_out_batches(loop.batch_size).values()
        for batch in of_task
    ]
    parts = teacher.model, teacher.params, divergence or ForwardKL(), source or OnPolicy()

    def loss(model: EncoderDecoder) -> LossFn:
        return make_distillation_loss(model, *parts, dropout=True, **real_ids)

    directory = job.open_directory(model_dir, card, tokenizer.model_bytes)
    schedule = optimizers.warmup_cosine(
        learning_rate, loop.total_steps, warmup_steps, hold_until, final_fraction
    )
    train(
        directory=directory,
        config=loop,
        params=student.params,
        param_shardings=shardings,
        loss_fn=loss(trained),
        counted_loss_fn=loss(student.model) if remat != "none" else None,
        batches=data.train_batches(loop),
        optimizer=optimizer(schedule),
        partitioner=partitioner,
        evaluate=(
            expected_acceptance(student.model, teacher.model, teacher.params, prompts, loop.seed, **real_ids)
            if prompts
            else None
        ),
        profile=step_profile(trained, *parts, **real_ids) if profile else None,
        description=f"distil {data.mixture_or_task_name}",
    )
    return directory
