"""`python -m benchmarks.targets`: what targets can do, beside drafts, copies of the input and references.

Greedy text on the test splits: the task's metric, its difference to the target's by example (paired 95 %
intervals; BLEU by sentence), the loss of the references, and how much the text repeats itself: the share of
texts in which four words in a row come twice, and distinct bigrams over all.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distillspec_jax.cli import errors
from distillspec_jax.data import catalog, text_metrics
from distillspec_jax.data.examples import examples
from distillspec_jax.evaluation import held_out, paired
from distillspec_jax.models import pretrained

REFERENCES, COPY = "references", "copy of the input"
PAIRS = (("zoo:target", "zoo:draft"), ("zoo:decoder_target", "zoo:decoder_draft"))


@dataclasses.dataclass(frozen=True)
class Line:
    """One row of the table.

    Attributes:
      task, writer: whose texts.
      metric, value: the task's primary metric over all texts; None of the references.
      behind: the target's mean score less this one's, an interval by example; None of the target's own.
      repeating: share of texts with a repeated 4-gram of words.
      distinct_2: see `text_metrics.distinct`.
      nll: of the references, nats a token.
      words: a text, in the mean.
    """

    task: str
    writer: str
    metric: str | None
    value: float | None
    behind: list[float] | None
    repeating: float
    distinct_2: float
    nll: float | None
    words: float


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.targets", description=__doc__)
    parser.add_argument("--target", help="in place of the zoo's; with --draft")
    parser.add_argument("--draft", action="append", help="any number of them")
    parser.add_argument("--tasks", default=",".join(catalog.EMBEDDED_TASKS))
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, help="examples of a task (default: all)")
    parser.add_argument("--output", type=Path, help="also as JSON")
    flags = parser.parse_args(argv)
    chosen = [(flags.target, *(flags.draft or ()))] if flags.target else list(PAIRS)
    found = [
        line
        for models in chosen
        for task in flags.tasks.split(",")
        for line in lines(task, models, flags.split, flags.limit)
    ]
    print(table(found))
    if flags.output:
        flags.output.write_text(json.dumps([dataclasses.asdict(line) for line in found], indent=1) + "\n")
    return 0


def lines(task: str, models: Sequence[str], split: str, limit: int | None) -> list[Line]:
    """Measures the models, of which the first is the target, and what stands beside them."""
    rows = examples(task, split=split, limit=limit)
    primary = text_metrics.find_metric(catalog.find_task(task).metric).primary
    copied, corpus = held_out.copy_baseline(task, split=split, limit=limit)
    measured = {
        name: held_out.measure(pretrained.load(name), task, split=split, limit=limit) for name in models
    }
    target = measured[models[0]]

    def line(
        writer: str, texts: list[str], scores: np.ndarray | None, value: float | None, nll: float | None
    ) -> Line:
        behind = None
        if scores is not None and scores is not target.scores:
            behind = list(paired.difference_of_means(target.scores, scores).ends or ())
        return Line(
            task,
            writer,
            primary,
            value,
            behind,
            repeating=float(np.mean([text_metrics.repeats(text) for text in texts])),
            distinct_2=text_metrics.distinct(texts, 2),
            nll=nll,
            words=float(np.mean([len(text.split()) for text in texts])),
        )

    assert primary is not None, task
    return [
        *(
            line(name, one.outputs, one.scores, one.corpus[primary], one.loss.value)
            for name, one in measured.items()
        ),
        line(COPY, [row.inputs_text for row in rows], copied, corpus[primary], None),
        line(REFERENCES, [row.targets_text for row in rows], None, None, None),
    ]


def table(found: Sequence[Line]) -> str:
    """All lines in Markdown."""
    rows = [
        "| task | text of | metric | target less this | repeats | distinct-2 | words | nats a token |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in found:
        value = "" if line.value is None else f"{line.metric} {line.value:.1f}"
        behind = "{:.1f} to {:.1f}".format(*line.behind) if line.behind else ""
        nll = "" if line.nll is None else f"{line.nll:.3f}"
        style = f"{line.repeating:.0%} | {line.distinct_2:.2f} | {line.words:.0f}"
        rows.append(f"| `{line.task}` | {line.writer} | {value} | {behind} | {style} | {nll} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(errors.run(main, command="benchmarks.targets"))
