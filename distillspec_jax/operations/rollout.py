"""A rollout: a version takes over in stages, each on sequential evidence; the registry is its only state.

A step is decided on the traffic since the start of the stage, and recorded for the revision that it was
decided on. A process killed at any moment has either taken the step or not, and the same evidence never
causes it twice. The probability that a rollout ever takes a wrong step in one direction is at most
`false_steps`, regardless of the number of looks.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

from distillspec_jax import schema
from distillspec_jax.decoding import rules
from distillspec_jax.errors import UsageError, check_number, find
from distillspec_jax.evaluation import results
from distillspec_jax.operations import two_arms
from distillspec_jax.operations.arms import UNDRAFTED, Evidence
from distillspec_jax.operations.draft_registry import DraftRegistry
from distillspec_jax.operations.transitions import Action, Transition
from distillspec_jax.operations.two_arms import Bounds, Comparison
from distillspec_jax.schema import Amount, Share, Size

STAGES = (0.01, 0.1, 0.5)
"""Successive shares of the requests; after the last the candidate becomes the stable draft."""
Kind = Literal["advance", "hold", "roll back", "escalate", "none"]
_REFERENCE = 50
"""First requests of the stable arm, whose median is the speed threshold; they are not compared."""
_MISROUTED = 0.2
"""Relative difference of the candidate's share from the registry's that indicates wrong routing."""
_MISROUTED_LEVEL = 1_000.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a rollout, recorded at its start.

    Attributes:
      stages: shares, each larger than the previous one.
      margin: tolerated relative loss of acceptance.
      slower: tolerated relative loss of speed.
      false_steps: probability that the rollout ever advances, or ever rolls back, wrongly.
      least: minimum prompts of the candidate in a stage before it advances.
      most: prompts of the candidate in a stage after which a person must decide.
      lossy: a rule that changes the texts, and its known quality; None: no such rule may serve.

    Raises:
      UsageError: a value is out of range.
    """

    stages: list[Share] = dataclasses.field(default_factory=lambda: list(STAGES))
    margin: Amount = 0.02
    slower: Amount = 0.1
    false_steps: Share = 0.05
    least: Size = 100
    most: Size = 200_000
    lossy: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.stages or len(self.stages) > 20:
            raise UsageError(f"--stages: {len(self.stages)} shares, must be from 1 to 20")
        pairs = zip([0.0, *self.stages], self.stages, strict=False)
        if not all(0 <= below < share < 1 for below, share in pairs):
            told = ",".join(f"{share:g}" for share in self.stages)
            raise UsageError(f"--stages={told}: each must be larger than the one before, and lie in (0, 1)")
        check_number("--margin", self.margin, 0, most=0.9, whole=False)
        check_number("--slower", self.slower, 0, most=10, whole=False)
        check_number("--false_steps", self.false_steps, 1e-6, most=0.5, whole=False)
        check_number("--least", self.least, 5, most=10**9)
        check_number("--most", self.most, self.least, most=10**9)

    @property
    def level(self) -> float:
        """The wealth at which a bound excludes a mean, for two arms and two criteria per stage."""
        return 4 * len(self.stages) / self.false_steps


@dataclasses.dataclass(frozen=True)
class Decision:
    """A decision.

    Attributes:
      kind: the step to take; `none`: no rollout is in progress.
      reason: in one line.
      evidence: for the history.
    """

    kind: Kind
    reason: str
    evidence: dict[str, Any] = dataclasses.field(default_factory=dict)


def start(registry: DraftRegistry, version: str, settings: Settings, reason: str) -> Transition:
    """Gives a version the first share of the requests.

    Raises:
      UsageError: it is damaged, is the stable version, or another one is being rolled out.
    """
    registry.check(version)
    last = registry.history.last
    if last.candidate is not None:
        raise UsageError(
            f"version {last.candidate} is being rolled out, at {last.share:.0%}: abort that first"
        )
    return registry.change(
        "start",
        reason,
        candidate=version,
        share=settings.stages[0],
        expected=last.revision,
        details={"settings": dataclasses.asdict(settings)},
    )


