"""`python -m benchmarks.causes --task=TASK --draft=NAME ...`: on whose texts is which draft accepted?

The texts are held-out references, and texts that the target, the initial draft and every given draft sample
at temperature 1 on the same prompts. Of each draft on each kind of text: acceptance 1 - TVD and both
networks' entropies in nats, pooled over tokens, with the share of texts that end before the limit and the
tokens a text. Intervals are over texts. It trains nothing: minutes.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax import files
from distillspec_jax.cli import errors
from distillspec_jax.data.data_config import DataConfig
from distillspec_jax.distillation import chunks
from distillspec_jax.distillation.deployment import Deployment
from distillspec_jax.distillation.expected_acceptance import SAMPLED, entropy, overlap
from distillspec_jax.distillation.sources import sampled_batch
from distillspec_jax.errors import UsageError, check_number, nearest
from distillspec_jax.evaluation import paired
from distillspec_jax.models import pretrained
from distillspec_jax.models.interface import Batch, LanguageModel
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.shapes import Array, Params
from distillspec_jax.showcase.recipes import RECIPES
from distillspec_jax.vocabulary import Vocabulary

ROWS, SEED = 24, 0
REFERENCES, TARGET = "references", "target"
MEASURES: Mapping[str, str] = {
    "acceptance": "tokens",
    "target_entropy": "tokens",
    "draft_entropy": "tokens",
    "ended": "texts",
    "tokens": "texts",
}
"""What is measured, and the sum that it is divided by."""

Sums = dict[str, np.ndarray]
"""Values of each text, `[N]`: sums over its tokens, their number, whether it ended, and 1."""


def prompts(task: str, reader: str, split: str, limit: int) -> tuple[list[Batch], Vocabulary]:
    """Reads a split's first prompts and references as a model does, as long as the task's recipe has them."""
    from distillspec_jax.data import features

    data = DataConfig(task, RECIPES[task].lengths).read_by(reader)
    batches = features.eval_batches(
        task, split=split, lengths=data.lengths, batch_size=ROWS, limit=limit, reader=data.reader
    )
    return [jax.tree.map(jnp.asarray, batch) for batch in batches], data.tokenizer().vocabulary


_draw = functools.partial(jax.jit, static_argnames=("model", "sampling", "vocabulary"))(sampled_batch)


def drawn(
    writer: Pretrained, batches: Sequence[Batch], sampling: Deployment, vocabulary: Vocabulary
) -> list[Batch]:
    """Lets a network write texts on the prompts of batches, under a fixed seed."""
    return [
        _draw(
            model=writer.model,
            params=writer.params,
            batch=batch,
            key=jax.random.fold_in(jax.random.key(SEED), i),
            sampling=sampling,
            vocabulary=vocabulary,
        )
        for i, batch in enumerate(batches)
    ]


@functools.partial(jax.jit, static_argnames=("target", "draft", "sampling", "vocabulary"))
def of_batch(
    target: LanguageModel,
    target_params: Params,
    draft: LanguageModel,
    params: Params,
    batch: Batch,
    sampling: Deployment,
    vocabulary: Vocabulary,
) -> dict[str, Array]:
    """Computes `Sums` of a batch's rows, `[B]`; those of an empty row are 0."""
    tokens_BT, mask_BT = batch["decoder_target_tokens"], batch["decoder_loss_weights"] > 0

    def of_tokens(hidden: tuple[Array, Array]) -> dict[str, Array]:
        logits = target.readout(target_params, hidden[0]), draft.readout(params, hidden[1])
        names = "target_entropy", "draft_entropy"
        entropies = {name: entropy(x, vocabulary) for name, x in zip(names, logits, strict=True)}
        return {"acceptance": overlap(*logits, sampling, vocabulary), **entropies}

    hidden = target.hidden(target_params, batch), draft.hidden(params, batch)
    count = chunks.parts(mask_BT.shape[0], mask_BT.shape[1], draft.vocab_size)
    found = chunks.of_tokens(of_tokens, hidden, count)
    ends_BT = mask_BT & jnp.isin(tokens_BT, jnp.asarray(vocabulary.eos_ids))
    return {
        **{name: jnp.sum(jnp.where(mask_BT, value_BT, 0.0), axis=1) for name, value_BT in found.items()},
        "ended": jnp.any(ends_BT, axis=1).astype(jnp.float32),
        "tokens": jnp.sum(mask_BT, axis=1).astype(jnp.float32),
        "texts": jnp.any(mask_BT, axis=1).astype(jnp.float32),
    }


def of_texts(
    target: Pretrained,
    draft: Pretrained,
    texts: Sequence[Batch],
    vocabulary: Vocabulary,
    sampling: Deployment = SAMPLED,
) -> Sums:
    """Measures a draft on texts, one value a text; rows that fill a last batch are left out."""
    pair = target.model, target.params, draft.model, draft.params
    found = [jax.device_get(of_batch(*pair, batch, sampling, vocabulary)) for batch in texts]
    whole = {name: np.concatenate([of_one[name] for of_one in found]) for name in found[0]}
    return {name: values[whole["texts"] > 0] for name, values in whole.items()}


def rows(
    target: Pretrained, drafts: Sequence[Pretrained], batches: Sequence[Batch], vocabulary: Vocabulary
) -> Iterator[dict[str, Any]]:
    """Measures every draft on every kind of text: a row each, its values with their intervals' ends."""
    for writer in (None, target, *drafts):
        name = REFERENCES if writer is None else TARGET if writer is target else writer.name
        texts = batches if writer is None else drawn(writer, batches, SAMPLED, vocabulary)
        for draft in drafts:
            sums = of_texts(target, draft, texts, vocabulary)
            values = {x: list(paired.ratio(sums[x], sums[below])) for x, below in MEASURES.items()}
            yield {"texts": name, "draft": draft.name, "number": len(sums["texts"]), **values}


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Writes rows in Markdown."""
    lines = ["| texts of | draft | " + " | ".join(MEASURES) + " |", "|---|---|" + "---|" * len(MEASURES)]
    for row in found:
        values = (
            format(paired.Interval(*row[name]), ".1f" if name == "tokens" else ".3f") for name in MEASURES
        )
        lines.append(f"| {row['texts']} | {row['draft']} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.causes", description=__doc__)
    parser.add_argument("--task", required=True, help=f"of {', '.join(RECIPES)}")
    parser.add_argument("--target", metavar="MODEL", help="default: the zoo's of the task")
    parser.add_argument("--initial", metavar="MODEL", help="the initial draft; default: the zoo's")
    parser.add_argument("--draft", action="append", default=[], metavar="MODEL", help="repeatable")
    parser.add_argument("--split", default="validation", help="of the prompts (default: validation)")
    parser.add_argument("--prompts", type=int, default=96, help="of the split (default: 96)")
    parser.add_argument("--output", type=Path, default=Path("runs/causes.json"))
    flags = parser.parse_args(argv)
    if flags.task not in RECIPES:
        raise UsageError(f"no recipe for task {flags.task!r}: {nearest(flags.task, RECIPES)}")
    check_number("--prompts", flags.prompts, 1)
    recipe = RECIPES[flags.task]
    target = pretrained.load(flags.target or recipe.target)
    names = dict.fromkeys((flags.initial or recipe.draft, *flags.draft))
    drafts = [pretrained.load(name) for name in names]
    for draft in drafts:
        pretrained.check_pair(target, draft)
    batches, vocabulary = prompts(flags.task, target.name, flags.split, flags.prompts)
    found = list(rows(target, drafts, batches, vocabulary))
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(flags.output, found)
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="causes"))
