"""From training directories to the shipped zoo: bfloat16 weights, held-out quality, manifest."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from distillspec_jax import checkpoint
from distillspec_jax.data import catalog
from distillspec_jax.evaluation import held_out, paired
from distillspec_jax.models import pretrained, zoo
from distillspec_jax.models.pretrained import Pretrained

DESCRIPTIONS = {
    "target": "multitask target, supervised on the three embedded tasks",
    "draft": "multitask draft, supervised only",
    "distilled": "the same draft distilled from the target",
}


def export(names: list[str], directory: str, destination: str | None, limit: int | None) -> str:
    """Writes the zoo and returns a summary table in Markdown.

    Quality is measured on the exported (bfloat16) weights, on each task's validation split.

    Args:
      names: training directories under `directory`; the first is the target.
      destination: where the zoo goes; the package's own folder by default.
      limit: held-out examples a task.
    """
    root = Path(destination) if destination else zoo.ROOT
    models: dict[str, Any] = {}
    measured: dict[str, dict[str, held_out.HeldOut]] = {}
    for name in names:
        source = Path(directory) / name
        trained = pretrained.load(str(source))
        _write(trained, source, root / name)
        shipped = pretrained.load(str(root / name))
        measured[name] = {
            task: held_out.measure(shipped, task, split="validation", limit=limit)
            for task in catalog.EMBEDDED_TASKS
        }
        models[name] = {
            "description": DESCRIPTIONS.get(name, name),
            "parameters": shipped.num_parameters,
            "quality": {
                task: _quality(found, measured[names[0]][task]) for task, found in measured[name].items()
            },
        }
    baselines = {}
    for task in catalog.EMBEDDED_TASKS:
        scores, corpus = held_out.copy_baseline(task, split="validation", limit=limit)
        baselines[task] = {"copy_the_input": corpus, "examples": len(scores)}
    aliases = {f"{task}/{name}": name for task in catalog.EMBEDDED_TASKS for name in names}
    manifest = {"models": models, "aliases": aliases, "baselines": baselines}
    (root / "zoo.json").write_text(json.dumps(manifest, indent=1) + "\n")
    zoo.manifest.cache_clear()
    return table(manifest)


def _write(trained: Pretrained, source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    step = checkpoint.latest_step(source)
    assert step is not None
    card = dataclasses.replace(trained.card, provenance=trained.card.provenance | {"exported_step": step})
    checkpoint.write_card(target, card, trained.tokenizer_bytes)
    checkpoint.save_params(target, step, trained.params, dtype="bfloat16")
    shutil.copy(source / "metrics.jsonl", target / "training.jsonl")


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
    for task, baseline in manifest["baselines"].items():
        for label, model in manifest["models"].items():
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
        copied = ", ".join(f"{k} {v:.2f}" for k, v in baseline["copy_the_input"].items())
        lines.append(f"| {task} | copy the input | – | {copied} |")
    return "\n".join(lines)
