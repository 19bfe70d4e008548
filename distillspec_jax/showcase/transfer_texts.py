"""Writes the transfer test: tasks that no model of the zoo was trained on, 64 prompts of each.

    pip install reasoning-gym==0.1.25
    python -m distillspec_jax.showcase.transfer_texts

The generators are those of `reasoning-gym` (Apache-2.0) with short questions and answers, but neither
`gsm_symbolic`, which is trained on, nor those that quote books. Their rows are taken in turns, so that the
first rows of the file are drawn from all of them alike.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

from distillspec_jax.data.catalog import CORPORA

GENERATORS = (
    "aiw",
    "base_conversion",
    "basic_arithmetic",
    "calendar_arithmetic",
    "chain_sum",
    "complex_arithmetic",
    "count_bits",
    "count_primes",
    "family_relationships",
    "gcd",
    "lcm",
    "leg_counting",
    "number_sequence",
    "simple_equations",
    "simple_geometry",
    "syllogism",
    "time_intervals",
    "word_ladder",
)
ROWS = 64
"""Prompts of each generator."""
SEED = 20_231_012
FILE = CORPORA / "reasoning_gym.test.jsonl.gz"


def rows() -> Iterator[dict[str, str]]:
    """The rows of all generators in turns; a question occurs once."""
    import reasoning_gym

    known: set[str] = set()
    found = []
    for name in GENERATORS:
        made = reasoning_gym.create_dataset(name, size=4 * ROWS, seed=SEED)
        drawn = {made[i]["question"]: str(made[i]["answer"]) for i in range(len(made))}
        fresh = [(name, *row) for row in drawn.items() if row[0] not in known]
        known |= drawn.keys()
        found.append(fresh[:ROWS])
    for turn in zip(*found, strict=True):
        for name, question, answer in turn:
            yield {"generator": name, "question": question, "answer": answer}


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=FILE)
    flags = parser.parse_args()
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows())
    flags.output.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    main()
