"""Results as a sweep would write them, from a simulated decoder whose every number is known in
distribution."""

from __future__ import annotations

from typing import Any

import numpy as np

from distillspec_jax.decoding import Completion
from distillspec_jax.evaluation.measured import Measured
from distillspec_jax.evaluation.prompts import Quality
from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.evaluation.rows import autoregressive_row, drafted_row
from distillspec_jax.evaluation.timing import Timing

ACCEPTANCE = {"supervised": 0.62, "control": 0.63, "distilled": 0.74}
LENGTH = 60


def decode(acceptance: float, block_size: int, rng: np.random.Generator) -> Completion:
    """One prompt of `LENGTH` tokens whose drafts are accepted independently; block size 0 has none."""
    emitted = calls = cut = 0
    tested, accepted = [0] * block_size, [0] * block_size
    while emitted < LENGTH:
        calls += 1
        room = min(block_size, LENGTH - emitted)
        passed = int(np.argmin(np.append(rng.random(room) < acceptance, False)))
        for i in range(min(passed + 1, room)):
            tested[i] += 1
            accepted[i] += i < passed
        emitted += passed
        if emitted < LENGTH:
            emitted += 1
        else:
            cut += 1
    return Completion(tuple(range(2, LENGTH + 2)), "length", calls, cut, tuple(tested), tuple(accepted))


def measured(acceptance: float, block_size: int, prompts: int, seed: int, hardness: np.ndarray) -> Measured:
    """All prompts, half of them timed: 2 ms a verify pass of one token, a tenth more for each draft."""
    rng = np.random.default_rng(seed)
    found = [decode(float(np.clip(acceptance + h, 0, 1)), block_size, rng) for h in hardness[:prompts]]
    timed = found[: prompts // 2]
    noise = rng.lognormal(0, 0.03, len(timed))
    seconds = np.array([0.002 * (1 + 0.12 * block_size) * c.target_calls for c in timed]) * noise
    return Measured(found, Timing([[c] for c in timed], seconds[None], 0.5))


def rows(
    prompts: int = 40, block_sizes: tuple[int, ...] = (1, 3, 5, 7), seed: int = 0, **more: object
) -> list[ResultRow]:
    """The grid of three drafters at T = 0 and 1; prompts differ in how predictable they are."""
    hardness = np.random.default_rng(seed).normal(0, 0.08, prompts)
    shared: dict[str, Any] = {
        "task": "wiki_leads",
        "split": "test",
        "target": "zoo:wiki_leads/target",
        "verifier": "token",
        "top_k": 0,
        "top_p": 1.0,
        "batch_size": 1,
        "seed": 0,
        "prompts": prompts,
        "prompts_digest": "0123456789abcdef",
        "max_new_tokens": 128,
        "timing_prompts": prompts // 2,
        "repeats": 2,
        "device": "cpu: 1 × cpu, 2 CPU cores",
        "version": "0.1.0",
        "command": "distillspec demo",
        "git_revision": "abc1234",
        "fingerprint": "f",
    } | more
    quality = Quality("rougeL", {"rouge1": 22.0, "rougeL": 19.5}, [19.5] * prompts)
    made = []
    for temperature in (0.0, 1.0):
        baseline = measured(0.0, 0, prompts, 1, hardness)
        same = prompts if temperature == 0 else None
        cell = {**shared, "temperature": temperature, "matches_autoregressive": same}
        made.append(autoregressive_row(baseline, quality, cell))
        for i, (label, acceptance) in enumerate(ACCEPTANCE.items()):
            for size in block_sizes:
                drafted = measured(acceptance - 0.03 * temperature, size, prompts, 10 * i + size, hardness)
                own = {**cell, "drafter_path": f"runs/demo/{label}"}
                made.append(drafted_row(label, size, 0.1, drafted, baseline, quality, own))
    return made
