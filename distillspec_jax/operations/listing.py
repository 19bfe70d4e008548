"""Prints registries on a terminal: a table of versions, and the details of one version."""

from __future__ import annotations

import datetime

from rich.console import Console

from distillspec_jax import acceptance_profile
from distillspec_jax.operations import lineage
from distillspec_jax.operations.draft_registry import STATE, DraftRegistry
from distillspec_jax.reports.fitted import Column, print_table


def print_versions(registry: DraftRegistry, console: Console | None = None) -> None:
    """Prints a line for every version: its share of requests, its parent, its acceptance."""
    console = console or Console(highlight=False)
    columns = [Column("version", True, True), Column("serves", True), Column("parent", True), Column("steps")]
    columns += [Column("acceptance", True), Column("gate", True), Column("added", True)]
    serving = registry.state()
    lines = []
    there = registry.versions()
    for version in registry.named():
        share = "all" if serving.candidate is None else f"{1 - serving.share:.0%}"
        serves = {serving.stable: share, serving.candidate: f"{serving.share:.0%}"}.get(version, "–")
        if version not in there:
            lines.append([version, serves, *["–"] * 4, "has gone"])
            continue
        found = registry.lineage(version)
        steps = "–" if found.training.steps is None else f"{found.training.steps:,}"
        gate = "–" if found.gate is None else str(found.gate.get("outcome", "–"))
        added = datetime.datetime.fromtimestamp(found.added, datetime.UTC).strftime("%Y-%m-%d %H:%M")
        lines.append(
            [version, serves, found.parent or "–", steps, _acceptance(registry, version), gate, added]
        )
    history = registry.history
    print_table(console, columns, lines, title=f"{registry.path}: drafts for {history.target}")


def described(registry: DraftRegistry, version: str | None) -> str:
    """Returns the content of a version's lineage file, or without a version that of the registry's state."""
    if version is None:
        _ = registry.history  # to raise its errors
        return (registry.path / STATE).read_text().rstrip()
    _ = registry.lineage(version)
    return (registry.path_of(version) / lineage.FILE).read_text().rstrip()


def _acceptance(registry: DraftRegistry, version: str) -> str:
    """Formats the acceptance rates of a version's profile, by temperature."""
    path = registry.path_of(version) / acceptance_profile.FILE
    if not path.is_file():
        return "–"
    cells = acceptance_profile.read(path).cells
    return ", ".join(
        f"{cell.acceptance:.2f} (T = {cell.temperature:g})" for cell in cells if cell.acceptance is not None
    )
