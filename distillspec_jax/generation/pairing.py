"""A checked pair, ready for an engine: the drafter, its parameters and the verifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from distillspec_jax.decoding.adaptive import AUTO
from distillspec_jax.decoding.drafter_registry import NamedDraft, check_pairs, make_drafter
from distillspec_jax.decoding.drafters import Drafter
from distillspec_jax.decoding.rules import rule as find_rule
from distillspec_jax.decoding.verifiers import Verifier
from distillspec_jax.errors import UsageError
from distillspec_jax.generation.prompt_format import PromptFormat, prompt_format, tokenizer_of
from distillspec_jax.models.pretrained import Pretrained

Drafts = NamedDraft | None | Sequence[NamedDraft]
"""A draft model, or the name of a drafter without a model; several of these for one target; or nothing."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """A target's drafter, ready for an engine.

    Attributes:
      form: how inputs become prompts.
      drafter, drafter_params: None decodes one token at a time.
      verifier: the rule for accepting drafts.
      block_sizes: drafts per round; several to choose from.
    """

    form: PromptFormat
    drafter: Drafter | None
    drafter_params: Any
    verifier: Verifier
    block_sizes: tuple[int, ...]


def pair(
    target: Pretrained,
    draft: Drafts = None,
    *,
    form: PromptFormat | None = None,
    block_size: int | str = 5,
    rule: str = "token",
    epsilon: float | None = None,
    candidates: int = 1,
    assume_same_vocabulary: bool = False,
) -> Pair:
    """Checks a target and its drafts, and combines the drafts into one drafter.

    Args: see `TextGenerator`.

    Raises:
      UsageError: a size is below 1, there is no tokenizer, or the vocabularies differ.
    """
    drafts = [draft] if isinstance(draft, (Pretrained, str)) else list(draft or ())
    check_pairs(target, drafts, assume_same_vocabulary)
    models = [target, *(one for one in drafts if isinstance(one, Pretrained))]
    if isinstance(block_size, str) and block_size != "auto":
        raise UsageError(f"block_size is {block_size!r}, must be a whole number or 'auto'")
    if not isinstance(block_size, (int, str)) or isinstance(block_size, bool):
        raise UsageError(f"block_size is {block_size!r}, must be a whole number or 'auto'")
    if isinstance(block_size, int) and block_size < 1:
        raise UsageError(f"block_size is {block_size}, must be at least 1")
    sizes = AUTO if isinstance(block_size, str) else (block_size,)
    form = form or prompt_format(target, tokenizer=tokenizer_of(*models))
    vocab_size = form.reader.tokenizer.vocab_size
    for model in models:
        if model.model.vocab_size < vocab_size:
            raise UsageError(
                f"{model.name} has {model.model.vocab_size} logits, too few for the vocabulary's "
                f"{vocab_size} pieces: it was trained with another one"
            )
    drafter, params, blocks = None, None, candidates
    if drafts:
        drafter, params = make_drafter(
            drafts, vocab_size=vocab_size, candidates=candidates, block_size=max(sizes)
        )
        blocks = drafter.candidates
    verifier = find_rule(rule, epsilon=epsilon, candidates=blocks)
    return Pair(form, drafter, params, verifier, sizes)


def fitting_block_size(asked: int | str | None, longest: int) -> int | str:
    """Returns the requested block size, or by default 5 or the longest possible output, if that is shorter.

    Raises:
      UsageError: the requested block is longer than any possible output.
    """
    if isinstance(asked, int) and asked > longest >= 1:
        raise UsageError(f"--block_size={asked}: outputs end after {longest} tokens, use {longest} or less")
    return max(1, min(5, longest)) if asked is None else asked
