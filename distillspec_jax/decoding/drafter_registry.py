"""Makes a drafter and its parameters from a user's choice: draft models, or drafters that need no model.

`named_drafters` lists the latter. A model drafts token by token, or in one pass if it was trained to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distillspec_jax import bounds
from distillspec_jax.decoding import named_drafters
from distillspec_jax.decoding.drafters import Drafter, ModelDrafter
from distillspec_jax.decoding.hybrid import HybridDrafter
from distillspec_jax.decoding.one_pass_drafter import OnePassDrafter
from distillspec_jax.errors import UsageError
from distillspec_jax.models import pretrained
from distillspec_jax.models.pretrained import Pretrained

NamedDraft = Pretrained | str
"""A loaded draft model, or the name of a drafter that needs none."""


def load(draft: NamedDraft, dtype: str | None = None) -> NamedDraft:
    """Loads the named model; returns a registered drafter name unchanged, as `make_drafter` accepts both.

    Raises:
      UsageError: see `pretrained.load`.
    """
    if isinstance(draft, Pretrained) or draft in named_drafters.FACTORIES:
        return draft
    return pretrained.load(draft, dtype=dtype)


def check_pairs(
    target: Pretrained, drafts: Sequence[NamedDraft], assume_same_vocabulary: bool = False
) -> None:
    """Raises UsageError for a draft model with a different vocabulary; see `pretrained.check_pair`."""
    for draft in drafts:
        if isinstance(draft, Pretrained):
            pretrained.check_pair(target, draft, assume_same_vocabulary)


def make_drafter(
    drafts: Sequence[NamedDraft], *, vocab_size: int, candidates: int = 1, block_size: int = 5
) -> tuple[Drafter, Any]:
    """Makes one drafter and its parameters from the given drafts.

    Args:
      drafts: one draft, or several whose blocks are offered together.
      vocab_size: number of ids in the sampling distribution.
      candidates: blocks per row for every draft model.
      block_size: the largest block size of any round.

    Raises:
      UsageError: there are no drafts or more than `bounds.DRAFTERS`; a name is unknown; `candidates` is
        invalid, or above 1 for a drafter that is not a model; or the blocks of a row have more tokens than
        `bounds.CANDIDATE_TOKENS`.
    """
    bounds.check_most("the number of drafters", len(drafts), bounds.DRAFTERS)
    for draft in drafts:
        if isinstance(draft, Pretrained):
            continue
        if draft not in named_drafters.FACTORIES:
            known = ", ".join(map(repr, named_drafters.FACTORIES))
            raise UsageError(f"draft is {draft!r}, must be a loaded model, {known} or None")
        if candidates > 1:
            raise UsageError(f"the drafter {draft!r} offers one candidate block, not {candidates}")
    if candidates > 1:
        tokens = block_size * candidates * len(drafts)
        bounds.check_most("block_size times candidates", tokens, bounds.CANDIDATE_TOKENS)
    members = [
        _of_model(draft, candidates, block_size)
        if isinstance(draft, Pretrained)
        else named_drafters.FACTORIES[draft](vocab_size)
        for draft in drafts
    ]
    params = [draft.params if isinstance(draft, Pretrained) else None for draft in drafts]
    if len(members) == 1:
        return members[0], params[0]
    return HybridDrafter(tuple(members), block_size), tuple(params)


def _of_model(draft: Pretrained, candidates: int, block_size: int) -> Drafter:
    mask_id = draft.card.mask_id
    if mask_id is None:
        return ModelDrafter(draft.as_draft, candidates)
    return OnePassDrafter(draft.as_draft, mask_id, block_size, candidates)
