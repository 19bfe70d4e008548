"""Distilling a draft from its target: the job behind `distillspec distill`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

import jax
import jax.numpy as jnp
import optax

from distillspec_jax import bounds, outputs
from distillspec_jax.data.data_config import DataConfig
from distillspec_jax.distillation.deployment import Deployment
from distillspec_jax.distillation.divergences import Divergence
from distillspec_jax.distillation.divergences import divergence as find_divergence
from distillspec_jax.distillation.expected_acceptance import GREEDY, SAMPLED, expected_acceptance, metric
from distillspec_jax.distillation.loss import find_normalization, make_distillation_loss
from distillspec_jax.distillation.one_pass import OnePass
from distillspec_jax.distillation.sources import DataSource, Fixed, check_shares, holds
from distillspec_jax.distillation.sources import source as find_source
from distillspec_jax.distillation.stale import Stale
from distillspec_jax.distillation.stored_logprobs import (
    check_logprobs,
    check_target,
    make_stored_logprobs_loss,
)
from distillspec_jax.distillation.survival import Survival
from distillspec_jax.distillation.weighting import Frozen, Weighting
from distillspec_jax.errors import UsageError, check_number
from distillspec_jax.models import pretrained
from distillspec_jax.models.interface import Batch, LanguageModel
from distillspec_jax.models.network import Network
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.models.shortlist import Shortlisted
from distillspec_jax.partitioning import Partitioner, make_partitioner
from distillspec_jax.shapes import Params
from distillspec_jax.training import job, selection
from distillspec_jax.training.loop import Evaluate, LoopConfig
from distillspec_jax.training.step import LossFn


@outputs.one_run
def distill(
    target: str | None,
    draft: str,
    model_dir: str,
    data: DataConfig,
    loop: LoopConfig,
    *,
    optimizer: optax.GradientTransformation,
    divergence: str | Divergence | None = None,
    source: str | DataSource | None = None,
    normalization: str = "sequence",
    weighting: Weighting | None = None,
    deployment: Deployment | None = None,
    own_texts: int = 0,
    one_pass: OnePass | None = None,
    dropout_rate: float | None = None,
    assume_same_vocabulary: bool = False,
    partitioner: Partitioner | None = None,
    remat: str = "none",
    scan_layers: bool = False,
    attention: str = "plain",
    gin: str = "",
) -> Path:
    """Trains `draft` towards `target`, or resumes the run in `model_dir`. Never writes to either input.

    Args:
      target: checkpoint directory or `zoo:NAME`. None: not loaded; `data.target_set` has its distributions.
      draft: the initial draft: checkpoint directory or `zoo:NAME`.
      model_dir: the checkpoint directory to create or resume.
      data: prompts (and, for fixed data, references). Rows are never packed here.
      loop: steps, batch size, periods.
      optimizer: with its schedule, as `optimizers.adamw(optimizers.warmup_cosine(1e-3, loop.total_steps))`.
      divergence: a value or a key of `divergences.DIVERGENCES`; default: forward KL.
      source: a value or a key of `sources.SOURCES`; default: the texts of `data.target_set` if there is one,
        else the draft's on-policy samples.
      normalization: `sequence` (Eq. 2) or `token`, see `loss.NORMALIZATIONS`.
      weighting: weighs a batch's tokens, e.g. `BlockEfficiency`, `TokenSelection`; None: all count equally.
      deployment: keep the checkpoint with the highest held-out acceptance under this distribution in
        `model_dir/best`; step 0 is a candidate.
      own_texts: number of held-out prompts that the draft continues at every evaluation, to measure
        acceptance and entropies on its own texts as well (`expected_acceptance`); 0: none.
      one_pass: train the draft to propose a block in one call; its checkpoint records this. Evaluations
        still read tokens one by one. None: the draft calls its network once per token.
      dropout_rate: replaces the draft's own.
      assume_same_vocabulary: assert that the vocabularies agree although one tokenizer is unknown.
      partitioner: places arrays on devices; default: all devices on the data axis.
      remat: for the draft, see `models.rematerialisation`.
      scan_layers, attention: for both, see `models.layer_stack` and `models.attention.KERNELS`.
      gin: the bindings in force, for the card.

    Returns:
      The checkpoint directory; with `deployment`, that of the best evaluation.
    """
    model_dir = job.check_directory(model_dir)
    divergence = find_divergence(divergence or "fkl")
    source = find_source(source or ("on_policy" if data.target_set is None else "fixed"))
    _check_settings(target, data, loop, source, normalization, weighting, deployment, own_texts)
    partitioner = partitioner or make_partitioner()
    partitioner.check_batch(loop.batch_size)
    data = dataclasses.replace(data, samples_targets=not isinstance(source, Fixed)).read_by(target, draft)
    if holds(source, Fixed):
        data.check_references()
    student = pretrained.load(draft, partitioner=partitioner)
    student = dataclasses.replace(student, model=job.with_dropout(student.model, dropout_rate))
    trained = job.as_trained(student.model, remat, scan_layers, attention)
    reference = _load_reference(weighting, student, partitioner, assume_same_vocabulary)
    one_pass = _resolved(one_pass, student, data, weighting)
    terms: _Terms = {
        "normalization": normalization,
        "weighting": weighting,
        "reference": reference,
        "one_pass": one_pass,
    }
    if target is None:
        data = dataclasses.replace(data, with_logprobs=True)
        assert data.texts is not None  # `_check_settings`
        check_logprobs(data.texts, student.model, divergence, source)
        ids = tuple(student.card.shortlist)
        objective = _stored_objective(divergence, data, loop, partitioner, terms, ids)
    else:
        teacher = pretrained.load(target, partitioner=partitioner)
        frozen = dataclasses.replace(teacher.model, scan_layers=scan_layers, attention=attention)
        teacher = dataclasses.replace(teacher, model=frozen)
        _check_pair(teacher, student, assume_same_vocabulary)
        job.check_lengths(teacher.model, data, f"target {target}")
        if data.texts is not None:
            check_target(data.texts, teacher)
        # Training donates the draft's own buffers.
        initial = jax.tree.map(jnp.copy, student.params) if holds(source, Stale) else None
        objective = _live_objective(
            teacher,
            divergence,
            source,
            data,
            loop,
            partitioner,
            deployment,
            own_texts,
            terms,
            initial,
        )
    parents = {"draft": draft} if target is None else {"target": target, "draft": draft}
    if weighting is not None and weighting.reference is not None:
        parents["reference draft"] = weighting.reference
    settings = {
        "divergence": divergence,
        "source": source,
        "normalization": normalization,
        "weighting": weighting,
        "one-pass drafting": one_pass,
    }
    card = job.describe_run(student.model, data, parents, gin, settings)
    card = dataclasses.replace(
        card,
        mask_id=None if one_pass is None else one_pass.mask_id,
        # Beside a target in memory the draft learns all ids, and goes on to propose the listed ones.
        shortlist=student.card.shortlist,
    )
    job.check_run(model_dir, card)
    if deployment is not None:
        card.provenance["deployment"] = dataclasses.asdict(deployment)
    directory = job.run(
        model_dir,
        card,
        student.model,
        student.params,
        objective.loss(trained),
        data,
        loop,
        optimizer,
        partitioner,
        counted_loss_fn=None if trained == student.model else objective.loss(student.model),
        evaluate=objective.evaluate(student.model),
        select=None if deployment is None else metric(deployment),
        verb="distil",
    )
    best = directory / selection.BEST
    return best if deployment is not None and best.is_dir() else directory


def _check_settings(
    target: str | None,
    data: DataConfig,
    loop: LoopConfig,
    source: DataSource,
    normalization: str,
    weighting: Weighting | None,
    deployment: Deployment | None,
    own_texts: int,
) -> None:
    """Rejects incompatible settings before anything is loaded."""
    find_normalization(normalization)
    if weighting is not None and not isinstance(weighting, Weighting):
        raise UsageError(
            f"WEIGHTING=@{type(weighting).__name__}(): is none; take "
            "@block_efficiency.BlockEfficiency(), @survival.Survival() or @token_selection.TokenSelection()"
        )
    check_number("OWN_TEXTS", own_texts, 0, most=bounds.COUNT)
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
        (f"OWN_TEXTS={own_texts}", own_texts > 0),
        ("WEIGHTING=@Survival()", isinstance(weighting, Survival)),
    ):
        if needs_target:
            raise UsageError(f"TARGET=None: {name} needs the target; give TARGET, or leave it out")


class _Terms(TypedDict):
    """Settings common to the losses with a live and with a stored target; see `distill`."""

    normalization: str
    weighting: Weighting | None
    reference: Frozen | None
    one_pass: OnePass | None


@dataclasses.dataclass(frozen=True)
class _Objective:
    """The draft's objective, as functions of a network that may be rematerialised.

    Attributes:
      loss: makes the training loss.
      evaluate: makes the evaluation, which may sample texts, so call it after all checks. It returns None if
        nothing is held out.
    """

    loss: Callable[[Network], LossFn]
    evaluate: Callable[[Network], Evaluate | None]


def _stored_objective(
    divergence: Divergence,
    data: DataConfig,
    loop: LoopConfig,
    partitioner: Partitioner,
    terms: _Terms,
    ids: tuple[int, ...],
) -> _Objective:
    """Makes the objective on the stored log-probabilities of a target that is not loaded.

    Args:
      ids: the draft's shortlist; empty: it proposes any id.
    """
    vocabulary = data.tokenizer().vocabulary

    def drafting(model: Network) -> LanguageModel:
        return Shortlisted(model, ids) if ids else model

    def loss(model: Network) -> LossFn:
        return make_stored_logprobs_loss(
            drafting(model),
            divergence,
            dropout=True,
            vocabulary=vocabulary,
            **terms,
        )

    def evaluate(model: Network) -> Evaluate | None:
        if data.held_out_set is None:
            return None
        unweighted = make_stored_logprobs_loss(
            drafting(model), divergence, vocabulary=vocabulary, normalization=terms["normalization"]
        )
        return job.held_out_loss(unweighted, data, loop.batch_size, partitioner)

    return _Objective(loss, evaluate)


def _live_objective(
    teacher: Pretrained,
    divergence: Divergence,
    source: DataSource,
    data: DataConfig,
    loop: LoopConfig,
    partitioner: Partitioner,
    deployment: Deployment | None,
    own_texts: int,
    terms: _Terms,
    initial_params: Params | None,
) -> _Objective:
    """Makes the objective against a target that scores every batch.

    Args:
      initial_params: the draft's before training; None: no source reads them.
    """
    vocabulary = data.tokenizer().vocabulary

    def prompts_of(data: DataConfig) -> list[Batch]:
        of_tasks = data.held_out_batches(loop.batch_size).values()
        return [partitioner.put_batch(batch) for of_task in of_tasks for batch in of_task]

    prompts = prompts_of(data)
    own = dataclasses.replace(data, eval_limit=min(own_texts, data.eval_limit))
    own_prompts = prompts_of(own) if own_texts else []
    if not prompts and (deployment is not None or own_texts):
        needs = f"OWN_TEXTS={own_texts} continues" if deployment is None else "DEPLOYMENT chooses the best by"
        raise UsageError(
            f"{needs} held-out prompts, but {data.mixture_or_task_name!r} has no validation split, or "
            "DataConfig.eval_limit is 0"
        )
    distributions = tuple(dict.fromkeys((GREEDY, SAMPLED, deployment or SAMPLED)))

    def loss(model: Network) -> LossFn:
        return make_distillation_loss(
            model,
            teacher.model,
            teacher.params,
            divergence,
            source,
            dropout=True,
            vocabulary=vocabulary,
            initial_params=initial_params,
            **terms,
        )

    def evaluate(model: Network) -> Evaluate | None:
        if not prompts:
            return None
        return expected_acceptance(
            model,
            teacher.model,
            teacher.params,
            prompts,
            distributions=distributions,
            vocabulary=vocabulary,
            own_batches=own_prompts,
        )

    return _Objective(loss, evaluate)


def _resolved(
    one_pass: OnePass | None, student: Pretrained, data: DataConfig, weighting: Weighting | None
) -> OnePass | None:
    """Chooses the mask id for one-pass training, if the draft is trained that way.

    Raises:
      UsageError: see `OnePass.resolved`; or the draft drafts in one pass and training would make it forget
        that; or there is a weighting, which does not support masks.
    """
    own = student.card.mask_id
    if one_pass is None:
        if own is not None:
            raise UsageError(
                f"ONE_PASS=None: {student.name} drafts in one pass, which it would forget; "
                "set ONE_PASS = @one_pass.OnePass()"
            )
        return None
    if weighting is not None:
        raise UsageError(
            f"ONE_PASS and WEIGHTING=@{type(weighting).__name__}() do not go together: set one to None"
        )
    return one_pass.resolved(own, data.tokenizer().vocab_size, student.model.vocab_size)


def _load_reference(
    weighting: Weighting | None, student: Pretrained, partitioner: Partitioner, assume_same_vocabulary: bool
) -> Frozen | None:
    """Loads the draft that a weighting compares with, if any.

    Raises:
      UsageError: there is no such model, or its vocabulary differs.
    """
    if weighting is None or weighting.reference is None:
        return None
    found = pretrained.load(weighting.reference, partitioner=partitioner)
    _check_pair(student, found, assume_same_vocabulary, ("draft", "reference draft"))
    return Frozen(found.model, found.params)


def _check_pair(
    teacher: Pretrained,
    student: Pretrained,
    assume_same_vocabulary: bool,
    roles: tuple[str, str] = ("target", "draft"),
) -> None:
    pretrained.check_pair(teacher, student, assume_same_vocabulary, roles)
    if teacher.model.vocab_size != student.model.vocab_size:
        raise UsageError(
            f"{roles[1]} {student.name} has {student.model.vocab_size} logits and {roles[0]} {teacher.name} "
            f"{teacher.model.vocab_size}: distillation compares whole "
            "distributions; pad the smaller embedding"
        )
