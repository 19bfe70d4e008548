"""The trainings of the experiments, by name: equal ones are one, whichever experiments they serve."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from benchmarks.arms import Arm, Cut, Model, bindings
from benchmarks.grid import DIVERGENCES
from benchmarks.paper.scales import Scale
from distillspec_jax.models import layer_subset, pretrained
from distillspec_jax.models.network import Network
from distillspec_jax.showcase.recipes import RECIPES

FOLDER = "experiments/paper/embedded"
_ALGORITHMS = "experiments/algorithms"

SD, DISTILLSPEC, CONTROL = "SD", "DistillSpec", "control"
ALGORITHMS: Mapping[str, str] = {
    "SeqKD": "seqkd",
    "Supervised KD": "supervised_kd",
    "ImitKD": "imitkd",
    "f-distill": "f_distill",
    "on-policy GKD": "gkd",
    DISTILLSPEC: "distillspec",
}
"""The paper's algorithms (its Table 1), each a file of `experiments/algorithms`."""
CELLS: Mapping[tuple[str, str], str] = {
    ("FKL", "fixed"): "Supervised KD",
    ("JSD 0.5", "draft"): "on-policy GKD",
    ("FKL", "draft"): DISTILLSPEC,
    ("TVD", "draft + target"): "f-distill",
}
"""Algorithms that are one divergence on one source: no other training is made of these."""
NEAREST: Mapping[str, tuple[str, str]] = {
    **{name: cell for cell, name in CELLS.items()},
    "SeqKD": ("FKL", "target"),
    "ImitKD": ("FKL", "draft"),
}
"""The divergence and the source whose learning rate an algorithm takes: its own, or what is nearest."""
SOURCES: Mapping[str, str] = {
    "fixed": "supervised_kd",
    "draft": "gkd",
    "target": "seqkd",
    "draft + target": "f_distill",
}
"""The paper's four sources of data: files of `experiments/algorithms` that take them."""


def distilled(
    scale: Scale,
    task: str,
    label: str,
    gin_file: str,
    seed: int = 0,
    *,
    rate: float | None = None,
    target: Model | None = None,
    draft: Model | None = None,
    steps: int | None = None,
    more: Mapping[str, Any] | None = None,
    as_long_as: Arm | None = None,
) -> Arm:
    """A distillation of the zoo's supervised draft, by a file of `experiments/algorithms`."""
    given = {
        "TARGET": target or scale.target_of(task),
        "DRAFT": draft or scale.draft_of(task),
        "LEARNING_RATE": rate or scale.rate,
        **_shared(scale, task, steps),
        **(more or {}),
    }
    files = (f"{_ALGORITHMS}/{gin_file}.gin", f"{FOLDER}/distill.gin")
    return Arm(label, task, files, bindings(given), steps or scale.steps, seed, as_long_as=as_long_as)


def algorithm(scale: Scale, task: str, name: str, seed: int = 0, *, rate: float | None = None) -> Arm:
    """One of `ALGORITHMS`, as its gin file has it."""
    rate = rate or scale.rate_of(task, *NEAREST[name])
    return distilled(scale, task, name, ALGORITHMS[name], seed, rate=rate)


def cell(
    scale: Scale, task: str, divergence: str, source: str, seed: int = 0, *, rate: float | None = None
) -> Arm:
    """A divergence on a source; where an algorithm is just that, its arm."""
    rate = rate or scale.rate_of(task, divergence, source)
    if (divergence, source) in CELLS:
        return algorithm(scale, task, CELLS[divergence, source], seed, rate=rate)
    more = divergence_bindings(divergence)
    return distilled(scale, task, f"{divergence} {source}", SOURCES[source], seed, rate=rate, more=more)


def divergence_bindings(divergence: str) -> dict[str, str]:
    """What gin is told of a divergence of the grid."""
    return dict(flag.removeprefix("--gin.").split("=", 1) for flag in DIVERGENCES[divergence])


