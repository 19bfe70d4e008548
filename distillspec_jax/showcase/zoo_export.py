"""From training directories to the shipped zoo: bfloat16 weights, held-out quality, agreement, manifest."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax import checkpoint, model_card
from distillspec_jax.data import catalog
from distillspec_jax.data.data_config import DataConfig
from distillspec_jax.data.target_set import TargetSet, heaviest, token_mass
from distillspec_jax.distillation.deployment import Deployment
from distillspec_jax.evaluation import agreement, held_out, paired
from distillspec_jax.files import write_whole
from distillspec_jax.models import pretrained, zoo_manifest
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.new_folders import check_new_folder, new_folder
from distillspec_jax.showcase.shortlists import shortlist

DESCRIPTIONS = {
    "target": "multitask target, supervised on the three embedded tasks",
    "draft": "multitask draft, supervised only",
    "distilled": "the same draft distilled from the target",
}
"""Descriptions of a family's models, by `zoo_manifest.ROLES`."""
_GREEDY_DESCRIPTION = "the distilled draft, distilled further on greedy texts of {}: for temperature 0"
_STEP = "exported_step"
"""In a card's provenance: the training step that was exported."""
DISTRIBUTIONS = (Deployment(0.0), Deployment(1.0))
AGREEMENT_PROMPTS = 32
SHORTLIST_PROMPTS = 400


def check_destination(names: Collection[str], destination: str | None) -> None:
    """Refuses a place for exports that holds a folder of such a name which is no earlier export.

    Raises:
      UsageError: names it.
    """
    for name in names:
        check_new_folder(_root(destination) / name, _is_export)


def _root(destination: str | None) -> Path:
    return Path(destination) if destination else zoo_manifest.ROOT


def export(
    family: str, trained: Collection[str], directory: str, destination: str | None, limit: int | None
) -> str:
    """Writes a family of the zoo and returns a summary table in Markdown; other families stay as they are.

    Quality is measured on the exported (bfloat16) weights, on each task's validation split; that acceptance
    is what training computes is checked for every draft, too.

    Args:
      family: one of `zoo_manifest.FAMILIES`.
      trained: its roles to take from `directory`; the others stay as they are at the destination.
      directory: holds a training directory a model.
      destination: where the zoo goes; the package's own folder by default.
      limit: held-out examples a task.

    Raises:
      AgreementError: the sampler and the training code contradict each other on a draft.
    """
    root = _root(destination)
    models: dict[str, Any] = {}
    measured: dict[str, dict[str, held_out.HeldOut]] = {}
    shipped: dict[str, Pretrained] = {}
    target = zoo_manifest.member(family, "target")
    for role, description in DESCRIPTIONS.items():
        name = zoo_manifest.member(family, role)
        if role in trained:
            _write(Path(directory) / name, root / name)
        shipped[name] = pretrained.load(str(root / name))
        measured[name] = _measured(shipped[name], catalog.EMBEDDED_TASKS, limit)
        models[name] = _entry(description, shipped[name], measured[name], measured[target])
        if name != target:
            models[name]["agreement"] = _agreement(shipped[target], shipped[name], catalog.EMBEDDED_MIXTURE)
    baselines = {}
    for task in catalog.EMBEDDED_TASKS:
        scores, corpus = held_out.copy_baseline(task, split="validation", limit=limit)
        baselines[task] = {"copy_the_input": corpus, "examples": len(scores)}
    aliases = {f"{task}/{name}": name for task in catalog.EMBEDDED_TASKS for name in models}
    distilled = zoo_manifest.member(family, "distilled")
    aliases |= dict.fromkeys(write_shortlists(family, shipped[target], root), distilled)
    _add(root, models, aliases, baselines=baselines)
    return table({"models": models, "baselines": baselines})


def export_greedy(tasks: Collection[str], directory: str, destination: str | None, limit: int | None) -> str:
    """Likewise the drafts for temperature 0 (`zoo_manifest.greedy`), of these tasks, into a zoo that has the
    others.

    A draft proposes what its target says greedily, and nothing else: at temperature 0 that is all it needs.

    Raises:
      AgreementError: as `export`.
    """
    root = _root(destination)
    target = pretrained.load(str(root / "target"))
    models: dict[str, Any] = {}
    lists: dict[str, list[int]] = {}
    for task in tasks:
        name = zoo_manifest.greedy(task)
        _write(Path(directory) / name, root / name)
        draft = pretrained.load(str(root / name))
        measured = [_measured(model, (task,), limit) for model in (draft, target)]
        models[name] = _entry(_GREEDY_DESCRIPTION.format(task), draft, *measured)
        models[name]["agreement"] = _agreement(target, draft, task)
        lists[f"{task}/{zoo_manifest.GREEDY}"] = _said(
            TargetSet(zoo_manifest.greedy_texts(directory, task), with_logprobs=False)
        )
    _write_lists(root, lists)
    _add(root, models, {f"{task}/{zoo_manifest.GREEDY}": zoo_manifest.greedy(task) for task in tasks})
    return table({"models": models, "baselines": {}})


def _said(texts: TargetSet) -> list[int]:
    """Every id in a set's texts, and the least ones beside them up to a power of two."""
    mass_V = token_mass(texts)
    size = 1 << (int(np.count_nonzero(mass_V)) - 1).bit_length()
    return heaviest(mass_V, size, texts.reader.tokenizer.eos_ids)