def settings_of(registry: DraftRegistry) -> Settings | None:
    """Returns the settings of the rollout in progress; None if there is none.

    Raises:
      UsageError: they are damaged.
    """
    under_way = registry.history.rollout()
    if not under_way:
        return None
    found = under_way[0].details.get("settings", {})
    return schema.read(Settings, found, f"{registry.path}, the rollout's settings")


def decide(stage: Transition, settings: Settings, evidence: Evidence) -> Decision:
    """Decides on a stage.

    Args:
      stage: the transition in force.
      evidence: of the traffic since then.
    """
    if stage.action == "escalate":
        return Decision("escalate", f"a person must decide: {stage.reason}")
    top_S, bottom_S = evidence.counts(evidence.stable)
    top_C, bottom_C = evidence.counts(evidence.candidate)
    arms = [
        two_arms.bounds(top_U, bottom_U, settings.level)
        for top_U, bottom_U in ((top_S, bottom_S), (top_C, bottom_C))
    ]
    acceptance = two_arms.compare(arms[0], arms[1], settings.margin)
    speed = _speed(settings, evidence)
    told = [f"acceptance {arms[1]} against {arms[0]}"]
    if speed is not None and speed.candidate.units:
        told.append(f"{speed.candidate.value:.1%} against {speed.stable.value:.1%} of requests are fast")
    facts: dict[str, Any] = {
        "measure": evidence.measure,
        "acceptance": _facts(acceptance),
        "speed": None if speed is None else _facts(speed),
        "set_aside": {**evidence.notes, **_undrafted(evidence, top_S, top_C)},
    }
    shown = "; ".join(told)

    def decided(kind: Kind, why: str) -> Decision:
        return Decision(kind, f"{why}: {shown}", facts)

    allowed = (settings.lossy or {}).get("rule")
    strange = [rule for rule in evidence.lossy if rule != allowed]
    if strange:
        return decided("escalate", f"the rule {strange[0]!r} served, which changes the texts")
    if (routed := _misrouted(stage, evidence)) is not None:
        return decided("escalate", routed)
    if acceptance.worse:
        return decided("roll back", f"acceptance is worse by more than {settings.margin:.1%}")
    if speed is not None and speed.worse:
        return decided("roll back", f"requests are slower by more than {settings.slower:.0%}")
    units = arms[1].units
    waits_for_speed = speed is None and len(evidence.stable.seconds_U) > 0
    sound = acceptance.sound and (speed.sound if speed is not None else not waits_for_speed)
    if sound and units >= settings.least:
        return decided("advance", "no worse")
    if units >= settings.most:
        return decided("escalate", f"undecided after {units:,} prompts of the candidate")
    if not units and arms[0].units >= settings.most:
        return decided("escalate", f"the candidate has answered nothing in {arms[0].units:,} prompts")
    return decided("hold", "not enough to tell")


def act(registry: DraftRegistry, stage: Transition, settings: Settings, decision: Decision) -> Transition:
    """Takes the decided step, at most once.

    Args:
      stage: the transition that the decision is based on.

    Returns:
      The transition in force afterwards.

    Raises:
      UsageError: another step was taken meanwhile, or the version is damaged.
    """
    details = {"evidence": decision.evidence}

    def change(action: Action, **serving: Any) -> Transition:
        return registry.change(action, decision.reason, expected=stage.revision, details=details, **serving)

    if decision.kind == "roll back":
        return change("withdraw")
    if decision.kind == "escalate" and stage.action != "escalate":
        return change("escalate", candidate=stage.candidate, share=stage.share)
    if decision.kind != "advance":
        return stage
    larger = [share for share in settings.stages if share > stage.share]
    if larger:
        return change("advance", candidate=stage.candidate, share=larger[0])
    registry.check(str(stage.candidate))
    return change("promote", stable=stage.candidate)


def resume(registry: DraftRegistry, reason: str) -> Transition:
    """Resumes after an escalation; the stage starts again.

    Raises:
      UsageError: there was no escalation.
    """
    last = registry.history.last
    if last.action != "escalate":
        raise UsageError(f"{registry.path}: no rollout waits for a person")
    return registry.change(
        "resume", reason, candidate=last.candidate, share=last.share, expected=last.revision
    )


def abort(registry: DraftRegistry, reason: str) -> Transition:
    """Withdraws the candidate.

    Raises:
      UsageError: there is none.
    """
    last = registry.history.last
    if last.candidate is None:
        raise UsageError(f"{registry.path}: no rollout is under way")
    return registry.change("withdraw", reason, expected=last.revision)


