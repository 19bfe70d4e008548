"""Weights and settings of a folder of results, so that a later run does not take its rows for others.

Rows and trainings are found again by their labels. The same name may lead to other weights a month later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from distillspec_jax import files
from distillspec_jax.errors import UsageError
from distillspec_jax.models import fingerprints, pretrained

MADE_OF = "made_of.json"


def weights(names: Iterable[str]) -> dict[str, str]:
    """Digests the parameters of models, and what else of them decides on drafts, by name.

    Raises:
      UsageError: see `pretrained.load`.
    """
    known: dict[tuple[Path, str | None, tuple[int, ...]], str] = {}
    found = {}
    for name in dict.fromkeys(names):
        card = pretrained.read_card(name)
        key = pretrained.resolve(name), pretrained.split(name)[1], tuple(card.shortlist or ())
        if key not in known:
            params = fingerprints.of_params(pretrained.load(name).params)
            known[key] = fingerprints.of_json([params, card.shortlist, card.mask_id])
        found[name] = known[key]
    return found


def check(folder: Path, ours: Mapping[str, Any], rows: str) -> None:
    """Writes down what a new folder is made of, or compares it with what is written there.

    Args:
      ours: JSON values by name.
      rows: a file of the folder that only an older release can have left without this.

    Raises:
      UsageError: the folder was made of something else, or of nobody knows what.
    """
    path = folder / MADE_OF
    if not path.exists():
        if (folder / rows).exists():
            raise UsageError(f"{folder} has {rows} but no {MADE_OF}: choose another --output, or remove it")
        files.write_json(path, dict(ours))
        return
    there = files.read_json(path)
    for name, value in files.parse_json_object(files.as_json(dict(ours)), str(path)).items():
        if there.get(name) != value:
            raise UsageError(f"{folder} was made with another {name}: choose another --output, or remove it")
