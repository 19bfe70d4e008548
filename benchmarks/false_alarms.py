"""`python -m benchmarks.false_alarms`: how often `watch` cries wolf, and how soon it notices a drop.

Simulates streams of requests, in numpy alone, and plays them as `watch` does. For each kind of traffic:
alarms, ever, in stationary streams; and, in 200 streams whose acceptance drops by a tenth after 20,000
requests, how many requests later the alarm comes. Every stream is compared with a reference of its own, of
500 prompts drawn from the same traffic, so that the reference's error is part of what is measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from distillspec_jax.acceptance import PartialRecord
from distillspec_jax.evaluation import alarm, reference, watching
from distillspec_jax.evaluation.reference import ALL, Reference, Threshold

ROWS = Path(__file__).parents[1] / "docs" / "results" / "demo" / "results.jsonl"
PROMPTS = 500
BEFORE, AFTER = 20_000, 20_000
DROP = 0.10
MARGIN, FALSE_ALARMS = 0.05, 0.05
_TOGETHER, _BLOCK = 50, 10_000
_POOL = 1_000_000
_INTERVAL = 50

Draw = Callable[[np.random.Generator, int, int, float], tuple[np.ndarray, np.ndarray]]
"""Draws tested and accepted drafts of `[streams, requests]`, with acceptance lower by a share."""


@dataclasses.dataclass(frozen=True)
class Traffic:
    """A kind of requests.

    Attributes:
      name: in the table.
      draw: of requests as they come; of a reference's prompts, one stream a prompt is drawn.
      per_interval: requests between two scrapes; 0: every request is seen.
      exactly: the threshold is the traffic's true acceptance, with no margin: the worst case that the
        guarantee covers.
    """

    name: str
    draw: Draw
    per_interval: int = 0
    exactly: bool = False


def demo(temperature: float) -> Draw:
    """Draws requests with replacement from the prompts that the demo's distilled draft was measured on."""
    for line in ROWS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if (row["drafter"], row["temperature"], row["block_size"]) == ("distilled", temperature, 5):
            counts = row["per_prompt"]
            tested_N, accepted_N = np.array(counts["tested"]), np.array(counts["accepted"])

    def draw(
        rng: np.random.Generator, streams: int, requests: int, drop: float
    ) -> tuple[np.ndarray, np.ndarray]:
        which = rng.integers(len(tested_N), size=(streams, requests))
        return tested_N[which], _thinned(rng, accepted_N[which], drop)

    return draw