def lossy(rule: str, quality: str) -> dict[str, Any]:
    """Describes a rule that changes the texts, with the quality that a sweep measured in each of its cells.

    Args:
      rule: `NAME` or `NAME:EPSILON`, as in rows.
      quality: `results.jsonl` of a sweep with that rule.

    Raises:
      UsageError: the rule is exact or unknown, or the sweep has no quality for it.
    """
    if find("rule", rule.partition(":")[0], rules.RULES).exact:
        raise UsageError(f"--lossy={rule}: that rule is exact: leave the flag out")
    cells: list[dict[str, Any]] = []
    for group in results.groups(results.read([quality])):
        for row in group:
            if row.is_drafted and row.verifier == rule and row.primary_metric in row.quality:
                metric = str(row.primary_metric)
                plain = [one for one in group if not one.is_drafted and one.temperature == row.temperature]
                without = plain[0].quality.get(metric) if plain else None
                name = f"{row.task}, T={row.temperature:g}, {row.drafter}, block size {row.block_size}"
                measured = {"metric": metric, "value": row.quality[metric], "without": without}
                cells.append({"cell": name, **measured})
    if not cells:
        raise UsageError(f"{quality} has no row of the rule {rule!r} with a task's metric: sweep with it")
    return {"rule": rule, "quality": quality, "cells": cells}


def _speed(settings: Settings, evidence: Evidence) -> Comparison | None:
    """Compares seconds per token; None until the stable arm has enough requests for a threshold."""
    stable_U, candidate_U = evidence.stable.seconds_U, evidence.candidate.seconds_U
    if len(stable_U) <= _REFERENCE:
        return None
    threshold = float(np.median(stable_U[:_REFERENCE]))
    return two_arms.compare_seconds(
        stable_U[_REFERENCE:], candidate_U, threshold, settings.slower, settings.level
    )


def _misrouted(stage: Transition, evidence: Evidence) -> str | None:
    """Reports that the candidate's share certainly differs from the registry's; None if it may agree."""
    if evidence.lines is None:
        return None
    # Count all lines, not prompts: an arm with few requests has fewer repeated prompts.
    stable, candidate = evidence.lines
    if not candidate:  # its requests may still be pending
        return None
    ones_U = np.repeat([0.0, 1.0], [stable, candidate])
    found = two_arms.bounds(ones_U, np.ones(len(ones_U)), _MISROUTED_LEVEL, whole=1.0)
    share = float(stage.share)
    if found.low > share * (1 + _MISROUTED) or found.high < share * (1 - _MISROUTED):
        return f"the candidate got {found.value:.1%} of the requests, not {share:.1%}"
    return None


def _undrafted(evidence: Evidence, top_S: np.ndarray, top_C: np.ndarray) -> dict[str, int]:
    records = len(evidence.stable.records) + len(evidence.candidate.records)
    missing = records - len(top_S) - len(top_C)
    return {UNDRAFTED: missing} if missing else {}


def _facts(found: Comparison) -> dict[str, Any]:
    def of(arm: Bounds) -> dict[str, Any]:
        return {"units": arm.units, "value": arm.value, "bounds": [arm.low, arm.high]}

    return {"stable": of(found.stable), "candidate": of(found.candidate)}


def described(registry: DraftRegistry) -> list[str]:
    """Describes what serves in one line, and in others the known quality of a rule that changes texts."""
    last, settings = registry.history.last, settings_of(registry)
    if settings is None:
        return [f"{registry.path}: revision {last.revision}, {last.action}: {last.stable} serves all"]
    share = f"{last.candidate} {last.share:.0%}, {last.stable} the rest"
    lines = [f"{registry.path}: revision {last.revision}, {last.action}: {share}"]
    if settings.lossy is not None:
        known = settings.lossy
        for one in known.get("cells", [known]):  # a rollout begun by 0.2 has one
            told = f"{one.get('metric')} {one.get('value')} with it, {one.get('without')} without"
            where = f" ({one['cell']})" if "cell" in one else ""
            lines.append(f"the rule {known.get('rule')} changes the texts: {told}{where}")
    return lines
