"""Writes the prompts of a draft for SmolLM2: the task `open_prompts`, and mixtures with two others.

The task's rows are requests that the target wrote itself; the training split is one seed's, the others are
another's less what the first has, whatever its case and spaces:

    distillspec prompts --model=zoo:smollm2/target --limit=5000 --temperature=0.7 --seed=1 --batch_size=32 \\
        --output=runs/smollm2/own.jsonl
    distillspec prompts --model=zoo:smollm2/target --limit=400 --temperature=0.7 --seed=2 --batch_size=32 \\
        --output=runs/smollm2/held_out.jsonl
    python -m distillspec_jax.showcase.smollm2_prompts --own=runs/smollm2/own.jsonl \\
        --held_out=runs/smollm2/held_out.jsonl

The mixture is shuffled, and rows carry their task's prefix, as `--task=… --chat` would give it:

    python -m distillspec_jax.showcase.smollm2_prompts --split=train --output=runs/smollm2/prompts.jsonl
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import random
from collections.abc import Iterable
from pathlib import Path

from distillspec_jax import files
from distillspec_jax.data import catalog
from distillspec_jax.generation.own_prompts import key_of

ROWS = {
    "train": {"open_prompts": 5000, "gsm_symbolic": 2500, "wiki_leads": 1500},
    "validation": {"open_prompts": 96, "gsm_symbolic": 32, "wiki_leads": 32},
}
"""Prompts of each task in a mixture, by split."""
LONGEST = 110
"""Words; what is longer would be cut, and its turn of the template with it."""
SEED = 0


def mixture(split: str) -> list[str]:
    """The first prompts of each task that are short enough, shuffled."""
    found: list[str] = []
    for task, count in ROWS[split].items():
        spec = catalog.find_task(task)
        texts = (spec.prefix + row["inputs"] for row in catalog.read_rows(spec, split))
        short = (text for text in texts if len(text.split()) <= LONGEST)
        found += itertools.islice(short, count)
    random.Random(SEED).shuffle(found)
    return found


def write_task(own: Path, held_out: Path, folder: Path = catalog.CORPORA) -> None:
    """Writes the files of `open_prompts`."""
    train, others = _read(own), _read(held_out)
    known = set(map(key_of, train))
    fresh = [text for text in others if key_of(text) not in known]
    count = ROWS["validation"]["open_prompts"]
    for split, texts in {"train": train, "validation": fresh[:count], "test": fresh[count:]}.items():
        content = gzip.compress(_lines(texts).encode(), mtime=0)
        files.write_whole(folder / f"open_prompts.{split}.jsonl.gz", content)


def _read(path: Path) -> list[str]:
    return [row["inputs"] for _, row in files.json_lines(files.read_lines(path), path)]


def _lines(texts: Iterable[str]) -> str:
    return "".join(files.as_json({"inputs": text}) + "\n" for text in texts)


def main() -> None:
    """Writes the task or a mixture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--own", type=Path)
    parser.add_argument("--held_out", type=Path)
    parser.add_argument("--split", choices=ROWS)
    parser.add_argument("--output", type=Path)
    flags = parser.parse_args()
    if flags.own and flags.held_out:
        write_task(flags.own, flags.held_out)
    elif flags.split and flags.output:
        files.write_whole(flags.output, _lines(mixture(flags.split)))
    else:
        parser.error("give --own and --held_out, or --split and --output")


if __name__ == "__main__":
    main()
