"""The README of an exported model: its human-readable card."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from distillspec_jax import acceptance_profile, checkpoint, schema, training_log
from distillspec_jax.acceptance_profile import Profile
from distillspec_jax.model_card import ModelCard
from distillspec_jax.models import pretrained, registry
from distillspec_jax.models.pretrained import Pretrained


@dataclasses.dataclass(frozen=True)
class _Checked:
    """The parts of `agreement.json` that the README reports, see `evaluation.agreement`."""

    positions: schema.Count
    prompts: schema.Count
    accepted: schema.Amount | None = None
    expected: schema.Amount | None = None
    distribution: str | None = None
    law: str | None = None

    @property
    def under(self) -> str | None:
        """The distribution, which release 0.1 called a law."""
        return self.distribution or self.law


_LOGS = ("training.jsonl", "metrics.jsonl")
"""The logs of a model of the zoo, and of a run."""


def text(model: Pretrained, num_parameters: int) -> str:
    """Writes a model's README: description, measurements and provenance.

    Args:
      num_parameters: number of parameters written.
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
    layers = config.get("num_decoder_layers")
    if card.family == "t5" and layers != config["num_encoder_layers"]:
        lines += [
            "transformers sizes the decoder's cache by the encoder's layers, of which there are not as many: "
            f"before `generate`, set `model.config.num_layers = {layers}`.",
            "",
        ]
    if card.mask_id is not None:
        lines += [
            f"It was taught to propose a block in one call, with id {card.mask_id} in place of the tokens to "
            "come (`pard_token` in config.json). An engine that does not know that calls it for each token. "
            "Expected and checked acceptance below are of that, too.",
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
    if profile_of(model) is not None:
        lines += _profiled(acceptance_profile.read(_profile_file(model)))
    provenance = {
        "task": card.task,
        "prefix": card.prefix,
        "lengths": card.feature_lengths,
        **card.provenance,
    }
    return "\n".join([*lines, "## Provenance", "", "```json", json.dumps(provenance, indent=1), "```", ""])


def profile_of(model: Pretrained) -> bytes | None:
    """Reads the bytes of a model's acceptance profile; None if there is none or it is of another step.

    Raises:
      UsageError: it is damaged.
    """
    path = _profile_file(model)
    if not path.is_file():
        return None
    step = acceptance_profile.read(path).step
    return path.read_bytes() if step in (None, checkpoint.latest_step(path.parent)) else None


def _profile_file(model: Pretrained) -> Path:
    return pretrained.resolve(model.name) / acceptance_profile.FILE


def _profiled(profile: Profile) -> list[str]:
    """Formats a draft's profile in Markdown: one row per sampling distribution."""
    drafts = range(1, profile.block_size + 1)
    lines = [
        "## Acceptance by position and temperature",
        "",
        f"Sampled on {profile.prompts:,} held-out prompts of {profile.task} (digest "
        f"{profile.prompts_digest}), {profile.block_size} drafts a round; intervals at 95 % over prompts. "
        f"`{acceptance_profile.FILE}` has the counts of every prompt; `distillspec watch` compares service "
        "with it.",
        "",
        "| T | acceptance | 10 %, 50 %, 90 % of prompts | tokens a call | "
        + " | ".join(f"draft {i}" for i in drafts)
        + " |",
        "|" + "---|" * (4 + profile.block_size),
    ]
    for cell in profile.cells:
        rate = _number(cell.acceptance, cell.acceptance_ci95)
        spread = ", ".join(f"{x:.2f}" for x in cell.acceptance_spread or ()) or "–"
        efficiency = _number(cell.block_efficiency, cell.block_efficiency_ci95)
        given = [*cell.acceptance_conditional, *[None] * profile.block_size][: profile.block_size]
        by_position = " | ".join("–" if x is None else f"{x:.3f}" for x in given)
        lines.append(f"| {cell.temperature:g} | {rate} | {spread} | {efficiency} | {by_position} |")
    return [*lines, ""]


def _number(value: float | None, ends: list[float] | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" ({ends[0]:.3f} – {ends[1]:.3f})" if ends else "")


def _run(directory: Path) -> Path:
    """Returns the folder of a run, given the folder itself or its best step's (`MODEL_DIR/best`)."""
    return directory.parent if (directory / "selection.json").is_file() else directory


def _acceptance(directory: Path, card: ModelCard) -> list[str]:
    """Formats a draft's measurements in Markdown; [] if there are none.

    From training, it uses the last evaluation up to the checkpoint's step. The best step's log is in the
    run's folder, and the log of a draft that was given a shortlist is in the original draft's folder.
    """
    made = card.provenance
    step = checkpoint.latest_step(directory) or 0
    if "shortlist" in made and "layers" not in made:
        directory, step = pretrained.resolve(made["shortlist"]["draft"]), made["shortlist"]["step"]
    run = _run(directory)
    expected: dict[str, float] = {}
    for path in filter(Path.is_file, map(run.joinpath, _LOGS)):
        for line in training_log.read(path):
            if line["step"] <= step:
                named = {name: line[name] for name in line if "acceptance_expected" in name}
                expected |= {name: value for name, value in named.items() if value is not None}
    path, sampled = directory / "agreement.json", []
    checked = schema.read_file(_Checked, path, "what a check found") if path.is_file() else None
    if checked and checked.positions and checked.accepted is not None:
        if checked.expected is not None:
            expected.setdefault(f"acceptance_expected_{checked.under}", checked.expected)
        sampled = [
            "",
            f"Under {checked.under} it accepted {checked.accepted:.4f} of the {checked.positions:,} drafted "
            f"tokens that the sampler asked it about, on {checked.prompts} prompts.",
        ]
    if not expected:
        return []
    lines = [f"- {name}: {value:.4f}" for name, value in expected.items()]
    return ["Expected share of drafted tokens (1 − TVD) on held-out prompts:", "", *lines, *sampled]