def control(scale: Scale, task: str) -> Arm:
    """The supervised draft after more next-token training on the references, at the cost of DistillSpec."""
    arm = supervised(scale, task, CONTROL, scale.draft_of(task))
    return dataclasses.replace(arm, as_long_as=algorithm(scale, task, DISTILLSPEC))


def supervised(scale: Scale, task: str, label: str, start: Model) -> Arm:
    """Next-token training on the references."""
    rate = RECIPES[task].control_learning_rate if task in RECIPES else scale.rate
    given = {"INITIAL_CHECKPOINT_PATH": start, "LEARNING_RATE": rate, **_shared(scale, task)}
    return Arm(label, task, (f"{FOLDER}/finetune.gin",), bindings(given), scale.steps, 0, "finetune")


def sizes(scale: Scale, task: str) -> dict[str, Arm]:
    """Drafts of several sizes, each made of a trained model and distilled alike on the references.

    The zoo's draft as it is and with its embedding at lower ranks; the last layer of the target, with its
    embedding at an eighth of the rank; its first and its last layer.
    """
    draft = scale.draft_of(task)
    width = _network(draft).config.emb_dim
    cuts = {f"zoo draft, rank {width // part}": Cut(draft, (), width // part) for part in scale.ranks}
    cuts["last layer"] = last_layer(scale, task)
    rate = scale.rate_of(task, "FKL", "fixed")
    return {
        "zoo draft": algorithm(scale, task, "Supervised KD"),
        **{
            name: distilled(scale, task, f"{name}, distilled", "supervised_kd", rate=rate, draft=cut)
            for name, cut in cuts.items()
        },
        "two layers": medium(scale, task),
    }


def medium_cut(scale: Scale, task: str) -> Cut:
    """The first and the last decoder layer of the large target."""
    target = scale.target_of(task)
    return Cut(target, tuple(sorted({0, layer_subset.num_layers(_network(target)) - 1})))


def last_layer(scale: Scale, task: str) -> Cut:
    """The last decoder layer of the large target, with its embedding at an eighth of the rank."""
    target = scale.target_of(task)
    network = _network(target)
    return Cut(target, (layer_subset.num_layers(network) - 1,), max(1, network.config.emb_dim // 8))


def medium(scale: Scale, task: str) -> Arm:
    """The smaller target of the garden, distilled from the large one on the references."""
    rate = scale.rate_of(task, "FKL", "fixed")
    return distilled(scale, task, "medium target", "supervised_kd", rate=rate, draft=medium_cut(scale, task))


def medium_supervised(scale: Scale, task: str) -> Arm:
    """The same target without distillation."""
    return supervised(scale, task, "medium target, supervised", medium_cut(scale, task))


def draft_of_medium(scale: Scale, task: str) -> Arm:
    """DistillSpec's draft for the smaller target."""
    rate = scale.rate_of(task, *NEAREST[DISTILLSPEC])
    name, target = "DistillSpec for medium", medium(scale, task)
    return distilled(scale, task, name, ALGORITHMS[DISTILLSPEC], rate=rate, target=target)


def seeds(scale: Scale, arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """Each arm with each seed, under the labels of rows."""
    return {
        f"{label}, seed {seed}": _seeded(arm, seed)
        for label, arm in arms.items()
        for seed in range(scale.seeds)
    }


def _seeded(arm: Arm, seed: int) -> Arm:
    like = arm.as_long_as
    return dataclasses.replace(arm, seed=seed, as_long_as=like and _seeded(like, seed))


def _network(target: str) -> Network:
    return pretrained.network(target, pretrained.read_card(target))


def _shared(scale: Scale, task: str, steps: int | None = None) -> dict[str, Any]:
    lengths = str(dict(RECIPES[task].lengths))
    warmup = min(20, max(1, (steps or scale.steps) // 4))
    return {"TASK_FEATURE_LENGTHS": lengths, "BATCH_SIZE": scale.batch_size, "WARMUP_STEPS": warmup}
