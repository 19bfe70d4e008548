"""Distilling a draft from its target: the job behind `distillspec distill`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import optax

from distillspec_jax.data.data_config import DataConfig
from distillspec_jax.distillation.deployment import Deployment
from distillspec_jax.distillation.divergences import Divergence, ForwardKL
from distillspec_jax.distillation.expected_acceptance import GREEDY, SAMPLED, expected_acceptance, metric
from distillspec_jax.distillation.loss import find_normalization, make_distillation_loss
from distillspec_jax.distillation.sources import DataSource, Fixed, OnPolicy, check_shares
from distillspec_jax.distillation.step_profile import step_profile
from distillspec_jax.distillation.stored_logprobs import (
    check_logprobs,
    check_target,
    make_stored_logprobs_loss,
)
from distillspec_jax.errors import UsageError
from distillspec_jax.models import pretrained
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.models.registry import Network
from distillspec_jax.partitioning import Partitioner, make_partitioner
from distillspec_jax.training import job, selection
from distillspec_jax.training.loop import Evaluate, LoopConfig, Profile
from distillspec_jax.training.step import LossFn


def distill(
    target: str | None,
    draft: str,
    model_dir: str,
    data: DataConfig,
    loop: LoopConfig,
    *,
    optimizer: optax.GradientTransformation,
    divergence: Divergence | None = None,
    source: DataSource | None = None,
    normalization: str = "sequence",
    deployment: Deployment | None = None,
    dropout_rate: float | None = None,
    assume_same_vocabulary: bool = False,
    partitioner: Partitioner | None = None,
    remat: str = "none",
    scan_layers: bool = False,
    profile: bool = False,
    gin: str = "",
) -> Path:
    """Trains `draft` towards `target`; resumes what `model_dir` holds. Neither of the two is ever written.

    Args:
      target: checkpoint directory or `zoo:NAME`. None: its distributions are in `data.target_set`; it is not
        loaded.
      draft: where the draft starts: checkpoint directory or `zoo:NAME`.
      model_dir: the checkpoint directory to make, or to go on with.
      data: prompts (and, for fixed data, references). Rows are never packed here.
      loop: steps, batch size, periods.
      optimizer: with its schedule, as `optimizers.adamw(optimizers.warmup_cosine(1e-3, loop.total_steps))`.
      divergence: forward KL by default.
      source: the draft's own samples by default, or the texts of `data.target_set` where there is one.
      normalization: `sequence` (Eq. 2) or `token`, see `loss.NORMALIZATIONS`.
      deployment: keep the evaluation with the highest held-out acceptance under this distribution in
        `model_dir/best`; step 0 is one of them.
      dropout_rate: of the draft, in place of its own.
      assume_same_vocabulary: vouch for a pair of which one tokenizer is unknown.
      partitioner: where arrays live; all devices on the data axis by default.
      remat: of the draft, see `models.rematerialisation`.
      scan_layers: of both, see `models.layer_stack`.
      profile: report where a step's time goes, see `step_profile`; three more programs to compile.
      gin: the bindings in force, for the card.

    Returns:
      The checkpoint directory; with `deployment`, the one of the best evaluation.
    """
    _check_settings(target, data, loop, source, normalization, deployment, profile)
    divergence, partitioner = divergence or ForwardKL(), partitioner or make_partitioner()
    partitioner.check_batch(loop.batch_size)
    data = data.read_by(target, draft)
    student = pretrained.load(draft, partitioner=partitioner)
    student = dataclasses.replace(student, model=job.with_dropout(student.model, dropout_rate))
    if target is None:
        data = dataclasses.replace(data, with_logprobs=True)
        assert data.texts is not None  # `_check_settings`
        check_logprobs(data.texts, student.model, divergence, source)
        losses = _of_stored_logprobs(divergence, data, loop, partitioner)
    else:
        teacher = pretrained.load(target, partitioner=partitioner)
        looped = dataclasses.replace(teacher.model, scan_layers=scan_layers)
        teacher = dataclasses.replace(teacher, model=looped)
        _check_pair(teacher, student, assume_same_vocabulary)
        job.check_lengths(teacher.model, data, f"target {target}")
        if data.texts is not None:
            check_target(data.texts, teacher)
        source = source or (OnPolicy() if data.texts is None else Fixed())
        losses = _of_target(teacher, divergence, source, data, loop, partitioner, normalization, deployment)
    parents = {"draft": draft} if target is None else {"target": target, "draft": draft}
    card = job.describe_run(student.model, data, parents, gin)
    if deployment is not None:
        card.provenance["deployment"] = dataclasses.asdict(deployment)
    trained = dataclasses.replace(student.model, remat=remat, scan_layers=scan_layers)
    directory = job.run(
        model_dir,
        card,
        student.model,
        student.params,
        losses.loss(trained),
        data,
        loop,
        optimizer,
        partitioner,
        counted_loss_fn=losses.loss(student.model) if remat != "none" else None,
        evaluate=losses.evaluate(student.model),
        profile=losses.profile(trained) if profile and losses.profile else None,
        select=None if deployment is None else metric(deployment),
        verb="distil",
    )
    best = directory / selection.BEST
    return best if deployment is not None and best.is_dir() else directory


def _check_settings(
    target: str | None,
    data: DataConfig,
    loop: LoopConfig,
    source: DataSource | None,
    normalization: str,
    deployment: Deployment | None,
    profile: bool,
) -> None:
    """Refuses what cannot go together, before anything is loaded."""
    find_normalization(normalization)
    if source is not None:
        check_shares(source, loop.batch_size, loop.microbatches)
    if data.pack:
        raise UsageError("DataConfig.pack=True: sequences are not packed in distillation; set it to False")
    if loop.patience and (deployment is None or not loop.eval_period):
        raise UsageError(
            f"PATIENCE={loop.patience} needs DEPLOYMENT, the distribution by which the best is "
            "chosen, and EVAL_PERIOD"
        )
    if target is not None:
        return
    if data.target_set is None:
        raise UsageError("TARGET=None: without a target, give TARGET_SET, a folder with its distributions")
    for name, needs_target in (
        ("DEPLOYMENT", deployment is not None),
        ("PROFILE", profile),
        (f"NORMALIZATION={normalization!r}", normalization != "sequence"),
    ):
        if needs_target:
            raise UsageError(f"TARGET=None: {name} needs the target; give TARGET, or leave it out")


@dataclasses.dataclass(frozen=True)
class _Objective:
    """What is learnt from, as functions of the draft's network (rematerialised or not).

    Attributes:
      loss: the training loss.
      evaluate: held-out values; None where nothing is held out.
      profile: where a step's time goes.
    """

    loss: Callable[[Network], LossFn]
    evaluate: Callable[[Network], Evaluate | None]
    profile: Callable[[Network], Profile] | None = None


def _of_stored_logprobs(
    divergence: Divergence, data: DataConfig, loop: LoopConfig, partitioner: Partitioner
) -> _Objective:
    vocabulary = data.tokenizer().vocabulary

    def loss(model: Network, dropout: bool = True) -> LossFn:
        return make_stored_logprobs_loss(model, divergence, dropout=dropout, vocabulary=vocabulary)

    def evaluate(model: Network) -> Evaluate | None:
        if data.held_out_set is None:
            return None
        return job.held_out_loss(loss(model, dropout=False), data, loop.batch_size, partitioner)

    return _Objective(loss, evaluate)


def _of_target(
    teacher: Pretrained,
    divergence: Divergence,
    source: DataSource,
    data: DataConfig,
    loop: LoopConfig,
    partitioner: Partitioner,
    normalization: str,
    deployment: Deployment | None,
) -> _Objective:
    vocabulary = data.tokenizer().vocabulary
    parts = teacher.model, teacher.params, divergence, source
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
    distributions = tuple(dict.fromkeys((GREEDY, SAMPLED, deployment or SAMPLED)))

    def loss(model: Network) -> LossFn:
        return make_distillation_loss(
            model, *parts, dropout=True, vocabulary=vocabulary, normalization=normalization
        )

    def evaluate(model: Network) -> Evaluate | None:
        if not prompts:
            return None
        return expected_acceptance(
            model, teacher.model, teacher.params, prompts, loop.seed, distributions, vocabulary=vocabulary
        )

    return _Objective(loss, evaluate, lambda model: step_profile(model, *parts, vocabulary=vocabulary))


def _check_pair(teacher: Pretrained, student: Pretrained, assume_same_vocabulary: bool) -> None:
    pretrained.check_pair(teacher, student, assume_same_vocabulary)
    if teacher.model.vocab_size != student.model.vocab_size:
        raise UsageError(
            f"draft {student.name} has {student.model.vocab_size} logits and target {teacher.name} "
            f"{teacher.model.vocab_size}: distillation compares whole "
            "distributions; pad the smaller embedding"
        )
