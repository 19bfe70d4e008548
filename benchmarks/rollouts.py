"""`python -m benchmarks.rollouts`: how often a rollout takes a wrong step, and how many requests it takes.

Simulates rollouts by the default stages, in numpy alone, and decides as `distillspec rollout advance` does,
by acceptance and by speed, whenever the candidate has a fifth more prompts. Prompts are those that the demo's
distilled draft was measured on at T = 1, drawn with replacement; a worse arm has accepted drafts thinned out.
Seconds a token are log-normal, and equally distributed in both arms.
"""

from __future__ import annotations

import argparse
import collections
import math
import sys
from collections.abc import Sequence

import numpy as np

from benchmarks.false_alarms import demo
from distillspec_jax.acceptance import PartialRecord
from distillspec_jax.operations.arms import MEASURES, Arm, Evidence
from distillspec_jax.operations.rollout import Settings, decide
from distillspec_jax.operations.transitions import Transition

CHANGES = (-0.2, -0.1, -0.05, -0.02, 0.0, 0.05)
"""Of the candidate's acceptance, relative to the stable draft's; -0.02 is the default margin itself."""
FIRST, MORE, MOST = 100, 1.2, 5_000
"""Prompts of the candidate at the first look, growth to the next, and when a person is asked."""
MOST_STABLE = 10_000
"""Prompts of the stable arm that are simulated in a stage; more would change nothing."""
SPREAD = 0.3
"""Of the logarithm of seconds a token."""


def main(argv: Sequence[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollouts", description=__doc__)
    parser.add_argument("--rollouts", type=int, default=100, help="of each change (default 100)")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args(argv)
    settings = Settings(most=MOST)
    print(
        "| acceptance of the candidate | took over | went back | asked a person | prompts of the candidate |"
    )
    print("|---|---|---|---|---|")
    for change in CHANGES:
        rng = np.random.default_rng([flags.seed, round(1000 * (1 + change))])
        ends: collections.Counter[str] = collections.Counter()
        prompts = []
        for _ in range(flags.rollouts):
            end, count = rollout(rng, settings, change)
            ends[end] += 1
            prompts.append(count)
        shares = " | ".join(
            f"{ends[end] / flags.rollouts:.1%}" for end in ("advance", "roll back", "escalate")
        )
        print(f"| {change:+.0%} | {shares} | {np.median(prompts):,.0f} |", flush=True)
    return 0


def rollout(rng: np.random.Generator, settings: Settings, change: float) -> tuple[str, int]:
    """Plays one rollout; returns how it ended, and how many prompts the candidate had."""
    total = 0
    for share in settings.stages:
        stage = Transition(
            revision=2, time=0.0, action="start", reason="", stable="a", candidate="b", share=share
        )
        stable = _arm(rng, min(MOST_STABLE, math.ceil(MOST * (1 - share) / share)), max(change, 0.0))
        candidate = _arm(rng, MOST, max(-change, 0.0))
        kind = "hold"
        count = FIRST
        while True:
            others = min(len(stable.records), math.ceil(count * (1 - share) / share))
            arms = (_first(stable, others), _first(candidate, count))
            # Without lines, so that the arms' sizes are not judged: the stable one's was cut.
            kind = decide(stage, settings, Evidence(*arms, MEASURES[0], None, (), {})).kind
            if kind != "hold":
                break
            count = min(MOST, math.ceil(count * MORE))
        total += count
        if kind != "advance":
            return kind, total
    return "advance", total


def _arm(rng: np.random.Generator, prompts: int, worse: float) -> Arm:
    tested, accepted = (one[0] for one in demo(1.0)(rng, 1, prompts, worse))
    records = [
        PartialRecord(tested=t, accepted=a) for t, a in zip(tested.tolist(), accepted.tolist(), strict=True)
    ]
    return Arm(records, 0.01 * rng.lognormal(0.0, SPREAD, prompts))


def _first(arm: Arm, count: int) -> Arm:
    return Arm(arm.records[:count], arm.seconds_U[:count])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