def _add(root: Path, models: dict[str, Any], aliases: dict[str, str], **more: Any) -> None:
    there = zoo_manifest.read(root)
    manifest = {
        **there,
        **more,
        "models": there["models"] | models,
        "aliases": there["aliases"] | aliases,
    }
    write_whole(root / "zoo.json", json.dumps(manifest, indent=1) + "\n")
    zoo_manifest.manifest.cache_clear()
    zoo_manifest.shortlists.cache_clear()


def write_shortlists(family: str, target: Pretrained, root: Path) -> dict[str, list[int]]:
    """Adds a family's lists to the zoo's `shortlists.json`; returns them by alias."""
    found = {}
    for task in catalog.EMBEDDED_TASKS:
        with tempfile.TemporaryDirectory() as folder:
            ids = shortlist(target, task, folder, prompts=SHORTLIST_PROMPTS)
        found[f"{task}/{zoo_manifest.member(family, zoo_manifest.SHORTLISTED)}"] = ids
    _write_lists(root, found)
    return found


def _write_lists(root: Path, found: dict[str, list[int]]) -> None:
    lines = [
        f"{json.dumps(name)}: {json.dumps(ids)}"
        for name, ids in (zoo_manifest.read_shortlists(root) | found).items()
    ]
    write_whole(root / "shortlists.json", "{\n" + ",\n".join(lines) + "\n}\n")


def _write(source: Path, target: Path) -> None:
    trained = pretrained.load(str(source))
    step = checkpoint.latest_step(source)
    assert step is not None
    card = dataclasses.replace(trained.card, provenance=trained.card.provenance | {_STEP: step})
    with new_folder(target, _is_export) as folder:
        model_card.write_card(folder, card, trained.tokenizer_bytes)
        checkpoint.save_params(folder, step, trained.params, dtype="bfloat16")
        shutil.copy(source / "metrics.jsonl", folder / "training.jsonl")


def _is_export(folder: Path) -> bool:
    there = (folder / model_card.MODEL_FILE).is_file()
    return there and _STEP in model_card.read_card(folder).provenance


def _measured(model: Pretrained, tasks: Collection[str], limit: int | None) -> dict[str, held_out.HeldOut]:
    return {task: held_out.measure(model, task, split="validation", limit=limit) for task in tasks}


def _entry(
    description: str,
    model: Pretrained,
    measured: dict[str, held_out.HeldOut],
    of_target: dict[str, held_out.HeldOut],
) -> dict[str, Any]:
    return {
        "description": description,
        "parameters": model.num_parameters,
        "quality": {task: _quality(found, of_target[task]) for task, found in measured.items()},
    }


def _agreement(target: Pretrained, draft: Pretrained, mixture: str) -> list[dict[str, Any]]:
    """The three numbers of `evaluation.agreement` under each distribution, over all tasks of a mixture."""
    data = DataConfig(mixture, eval_limit=AGREEMENT_PROMPTS)
    of_tasks = data.held_out_batches(AGREEMENT_PROMPTS).values()
    batches = [jax.tree.map(jnp.asarray, batch) for of_task in of_tasks for batch in of_task]
    return [
        dataclasses.asdict(agreement.agreement(target, draft, distribution, batches))
        for distribution in DISTRIBUTIONS
    ]


def _quality(found: held_out.HeldOut, target: held_out.HeldOut) -> dict[str, Any]:
    """Held-out values, each with the paired interval of target minus this model (none for the target)."""
    other = found is not target
    loss = paired.ratio(target.nll - found.nll, found.tokens).ends if other else None
    score = paired.difference_of_means(target.scores, found.scores).ends if other else None
    quality: dict[str, Any] = {
        "nll_per_token": {
            "value": float(found.nll.sum() / found.tokens.sum()),
            "target_minus_this_ci95": loss,
        },
        "score_per_example": {"value": float(found.scores.mean()), "target_minus_this_ci95": score},
    }
    return quality | {name: {"value": float(value)} for name, value in found.corpus.items()}


def table(manifest: dict[str, Any]) -> str:
    """The manifest's quality as a Markdown table."""
    lines = ["| task | model | nll a token | metrics |", "|---|---|---|---|"]
    tasks = dict.fromkeys(task for model in manifest["models"].values() for task in model["quality"])
    for task in tasks:
        for label, model in manifest["models"].items():
            if task not in model["quality"]:
                continue
            quality = model["quality"][task]
            shown = ", ".join(
                f"{name} {entry['value']:.2f}"
                for name, entry in quality.items()
                if name not in ("nll_per_token", "score_per_example")
            )
            loss = quality["nll_per_token"]
            behind = ""
            if loss["target_minus_this_ci95"]:
                behind = " (target − this: {:.3f} to {:.3f})".format(*loss["target_minus_this_ci95"])
            lines.append(f"| {task} | {label} | {loss['value']:.3f}{behind} | {shown} |")
        if task in manifest["baselines"]:
            copied = manifest["baselines"][task]["copy_the_input"].items()
            shown = ", ".join(f"{k} {v:.2f}" for k, v in copied)
            lines.append(f"| {task} | copy the input | – | {shown} |")
    return "\n".join(lines)
