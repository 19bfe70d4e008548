"""What another engine would count of our rounds: its way of ending a text, and nothing else, differs.

At temperature 0 a round is settled by where it begins, so that two engines of one pair draft, accept and
refuse the same wherever they begin alike. Engines part in two things. The first token of a text comes from
reading the prompt there, and is no round's: our rounds are therefore those of the prompt and that token. And
a text ends in its last rounds, where an engine drafts less, or counts drafts behind the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from distillspec_jax.acceptance import PartialRecord


def replayed(
    accepted_R: Sequence[int], *, tokens: int, limit: int, block_size: int, room: bool
) -> PartialRecord:
    """Counts as an engine does that draws the first token of a text while it reads the prompt.

    Args:
      accepted_R: drafts that each of our rounds accepts after that token, with no end in sight.
      tokens: in the engine's text, its EOS included.
      limit: of tokens, for which the engine was asked.
      block_size: drafts a round at most.
      room: near the limit, it drafts no more than leave room for a token of the target's (llama.cpp); else
        it drafts whole blocks to the end, and counts what it accepts beyond (vLLM).

    Raises:
      ValueError: the rounds end before the text does.
    """
    emitted, rounds, drafted = 1, 0, 0
    accepted_at = [0] * block_size
    for most in accepted_R:
        if emitted >= tokens:
            break
        offered = min(block_size, limit - emitted - 1) if room else block_size
        kept = min(most, max(offered, 0))
        if offered > 0:  # else a token without drafts, which is no round
            rounds, drafted = rounds + 1, drafted + offered
            for position in range(kept):
                accepted_at[position] += 1
        emitted += kept + 1
    if emitted < tokens:
        raise ValueError(f"rounds for {emitted} tokens, but a text of {tokens}")
    return PartialRecord(
        target_calls=rounds, drafted=drafted, accepted=sum(accepted_at), accepted_at=tuple(accepted_at)
    )
