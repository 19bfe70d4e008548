"""Distilling a draft from its target: the job behind `distillspec distill`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from distillspec_jax.distillation.divergences import Divergence, ForwardKL
from distillspec_jax.distillation.held_out import expected_acceptance
from distillspec_jax.distillation.loss import make_distillation_loss
from distillspec_jax.distillation.sources import DataSource, Fixed, OnPolicy
from distillspec_jax.distillation.stored_laws import check_laws, check_target, make_stored_law_loss
from distillspec_jax.errors import UsageError
from distillspec_jax.models import pretrained
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.partitioning import Partitioner, make_partitioner
from distillspec_jax.training import job, optimizers
from distillspec_jax.training.loop import Evaluate, LoopConfig, train


def distill(
    target: str | None,
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
    gin: str = "",
) -> Path:
    """Trains `draft` towards `target`; resumes what `model_dir` holds. Neither of the two is ever written.

    Args:
      target: checkpoint directory or `zoo:NAME`. None: its laws are in `data.target_set`; it is not loaded.
      draft: where the draft starts: checkpoint directory or `zoo:NAME`.
      model_dir: the checkpoint directory to make, or to go on with.
      data: prompts (and, for fixed data, references). Rows are never packed here.
      loop: steps, batch size, periods.
      divergence: forward KL by default.
      source: the draft's own samples by default, or the texts of `data.target_set` where there is one.
      learning_rate, warmup_steps, hold_until, final_fraction: see `optimizers.warmup_cosine`.
      optimizer: schedule to transformation.
      assume_same_vocabulary: vouch for a pair of which one tokenizer is unknown.
      partitioner: where arrays live; all devices on the data axis by default.
      gin: the bindings in force, for the card.

    Returns:
      The checkpoint directory.
    """
    optimizers.check_schedule(loop.total_steps, learning_rate)
    if data.pack:
        raise UsageError("DataConfig.pack=True: sequences are not packed in distillation; set it to False")
    partitioner = partitioner or make_partitioner()
    teacher = None if target is None else pretrained.load(target)
    student = pretrained.load(draft)
    if teacher is None:
        data = dataclasses.replace(data, with_laws=True)
        if data.texts is None:
            raise UsageError("TARGET=None: without a target, give TARGET_SET, a folder with its laws")
        check_laws(data.texts, student.model, source)
    else:
        _check_pair(teacher, student, assume_same_vocabulary)
        if data.texts is not None:
            check_target(data.texts, teacher)
    parents = {"draft": draft} if target is None else {"target": target, "draft": draft}
    card = job.describe_run(student.model, data, parents, gin)
    tokenizer = data.tokenizer()
    params, shardings = job.place(student.model, student.params, partitioner)
    divergence = divergence or ForwardKL()
    evaluate: Evaluate | None = None
    if teacher is None:
        loss_fn = make_stored_law_loss(student.model, divergence, dropout=True)
        if data.held_out_set is not None:
            measured = make_stored_law_loss(student.model, divergence)
            evaluate = job.held_out_loss(measured, data, loop.batch_size, partitioner)
    else:
        real_ids = {"vocab_size": tokenizer.vocab_size, "eos_id": tokenizer.eos_id}
        target_params, _ = job.place(teacher.model, teacher.params, partitioner)
        source = source or (OnPolicy() if data.texts is None else Fixed())
        loss_fn = make_distillation_loss(
            student.model, teacher.model, target_params, divergence, source, dropout=True, **real_ids
        )
        prompts = [
            partitioner.put_batch(batch)
            for of_task in data.held_out_batches(loop.batch_size).values()
            for batch in of_task
        ]
        if prompts:
            evaluate = expected_acceptance(
                student.model, teacher.model, target_params, prompts, loop.seed, **real_ids
            )
    directory = job.open_directory(model_dir, card, tokenizer.model_bytes)
    schedule = optimizers.warmup_cosine(
        learning_rate, loop.total_steps, warmup_steps, hold_until, final_fraction
    )
    train(
        directory=directory,
        config=loop,
        params=params,
        param_shardings=shardings,
        loss_fn=loss_fn,
        batches=data.train_batches(loop, partitioner),
        optimizer=optimizer(schedule),
        partitioner=partitioner,
        evaluate=evaluate,
        description=f"distil {data.mixture_or_task_name}",
    )
    return directory


def _check_pair(teacher: Pretrained, student: Pretrained, assume_same_vocabulary: bool) -> None:
    pretrained.check_pair(teacher, student, assume_same_vocabulary)
    if teacher.model.vocab_size != student.model.vocab_size:
        raise UsageError(
            f"draft {student.name} has {student.model.vocab_size} logits and target {teacher.name} "
            f"{teacher.model.vocab_size}: distillation compares whole laws; pad the smaller embedding"
        )
