"""The README of an exported model: its card for people."""

from __future__ import annotations

import json
from pathlib import Path

from distillspec_jax import checkpoint
from distillspec_jax.checkpoint import ModelCard
from distillspec_jax.models import pretrained, registry
from distillspec_jax.models.pretrained import Pretrained

_LOGS = ("training.jsonl", "metrics.jsonl")
"""The logs of a model of the zoo, and of a run."""


def text(model: Pretrained, num_parameters: int) -> str:
    """A model's README: what it is, where it comes from, what was measured.

    Args:
      num_parameters: as they are written.
    """
    card = model.card
    lines = [
        f"# {_run(Path(model.name).absolute()).name}",
        "",
        f"A {card.family} network of {num_parameters:,} parameters, written by `distillspec convert "
        "--to=hf`.",
        "",
    ]
    _, config = registry.describe(model.model)
    if (layers := config.get("num_decoder_layers")) != config.get("num_encoder_layers"):
        lines += [
            "transformers sizes the decoder's cache by the encoder's layers, of which there are not as many: "
            f"before `generate`, set `model.config.num_layers = {layers}`.",
            "",
        ]
    if card.shortlist:
        lines += [
            f"Its shortlist of {len(card.shortlist):,} ids is not kept: in transformers it proposes all.",
            "",
        ]
    if rank := model.model.config.embedding_rank:
        lines += [f"Its embedding of rank {rank} is written out: here it is as large as its target's.", ""]
    if measured := _acceptance(pretrained.resolve(model.name), card):
        lines += ["## Acceptance by its target", "", *measured, ""]
    provenance = {
        "task": card.task,
        "prefix": card.prefix,
        "lengths": card.feature_lengths,
        **card.provenance,
    }
    return "\n".join([*lines, "## Provenance", "", "```json", json.dumps(provenance, indent=1), "```", ""])


def _run(directory: Path) -> Path:
    """The folder of a run, of which `directory` may be the best step (`MODEL_DIR/best`)."""
    return directory.parent if (directory / "selection.json").is_file() else directory


def _acceptance(directory: Path, card: ModelCard) -> list[str]:
    """A draft's measurements in Markdown; [] where nothing was.

    Of training's evaluations the last up to the checkpoint's step. The best of a run has its log in the run's
    folder, and a trained draft that was given a shortlist in that of the draft it was.
    """
    made = card.provenance
    step = checkpoint.latest_step(directory) or 0
    if "shortlist" in made and "layers" not in made:
        directory, step = pretrained.resolve(made["shortlist"]["draft"]), made["shortlist"]["step"]
    run = _run(directory)
    expected: dict[str, float] = {}
    for path in filter(Path.is_file, map(run.joinpath, _LOGS)):
        for written in path.read_text().splitlines():
            try:
                line = json.loads(written)
            except ValueError:
                break  # cut short by a kill, as `JsonlWriter` knows
            if line["step"] <= step:
                expected |= {name: value for name, value in line.items() if "acceptance_expected" in name}
    checked, sampled = directory / "agreement.json", []
    if checked.is_file() and (found := json.loads(checked.read_text()))["positions"]:
        distribution = found.get("distribution", found.get("law"))  # its name in 0.1
        expected.setdefault(f"acceptance_expected_{distribution}", found["expected"])
        sampled = [
            "",
            f"Under {distribution} it accepted {found['accepted']:.4f} of the {found['positions']:,} drafted "
            f"tokens that the sampler asked it about, on {found['prompts']} prompts.",
        ]
    if not expected:
        return []
    lines = [f"- {name}: {value:.4f}" for name, value in expected.items()]
    return ["Expected share of drafted tokens (1 − TVD) on held-out prompts:", "", *lines, *sampled]
