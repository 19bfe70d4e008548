"""`distillspec draft`: a draft made of some of its target's layers, to be distilled."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import CommandParser, list_of
from distillspec_jax.errors import UsageError
from distillspec_jax.terminal import say

if TYPE_CHECKING:
    from distillspec_jax.model_card import ModelCard

HELP = """Makes a draft from some of a target's layers, with its width, embedding and tokenizer. Without
--output it prints choices: the cost c of each (its bytes over the target's), and the memory-bound speed-up
(MBSU) that it would reach at several acceptance rates, with the best block size.

  distillspec draft --target=runs/smollm2/target
  distillspec draft --target=runs/smollm2/target --layers=0,1,28,29 --output=runs/draft

The embedding is most of a small draft. --embedding_rank=R factorises it into two matrices of rank R:

  distillspec draft --target=runs/smollm2/target --layers=0,1,28,29 --embedding_rank=192 \\
      --output=runs/draft

If a draft spends most of its time on logits, let it propose only the likeliest ids, as counted in a set
written by `distillspec collect`; the output's distribution stays the same. Further distillation on stored
log-probabilities uses only these ids and takes less time; any other training ignores the list and does
not keep it.

  distillspec draft --target=runs/smollm2/target --draft=runs/distilled --shortlist=4096 \\
      --texts=runs/texts --output=runs/shortlisted
"""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("draft", HELP)
    add = parser.add_argument
    add("--target", required=True, metavar="MODEL", help="a checkpoint directory or zoo:NAME")
    add(
        "--layers",
        type=list_of(int),
        metavar="N,N",
        help="the layers to keep, counted from 0 (for a T5: decoder layers)",
    )
    add("--embedding_rank", type=int, metavar="R", help="rank of the embedding (default: not factorised)")
    add("--draft", metavar="MODEL", help="instead of --layers: an existing draft, to add a shortlist to")
    add("--shortlist", type=int, metavar="N", help="number of ids that the draft may propose")
    add("--texts", metavar="DIR", help="the target's texts, from `collect`, to count the likeliest ids in")
    add("--output", metavar="DIR", help="the checkpoint directory to write (new or empty)")
    flags = parser.parse(argv)
    if flags.layers is not None and flags.draft is not None:
        raise UsageError("--layers makes a draft and --draft names one: give either")
    if (flags.layers is None and flags.draft is None) != (flags.output is None):
        raise UsageError("--output goes with --layers or --draft; without all three, choices are printed")
    if (flags.shortlist is None) != (flags.texts is None):
        raise UsageError("--shortlist and --texts go together: how many ids, and whose")
    if flags.draft is not None and flags.embedding_rank is not None:
        raise UsageError(
            "--embedding_rank is of a draft that is made: it goes with --layers, before training"
        )
    if flags.draft is not None and flags.shortlist is None:
        raise UsageError("--draft needs --shortlist and --texts: it is written again with those")

    from distillspec_jax.evaluation import draft_shapes
    from distillspec_jax.models import factorised, layer_subset, pretrained
    from distillspec_jax.reports import tables

    named = [name for name in (flags.target, flags.draft) if name is not None]
    cards = [pretrained.read_card(name) for name in named]
    target = pretrained.network(flags.target, cards[0])
    rank = flags.embedding_rank or 0
    ids = []
    if flags.texts is not None:
        ids = _likeliest(flags.texts, flags.shortlist, target.vocab_size, cards)
    if flags.output is None:
        tables.print_drafts(flags.target, draft_shapes.library(target, len(ids), rank))
        return 0
    if flags.draft is None:
        draft = layer_subset.cut(pretrained.load(flags.target), flags.layers)
        shape = draft_shapes.of_layers(target, flags.layers, len(ids), rank)
        if rank:
            whole, draft = draft, factorised.factorise(draft, rank)
            say(f"rank {rank} keeps {factorised.kept(whole, draft):.1%} of the embedding's squared sum")
    else:
        draft = pretrained.load(flags.draft)
        shape = draft_shapes.draft_shape(target, draft.model, Path(flags.draft).name, len(ids))
    saved = pretrained.save(
        pretrained.with_shortlist(draft, ids, flags.texts) if ids else draft, flags.output
    )
    tables.print_drafts(flags.target, [shape])
    say(f"{flags.output}: {saved.card.family}, {saved.num_parameters:,} parameters")
    return 0


def _likeliest(directory: str, count: int, vocab_size: int, cards: Sequence[ModelCard]) -> list[int]:
    """The ids that a target's texts ask for; they and the models must speak one vocabulary."""
    from distillspec_jax.data.target_set import TargetSet, heaviest, token_mass

    texts = TargetSet(directory)
    if {card.tokenizer_fingerprint for card in cards} != {texts.header.tokenizer_fingerprint}:
        raise UsageError(f"--texts={directory}: written with another vocabulary than the models'")
    mass_V = token_mass(texts)[:vocab_size]
    ids = heaviest(mass_V, count, texts.reader.tokenizer.eos_ids)
    least = "at least " if texts.has_logprobs else ""  # the likeliest ids alone are stored
    say(f"{len(ids):,} of {vocab_size:,} ids have {least}{mass_V[ids].sum():.1%} of the mass in {directory}")
    return ids


if __name__ == "__main__":
    sys.exit(errors.run(main, command="draft"))