def heavy(
    rng: np.random.Generator, streams: int, requests: int, drop: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draws lengths without a variance (Pareto, 1.3), whose long texts are accepted more often."""
    if not _pool:
        tested_N = 1 + np.minimum(rng.pareto(1.3, _POOL) * 12, 32_768).astype(np.int64)
        mean_N = np.clip(0.55 + 0.04 * np.log10(tested_N), 0, 0.8)
        _pool.extend((tested_N, rng.binomial(tested_N, rng.beta(mean_N * 6, (1 - mean_N) * 6))))
    which = rng.integers(_POOL, size=(streams, requests))
    return _pool[0][which], _thinned(rng, _pool[1][which], drop)


_pool: list[np.ndarray] = []


def sessions(
    rng: np.random.Generator, streams: int, requests: int, drop: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draws sessions of eight requests on average, which share a difficulty."""
    number = np.cumsum((rng.random((streams, requests), np.float32) < 1 / 8).astype(np.int64), axis=1)
    difficulty = rng.beta(8, 4.5, (streams, int(number.max()) + 1)).astype(np.float32)
    rate = np.take_along_axis(difficulty, number, axis=1) * (1 - drop)
    return _of_rates(rng, rate)


def wandering(
    rng: np.random.Generator, streams: int, requests: int, drop: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draws requests whose mean wanders by 2 % (one standard deviation) with a memory of 1,000 requests."""
    steps = -(-requests // 100)
    memory = np.exp(-100 / 1000)
    noise = rng.standard_normal((streams, steps)) * np.sqrt(1 - memory**2)
    level = np.empty((streams, steps))
    level[:, 0] = rng.standard_normal(streams)
    for i in range(1, steps):
        level[:, i] = memory * level[:, i - 1] + noise[:, i]
    mean = 0.64 * (1 + 0.02 * np.repeat(level, 100, axis=1)[:, :requests])
    own = (rng.random((streams, requests), np.float32) - 0.5) * 0.5
    return _of_rates(rng, np.clip(mean + own, 0, 1) * (1 - drop))


def _of_rates(rng: np.random.Generator, rate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tested = rng.integers(4, 70, rate.shape)
    return tested, rng.binomial(tested, rate)


def _thinned(rng: np.random.Generator, accepted: np.ndarray, drop: float) -> np.ndarray:
    return rng.binomial(accepted, 1 - drop) if drop else accepted


TRAFFIC = (
    Traffic("prompts of the demo, T = 1", demo(1.0)),
    Traffic("prompts of the demo, T = 1, threshold at the truth", demo(1.0), exactly=True),
    Traffic("prompts of the demo, T = 0", demo(0.0)),
    Traffic("heavy-tailed lengths", heavy),
    Traffic("sessions of 8 requests", sessions),
    Traffic("a mean that wanders by 2 %", wandering),
    Traffic("demo, T = 1, counters every 50 requests", demo(1.0), per_interval=_INTERVAL),
    Traffic("heavy-tailed lengths, counters every 50 requests", heavy, per_interval=_INTERVAL),
    Traffic("sessions of 8, counters every 50 requests", sessions, per_interval=_INTERVAL),
)


def thresholds(traffic: Traffic, rng: np.random.Generator, streams: int) -> list[Threshold]:
    """Makes a reference of `PROMPTS` prompts for each stream, and its threshold."""
    if traffic.exactly:
        tested, accepted = (x.ravel() for x in traffic.draw(rng, 2_000, 1, 0.0))
        cap = 2 * float(tested.mean())
        draws = [traffic.draw(rng, 2_000_000, 1, 0.0) for _ in range(2)]
        tested, accepted = (np.concatenate(x).ravel() for x in zip(*draws, strict=True))
        weight = np.minimum(tested, cap)
        truth = float((weight * accepted / tested).sum() / weight.sum())
        gain = alarm.gains(accepted, tested, truth, cap)
        found = dataclasses.replace(reference.of_rate(truth), cap=cap, variance=float(gain.var()))
        return [found] * streams
    found_S = []
    for _ in range(streams):
        tested, accepted = (x.ravel() for x in traffic.draw(rng, PROMPTS, 1, 0.0))
        records = [
            PartialRecord(tested=int(t), accepted=int(a)) for t, a in zip(tested, accepted, strict=True)
        ]
        made = Reference("simulated", {ALL: records})
        intervals = bool(traffic.per_interval)
        found_S.append(made.threshold(ALL, "acceptance_tested", MARGIN, FALSE_ALARMS, intervals=intervals))
    return found_S


def first_alarms(
    traffic: Traffic, rng: np.random.Generator, known_S: list[Threshold], requests: int, drop_from: int
) -> np.ndarray:
    """Plays streams; returns the request at which each alarm comes, `[S]`, or a number beyond the last."""
    level = (1.0 if traffic.exactly else 2.0) / FALSE_ALARMS
    streams, width = len(known_S), traffic.per_interval or alarm.BLOCK
    threshold_S1 = np.array([[one.value] for one in known_S])
    if traffic.per_interval:
        first, _ = traffic.draw(rng, streams, 5 * width, 0.0)  # intervals that are not played
        size_S = first.sum(1) / 5
        cap_S1 = 2 * size_S[:, None]
        prior_S = np.array([watching.interval_variance(*one) for one in zip(known_S, size_S, strict=True)])
    else:
        cap_S1 = np.array([[one.cap] for one in known_S], np.float64)
        prior_S = np.array([one.variance / alarm.BLOCK for one in known_S])
    alone_SL, blocks_SL = np.zeros((2, streams, len(alarm.BETS)))
    spread, before_S = alarm.Spread(prior_S, 0, np.zeros(streams), np.zeros(streams)), np.ones(streams)
    found_S = np.full(streams, requests + 1)
    for start in range(0, requests, _BLOCK):
        drop = DROP if start >= drop_from else 0.0
        tested_SU, accepted_SU = traffic.draw(rng, streams, min(_BLOCK, requests - start), drop)
        if traffic.per_interval:
            tested_SU, accepted_SU = (x.reshape(streams, -1, width).sum(-1) for x in (tested_SU, accepted_SU))
        gain_SU = alarm.gains(accepted_SU, tested_SU, threshold_S1, cap_S1)
        gain_SB = gain_SU if traffic.per_interval else gain_SU.reshape(streams, -1, width).mean(-1)
        variance_SB, spread = spread.foreseen(gain_SB)
        factors_SBL = alarm.block_factors(gain_SB, variance_SB, threshold_S1)
        blocks_SL, evidence_SB = alarm.advance(blocks_SL, factors_SBL, start // width + 1)
        if traffic.per_interval:
            high_SU = evidence_SB >= level
            at_S = start + (high_SU.argmax(1) + 1) * width
        else:
            factors_SUL = alarm.request_factors(gain_SU, threshold_S1)
            alone_SL, evidence_SU = alarm.advance(alone_SL, factors_SUL, start + 1)
            # A block is known at its end.
            known_SB = np.concatenate([before_S[:, None], evidence_SB], axis=1)
            number_U = np.arange(1, gain_SU.shape[1] + 1) // width
            high_SU = np.minimum(evidence_SU, known_SB[:, number_U]) >= level
            before_S, at_S = evidence_SB[:, -1], start + high_SU.argmax(1) + 1
        found_S = np.where(high_SU.any(1) & (found_S > requests), at_S, found_S)
    return found_S


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.false_alarms", description=__doc__)
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--only", type=int, help="number of a kind of traffic, from 0")
    flags = parser.parse_args(argv)
    print(
        f"| traffic | alarms in {flags.streams:,} stationary streams of {flags.requests:,} | alarm after the "
        "drop: median | 90 % within | never |\n|---|---|---|---|---|"
    )
    for number, traffic in enumerate(TRAFFIC):
        if flags.only not in (None, number):
            continue
        began, rng = time.process_time(), np.random.default_rng(20_231_012 + number)
        alarms, delays = 0, []
        for start in range(0, flags.streams, _TOGETHER):
            known_S = thresholds(traffic, rng, min(_TOGETHER, flags.streams - start))
            still = first_alarms(traffic, rng, known_S, flags.requests, flags.requests)
            alarms += int((still <= flags.requests).sum())
            if start < 200:
                total = BEFORE + AFTER
                at_S = first_alarms(traffic, rng, known_S, total, BEFORE)
                delays.append(np.where(at_S > total, np.inf, at_S - BEFORE)[at_S > BEFORE])
        delay = np.concatenate(delays)
        middle, most = (_shown(float(np.quantile(delay, q, method="higher"))) for q in (0.5, 0.9))
        never = np.isinf(delay).mean()
        print(
            f"| {traffic.name} | {alarms} ({alarms / flags.streams:.1%}) | {middle} | {most} | {never:.0%} |",
            flush=True,
        )
        print(f"{traffic.name}: {time.process_time() - began:.0f} s", file=sys.stderr, flush=True)
    return 0


def _shown(count: float) -> str:
    return "–" if np.isinf(count) else f"{count:,.0f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
