"""Traces one prompt round by round: drafts, accepted drafts, and the token that the target added.

For reports, notebooks and debugging: unlike normal decoding, it returns to the host after every round.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.decoding import randomness
from distillspec_jax.decoding.drafter_registry import NamedDraft, check_pairs, make_drafter
from distillspec_jax.decoding.sampling import SamplingParams
from distillspec_jax.decoding.speculative import SpeculativeLoop
from distillspec_jax.decoding.state import PairParams, RowSettings, State
from distillspec_jax.decoding.stopping import StopOnEos
from distillspec_jax.generation.prompt_format import prompt_format, tokenizer_of
from distillspec_jax.models.interface import padded_prompts, width_of
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.partitioning import own_meshes


@dataclasses.dataclass(frozen=True)
class Round:
    """One verify pass.

    Attributes:
      accepted: pieces of text that the draft proposed and the target accepted.
      added: the piece that the target added (a correction, or a bonus after a fully accepted block);
        empty if an accepted EOS or the limit ended the row.
      tested: number of drafts tested; the first one not accepted was rejected.
    """

    accepted: tuple[str, ...]
    added: str
    tested: int

    @property
    def counts(self) -> tuple[int, int, int]:
        """Numbers of drafts tested and accepted, and of tokens emitted."""
        return self.tested, len(self.accepted), len(self.accepted) + bool(self.added)


class IdsRound(NamedTuple):
    """One verify pass in ids: the tokens it emitted, and its numbers of accepted and tested drafts."""

    tokens: tuple[int, ...]
    accepted: int
    tested: int


@own_meshes
def trace(
    target: Pretrained,
    draft: NamedDraft,
    text: str,
    *,
    block_size: int = 5,
    temperature: float = 0.0,
    max_new_tokens: int | None = None,
    seed: int = 0,
    chat: bool = False,
) -> list[Round]:
    """Decodes one text and returns its rounds; the text equals that of `generate` with the same seed.

    Args:
      target, draft: a pair that shares a vocabulary; `draft` may name a drafter without a model.
      text: the raw input; the target's prefix is prepended, and it is truncated to the model's length.
      block_size, temperature, max_new_tokens, seed: as in `TextGenerator`.
      chat: wrap the text in the target's chat template.
    """
    check_pairs(target, [draft])
    form = prompt_format(target, truncate=True, chat=chat)
    tokenizer = form.reader.tokenizer
    found = rounds_of(
        target,
        draft,
        form.ids(text, "the text"),
        block_size=block_size,
        temperature=temperature,
        max_new_tokens=max_new_tokens or form.max_new_tokens,
        eos_ids=tokenizer.eos_ids,
        seed=seed,
    )
    rounds = []
    for one in found:
        pieces = [tokenizer.piece(token) for token in one.tokens]
        rounds.append(Round(tuple(pieces[: one.accepted]), "".join(pieces[one.accepted :]), one.tested))
    return rounds


def rounds_of(
    target: Pretrained,
    draft: NamedDraft,
    prompt: Sequence[int],
    *,
    block_size: int,
    temperature: float = 0.0,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    seed: int = 0,
    width: int = 1,
) -> Iterator[IdsRound]:
    """Decodes one prompt of ids and yields its rounds as they finish.

    Args:
      target, draft, block_size, temperature, max_new_tokens, seed: as in `trace`.
      prompt: ids, including EOS if the model reads one.
      eos_ids: ids that end the text; empty: it ends at the limit.
      width: minimum padded prompt width, so prompts of several lengths share a compiled program.
    """
    tokenizer = tokenizer_of(target)
    drafter, draft_params = make_drafter([draft], vocab_size=tokenizer.vocab_size, block_size=block_size)
    loop = SpeculativeLoop(
        target.model,
        drafter,
        stopping=StopOnEos(tuple(eos_ids)),
        block_size=block_size,
    )
    prompt_BT = jnp.asarray(padded_prompts([prompt], max(width, width_of([prompt]))))
    distribution = SamplingParams(temperature).distribution(tokenizer.vocabulary)
    settings = RowSettings(
        randomness.row_keys(randomness.seed_key(seed), jnp.arange(1)),
        jnp.asarray([max_new_tokens], jnp.int32),
        distribution,
    )
    params = PairParams(target.params, draft_params)
    state = _start(loop, params, prompt_BT, settings, max_new_tokens)
    emitted, accepted, tested = 0, 0, 0
    while bool(state.rows.running_B[0]):
        state = _round(loop, params, state)
        new = np.asarray(state.rows.output_BT[0, emitted : int(state.rows.emitted_B[0])])
        kept = int(state.counts.accepted_BG.sum()) - accepted
        put = int(state.counts.tested_BG.sum()) - tested
        if not len(new):
            break  # the row failed: its logits were not finite
        yield IdsRound(tuple(new.tolist()), kept, put)
        emitted, accepted, tested = emitted + len(new), accepted + kept, tested + put


_start = jax.jit(SpeculativeLoop.init, static_argnums=(0, 4))


@functools.partial(jax.jit, static_argnums=0)
def _round(loop: SpeculativeLoop, params: PairParams, state: State) -> State:
    return loop.run(params, state, 1)
