"""Writes the prompts on which SmolLM2's shipped draft was trained: the target's own, and those of two tasks.

    distillspec prompts --model=runs/smollm2/target --limit=5000 --temperature=0.7 --seed=1 \\
        --output=runs/smollm2/own.jsonl
    python -m distillspec_jax.showcase.smollm2_prompts --own=runs/smollm2/own.jsonl \\
        --output=runs/smollm2/prompts.jsonl

Rows of the tasks' training splits carry their prefix, as `--task=… --chat` would give it; prompts of
`--held_out` are left out, whatever their case and spaces.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from distillspec_jax import files
from distillspec_jax.data import catalog

ROWS = {"gsm_symbolic": 2500, "wiki_leads": 1500}
"""Prompts of each task."""
LONGEST = 110
"""Words; what is longer would be cut, and its turn of the template with it."""
SEED = 0


def of_task(task: str, count: int) -> list[str]:
    """The first prompts of a task's training split that are short enough."""
    spec = catalog.find_task(task)
    texts = (spec.prefix + row["inputs"] for row in catalog.read_rows(spec, "train"))
    short = (text for text in texts if len(text.split()) <= LONGEST)
    return [text for text, _ in zip(short, range(count), strict=False)]


def own(path: Path, held_out: Path | None) -> Iterator[str]:
    """The target's own prompts, less those that are held out."""
    kept = {_key(text) for text in _read(held_out)} if held_out else set()
    return (text for text in _read(path) if _key(text) not in kept)


def _read(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [
        files.parse_json_object(line, f"{path}:{number}")["inputs"] for number, line in enumerate(lines, 1)
    ]


def _key(text: str) -> str:
    return " ".join(text.casefold().split())


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(
        prog="python -m distillspec_jax.showcase.smollm2_prompts", description=__doc__
    )
    parser.add_argument("--own", type=Path, required=True, help="written by `distillspec prompts`")
    parser.add_argument("--held_out", type=Path, help="likewise, by another seed")
    parser.add_argument("--output", type=Path, required=True)
    flags = parser.parse_args()
    prompts = [*own(flags.own, flags.held_out)]
    for task, count in ROWS.items():
        prompts += of_task(task, count)
    random.Random(SEED).shuffle(prompts)
    files.write_whole(flags.output, "".join(files.as_json({"inputs": text}) + "\n" for text in prompts))
    print(f"{len(prompts):,} prompts in {flags.output}")


if __name__ == "__main__":
    main()
