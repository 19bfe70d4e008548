"""`distillspec draft`: a draft made of some of its target's layers, to be distilled."""

from __future__ import annotations

import sys

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import CommandParser, list_of
from distillspec_jax.errors import UsageError

HELP = """Makes a draft of some of a target's layers, with its width, its embedding and its tokenizer. Without
--layers it prints a library of choices: what each costs, as the share c of the target's bytes, and the
memory-bound speed-up (MBSU) that it would bring at several rates of acceptance, with the block size for it.

  distillspec draft --target=runs/smollm2
  distillspec draft --target=runs/smollm2 --layers=0,1,28,29 --output=runs/draft
"""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("draft", HELP)
    add = parser.add_argument
    add("--target", required=True, metavar="MODEL", help="a checkpoint directory or zoo:NAME")
    add("--layers", type=list_of(int), metavar="N,N", help="which, counted from 0; of a T5, of its decoder")
    add("--output", metavar="DIR", help="the checkpoint directory to write; it must be new or empty")
    flags = parser.parse(argv)
    if (flags.layers is None) != (flags.output is None):
        raise UsageError("--layers and --output go together; without both, choices are printed")

    from distillspec_jax.evaluation import draft_shapes, tables
    from distillspec_jax.models import layer_subset, pretrained, registry

    card = pretrained.read_card(flags.target)
    model = registry.build(card.family, card.config)
    if flags.layers is None:
        tables.print_drafts(flags.target, draft_shapes.library(model))
        return 0
    shape = draft_shapes.draft_shape(model, flags.layers)
    draft = layer_subset.write(pretrained.load(flags.target), flags.layers, flags.output)
    tables.print_drafts(flags.target, [shape])
    print(f"{flags.output}: {draft.card.family}, {draft.num_parameters:,} parameters")
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="draft"))
