"""Distilling a draft from its target: the job behind `distillspec distill`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from distillspec_jax.distillation.deployment import Deployment
from distillspec_jax.distillation.divergences import Divergence, ForwardKL
from distillspec_jax.distillation.held_out import GREEDY, SAMPLED, expected_acceptance, metric
from distillspec_jax.distillation.loss import make_distillation_loss
from distillspec_jax.distillation.sources import DataSource, OnPolicy
from distillspec_jax.errors import UsageError
from distillspec_jax.models import pretrained
from distillspec_jax.partitioning import Partitioner, make_partitioner
from distillspec_jax.training import job, optimizers, selection
from distillspec_jax.training.loop import LoopConfig, train


def distill(
    target: str,
    draft: str,
    model_dir: str,
    data: job.DataConfig,
    loop: LoopConfig,
    *,
    divergence: Divergence | None = None,
    source: DataSource | None = None,
    normalization: str = "sequence",
    deployment: Deployment | None = None,
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
      target: checkpoint directory or `zoo:NAME`.
      draft: where the draft starts: checkpoint directory or `zoo:NAME`.
      model_dir: the checkpoint directory to make, or to go on with.
      data: prompts (and, for fixed data, references). Rows are never packed here.
      loop: steps, batch size, periods.
      divergence: forward KL by default.
      source: the draft's own samples by default.
      normalization: `sequence` (Eq. 2) or `token`, see `loss.NORMALIZATIONS`.
      deployment: keep the evaluation with the highest held-out acceptance under this law in `model_dir/best`.
      learning_rate, warmup_steps, hold_until, final_fraction: see `optimizers.warmup_cosine`.
      optimizer: schedule to transformation.
      assume_same_vocabulary: vouch for a pair of which one tokenizer is unknown.
      partitioner: where arrays live; all devices on the data axis by default.
      gin: the bindings in force, for the card.

    Returns:
      The checkpoint directory; with `deployment`, the one of the best evaluation.
    """
    optimizers.check_schedule(loop.total_steps, learning_rate)
    if data.pack:
        raise UsageError("DataConfig.pack=True: sequences are not packed in distillation; set it to False")
    if loop.patience and (deployment is None or not loop.eval_period):
        raise UsageError(
            f"PATIENCE={loop.patience} needs DEPLOYMENT, the law by which the best is chosen, and EVAL_PERIOD"
        )
    partitioner = partitioner or make_partitioner()
    teacher = pretrained.load(target)
    student = pretrained.load(draft)
    pretrained.check_pair(teacher, student, assume_same_vocabulary)
    if teacher.model.vocab_size != student.model.vocab_size:
        raise UsageError(
            f"draft {draft} has {student.model.vocab_size} logits and target {target} "
            f"{teacher.model.vocab_size}: distillation compares whole laws; pad the smaller embedding"
        )
    card = job.describe_run(student.model, data, {"target": target, "draft": draft}, gin)
    if deployment is not None:
        card.provenance["deployment"] = dataclasses.asdict(deployment)
    tokenizer = data.tokenizer()
    real_ids = {"vocab_size": tokenizer.vocab_size, "eos_id": tokenizer.eos_id}
    params, shardings = job.place(student.model, student.params, partitioner)
    target_params, _ = job.place(teacher.model, teacher.params, partitioner)
    prompts = [
        partitioner.put_batch(batch)
        for of_task in data.held_out_batches(loop.batch_size).values()
        for batch in of_task
    ]
    if deployment is not None and not prompts:
        raise UsageError(
            f"DEPLOYMENT chooses the best by held-out prompts, but {data.mixture_or_task_name!r} has no "
            "validation split"
        )
    laws = dict.fromkeys((GREEDY, SAMPLED, deployment or SAMPLED))
    loss_fn = make_distillation_loss(
        student.model,
        teacher.model,
        target_params,
        divergence or ForwardKL(),
        source or OnPolicy(),
        dropout=True,
        normalization=normalization,
        **real_ids,
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
        evaluate=(
            expected_acceptance(
                student.model, teacher.model, target_params, prompts, loop.seed, tuple(laws), **real_ids
            )
            if prompts
            else None
        ),
        select=None if deployment is None else metric(deployment),
        description=f"distil {data.mixture_or_task_name}",
    )
    best = directory / selection.BEST
    return best if deployment is not None and best.is_dir() else directory
