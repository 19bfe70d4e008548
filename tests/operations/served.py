"""Lines as a server with a registry writes them, of drafts whose acceptance and speed are known."""

import json
from pathlib import Path
from typing import Any

import numpy as np


def lines(
    version: str,
    count: int,
    rate: float,
    *,
    revision: int | None = 1,
    seed: int = 0,
    seconds: float = 0.01,
    wait: float | None = None,
    **more: Any,
) -> list[dict[str, Any]]:
    """Makes answers to different prompts.

    Args:
      version: that answered.
      rate: acceptance, around which that of prompts varies.
      seconds: a token, in the median.
      wait: for a slot, in a line that tells its decoding apart; None: of one that does not.
      more: fields of every line.
    """
    rng = np.random.default_rng([seed, *version.encode()])
    found = []
    for number in range(count):
        tested = int(rng.integers(10, 60))
        accepted = int(rng.binomial(tested, rng.beta(12 * rate, 12 * (1 - rate))))
        rounds = tested - accepted
        decoding = float(seconds * rng.lognormal(0, 0.3) * (accepted + rounds))
        line = {
            "inputs": f"{version}: prompt {seed}.{number}",
            "emitted_tokens": accepted + rounds,
            "target_calls": rounds,
            "tested": tested,
            "accepted": accepted,
            "drafted": 5 * rounds + tested,
            "draft_version": version,
            "latency_s": decoding + (wait or 0.0),
            **({} if wait is None else {"decoding_s": decoding}),
            **({} if revision is None else {"registry_revision": revision}),
            **more,
        }
        found.append(line)
    return found


def write(path: Path, *parts: list[dict[str, Any]]) -> str:
    """Writes a log of several parts, in turns."""
    whole = [line for part in parts for line in part]
    order = np.random.default_rng(0).permutation(len(whole))
    path.write_text("".join(json.dumps(whole[i]) + "\n" for i in order))
    return str(path)
