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
SOURCES: Mapping[str, tuple[str, str]] = {
    "fixed": ("supervised_kd", "FKL"),
    "draft": ("gkd", "JSD 0.5"),
    "target": ("seqkd", ""),
    "draft + target": ("f_distill", "TVD"),
}
"""The paper's four sources of data: the algorithm that takes it, and the divergence that this one has."""
FOUR = ("FKL", "JSD 0.5", "RKL", "TVD")


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
    return Arm(label, task, files, bindings(given), steps or scale.steps, seed)


def algorithm(scale: Scale, task: str, name: str, seed: int = 0) -> Arm:
    """One of `ALGORITHMS`, as its gin file has it."""
    return distilled(scale, task, name, ALGORITHMS[name], seed)


def cell(scale: Scale, task: str, divergence: str, source: str, rate: float, seed: int = 0) -> Arm:
    """A divergence on a source; where an algorithm is just that, its arm."""
    gin_file, own = SOURCES[source]
    if divergence == own:
        label = next(name for name, file in ALGORITHMS.items() if file == gin_file)
        return distilled(scale, task, label, gin_file, seed, rate=rate)
    more = dict(flag.removeprefix("--gin.").split("=", 1) for flag in DIVERGENCES[divergence])
    return distilled(scale, task, f"{divergence} {source}", gin_file, seed, rate=rate, more=more)


def control(scale: Scale, task: str, seed: int = 0) -> Arm:
    """The supervised draft after as many more steps of next-token training on the references."""
    return supervised(scale, task, CONTROL, scale.draft_of(task), seed)


def supervised(scale: Scale, task: str, label: str, start: Model, seed: int = 0) -> Arm:
    """Next-token training on the references."""
    rate = RECIPES[task].control_learning_rate if task in RECIPES else scale.rate
    given = {"INITIAL_CHECKPOINT_PATH": start, "LEARNING_RATE": rate, **_shared(scale, task)}
    return Arm(label, task, (f"{FOLDER}/finetune.gin",), bindings(given), scale.steps, seed, "finetune")


def narrow(scale: Scale, task: str, width: int) -> Arm:
    """A draft of one layer either side, as wide as asked, trained from nothing on the references."""
    given = {"LEARNING_RATE": 4e-3, **_shared(scale, task, scale.narrow_steps)}
    given |= {"t5.T5Config.emb_dim": width, "t5.T5Config.mlp_dim": 2 * width}
    given |= {"t5.T5Config.num_heads": max(1, width // 64), "t5.T5Config.head_dim": min(64, width)}
    files = (f"{FOLDER}/finetune.gin", "models/zoo_draft.gin")
    return Arm(f"width {width}", task, files, bindings(given), scale.narrow_steps, 0, "finetune")


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
    return distilled(scale, task, "medium target", "supervised_kd", draft=medium_cut(scale, task))


def medium_supervised(scale: Scale, task: str) -> Arm:
    """The same target without distillation."""
    return supervised(scale, task, "medium target, supervised", medium_cut(scale, task))


def draft_of_medium(scale: Scale, task: str) -> Arm:
    """DistillSpec's draft for the smaller target."""
    target = medium(scale, task)
    return distilled(scale, task, "DistillSpec for medium", ALGORITHMS[DISTILLSPEC], target=target)


def seeds(scale: Scale, arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """Each arm with each seed, under the labels of rows."""
    return {
        f"{label}, seed {seed}": dataclasses.replace(arm, seed=seed)
        for label, arm in arms.items()
        for seed in range(scale.seeds)
    }


def _network(target: str) -> Network:
    return pretrained.network(target, pretrained.read_card(target))


def _shared(scale: Scale, task: str, steps: int | None = None) -> dict[str, Any]:
    lengths = str(dict(RECIPES[task].lengths))
    warmup = min(20, max(1, (steps or scale.steps) // 4))
    return {"TASK_FEATURE_LENGTHS": lengths, "BATCH_SIZE": scale.batch_size, "WARMUP_STEPS": warmup}
