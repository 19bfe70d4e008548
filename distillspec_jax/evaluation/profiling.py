"""Makes a distilled draft's acceptance profile by decoding held-out prompts at several temperatures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp

from distillspec_jax import acceptance, acceptance_profile, checkpoint
from distillspec_jax.acceptance import Record
from distillspec_jax.acceptance_profile import Counts, Profile, ProfileCell
from distillspec_jax.decoding import Engine, StopOnEos
from distillspec_jax.decoding.drafter_registry import make_drafter
from distillspec_jax.distillation.deployment import Deployment
from distillspec_jax.evaluation import paired
from distillspec_jax.evaluation.distilled_pair import DistilledPair
from distillspec_jax.evaluation.paired import Clusters, number
from distillspec_jax.generation.prompt_format import tokenizer_of
from distillspec_jax.models import fingerprints
from distillspec_jax.models.interface import prompt_lengths
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.version import __version__

_ROWS = 16
_TEMPERATURES = (0.0, 1.0)


def profile(directory: str | Path, *, prompts: int, block_size: int) -> Profile | None:
    """Calls `of_pair` for the pair of a distillation; None if it had no target."""
    pair = DistilledPair.load(directory)
    return None if pair is None else of_pair(pair, prompts=prompts, block_size=block_size)


def of_pair(pair: DistilledPair, *, prompts: int = 32, block_size: int = 5, seed: int = 0) -> Profile | None:
    """Measures a pair on the first held-out prompts of its task and writes `profile.json` next to the draft.

    Args:
      prompts: maximum number per task.
      block_size: drafts per round.
      seed: of all draws.

    Returns:
      The profile at temperatures 0 and 1 and under the draft's deployment distribution; None if the task has
      no held-out prompts.
    """
    asked: list[list[int]] = []
    for batches in pair.data(prompts).held_out_batches(min(prompts, _ROWS)).values():
        for batch in batches:
            ids_BT = batch["encoder_input_tokens"]
            for ids_T, length in zip(ids_BT, prompt_lengths(jnp.asarray(ids_BT)).tolist(), strict=True):
                if length:  # the last batch may have empty rows
                    asked.append(ids_T[:length].tolist())
    if not asked:
        return None
    settings = list(dict.fromkeys([*map(Deployment, _TEMPERATURES), pair.deployment]))
    card = pair.draft.card
    longest = room_for(pair.target, pair.draft, asked, block_size, card.feature_lengths["targets"])
    found = Profile(
        draft=str(pair.directory),
        target=pair.target_path,
        step=checkpoint.latest_step(pair.directory),
        task=str(card.task),
        split="validation",
        prompts=len(asked),
        prompts_digest=fingerprints.of_json(asked),
        block_size=block_size,
        max_new_tokens=longest,
        release=__version__,
        cells=measure(pair.target, pair.draft, asked, longest, settings, block_size, seed),
    )
    acceptance_profile.write(pair.directory, found)
    return found


def measure(
    target: Pretrained,
    draft: Pretrained,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    settings: Sequence[Deployment],
    block_size: int,
    seed: int,
) -> list[ProfileCell]:
    """Decodes the prompts under each of several distributions.

    Args:
      target, draft: a pair that shares a vocabulary.
      prompts: token ids.
      max_new_tokens: maximum output length, including EOS.
      settings: the distributions.
      block_size, seed: see `of_pair`.
    """
    engine = engine_for(target, draft, prompts, block_size)
    vocabulary = tokenizer_of(target).vocabulary
    clusters = [tuple(ids) for ids in prompts]
    cells = []
    for one in settings:
        distribution = one.distribution(vocabulary)
        completions = engine.generate([list(ids) for ids in prompts], distribution, max_new_tokens, seed)
        cells.append(cell(acceptance.checked([done.record for done in completions]), one, clusters))
    return cells


def room_for(
    target: Pretrained, draft: Pretrained, prompts: Sequence[Sequence[int]], block_size: int, longest: int
) -> int:
    """Reduces the maximum output length to the positions that both networks have."""
    rooms = [room for room in (target.model.room, draft.model.room) if room is not None]
    fits = [room - max(map(len, prompts)) - block_size - 1 for room in rooms]
    return max(1, min([longest, *fits]))


def engine_for(
    target: Pretrained, draft: Pretrained, prompts: Sequence[Sequence[int]], block_size: int
) -> Engine:
    """Makes an engine for a pair that shares a vocabulary; it compiles each loop once for all prompts."""
    tokenizer = tokenizer_of(target)
    drafter, params = make_drafter([draft], vocab_size=tokenizer.vocab_size, block_size=block_size)
    return Engine(
        target.model,
        target.params,
        drafter,
        params,
        stopping=StopOnEos(tokenizer.eos_ids),
        block_size=block_size,
        batch_size=min(len(prompts), _ROWS),
        prompt_bucket=-(-max(map(len, prompts)) // 32) * 32,  # one width
    )


def cell(records: Sequence[Record], settings: Deployment, clusters: Clusters = None) -> ProfileCell:
    """Computes the cell of one distribution from the counts of its prompts.

    Args:
      records: of the prompts.
      settings: the distribution.
      clusters: of the prompts, see `paired.interval`.
    """
    total = Record.total(records)
    rate = paired.of_records(records, "acceptance_tested", clusters=clusters)
    efficiency = paired.of_records(records, "block_efficiency", clusters=clusters)
    return ProfileCell(
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        acceptance=number(rate.value),
        acceptance_ci95=rate.ends,
        acceptance_spread=acceptance_profile.spread(records),
        acceptance_joint=[number(x) for x in total.acceptance_joint or ()],
        acceptance_conditional=[number(x) for x in total.acceptance_conditional or ()],
        block_efficiency=efficiency.value,
        block_efficiency_ci95=efficiency.ends,
        per_prompt=Counts.of(records),
    )
