"""Three numbers that must agree after a distillation, to show that training and sampler are consistent.

On one set of prompts, at exactly the positions that the sampler tested: the share of drafts accepted; the
mean of sum_v min(p, q) that the sampler recorded; the same mean recomputed by the training code with teacher
forcing. The last two are one quantity computed twice; the first is an estimate of it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from distillspec_jax import acceptance, files
from distillspec_jax.decoding import (
    PairParams,
    RowSettings,
    SpeculativeLoop,
    State,
    Status,
    StopOnEos,
    randomness,
)
from distillspec_jax.decoding.drafter_registry import make_drafter
from distillspec_jax.decoding.state import Counts
from distillspec_jax.distillation import expected_acceptance
from distillspec_jax.distillation.deployment import Deployment
from distillspec_jax.evaluation.distilled_pair import DistilledPair
from distillspec_jax.generation.prompt_format import tokenizer_of
from distillspec_jax.models.interface import Batch, LanguageModel, prompt_lengths, shift_right
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.shapes import Array, Params
from distillspec_jax.vocabulary import Vocabulary

TOLERANCE = 1e-4
"""The largest allowed difference of the two overlaps, per tested position."""
LEVEL = 0.9999
"""Confidence level for (acceptance rate - overlap)."""
TIED = 1e-4
"""Logits closer than this may change order between two ways to compute them."""
FILE = "agreement.json"


class AgreementError(RuntimeError):
    """Two of the numbers contradict each other: a bug in the sampler or in the training code."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """The three numbers, pooled over tested positions, and related quantities.

    Attributes:
      distribution: `Deployment.name`.
      prompts, positions: number of prompts and of tested positions.
      accepted: share of tested drafts that were accepted.
      recorded: mean of sum_v min(p, q), by the sampler.
      recomputed: the same mean, by teacher forcing.
      low, high: `LEVEL` confidence interval of `accepted - recorded`, clustered by prompt.
      ties: rounds whose overlaps differ only because logits tie (see `TIED`).
      expected: Eq. 3's alpha on prefixes sampled from the target, which is a different quantity.
    """

    distribution: str
    prompts: int
    positions: int
    accepted: float
    recorded: float
    recomputed: float
    low: float
    high: float
    ties: int
    expected: float

    def __str__(self) -> str:
        return (
            f"{self.positions:,} positions of {self.prompts} prompts tested under {self.distribution}: "
            f"accepted {self.accepted:.4f}; sum of min(p, q) {self.recorded:.4f} recorded by the sampler, "
            f"{self.recomputed:.4f} by teacher forcing; on the target's own prefixes {self.expected:.4f}"
        )


@dataclasses.dataclass(frozen=True)
class Rounds:
    """A sampler's rounds on a batch of prompts.

    Attributes:
      tokens_BT: the texts; 0 after their ends.
      start_RB: tokens emitted before the round, which is the first tested position.
      tested_RB, accepted_RB: numbers of drafts.
      overlap_RB: sum of sum_v min(p, q) over the tested positions, as recorded.
    """

    tokens_BT: np.ndarray
    start_RB: np.ndarray
    tested_RB: np.ndarray
    accepted_RB: np.ndarray
    overlap_RB: np.ndarray


def check(pair: DistilledPair, *, prompts: int = 32, block_size: int = 5, seed: int = 0) -> Agreement | None:
    """Computes a pair's three numbers under its deployment distribution, on held-out prompts.

    Writes them to `agreement.json` next to the draft.

    Args:
      prompts: maximum number per task.
      block_size: of the sampler.
      seed: of all draws.

    Returns:
      The numbers; None if the task has no held-out prompts.

    Raises:
      AgreementError: two of them contradict each other.
    """
    of_tasks = pair.data(prompts).held_out_batches(min(prompts, 16)).values()
    batches = [jax.tree.map(jnp.asarray, batch) for of_task in of_tasks for batch in of_task]
    if not batches:
        return None
    found = agreement(pair.target, pair.draft, pair.deployment, batches, block_size=block_size, seed=seed)
    files.write_json(pair.directory / FILE, dataclasses.asdict(found))
    return found


def agreement(
    target: Pretrained,
    draft: Pretrained,
    distribution: Deployment,
    batches: Iterable[Batch],
    *,
    block_size: int = 5,
    seed: int = 0,
) -> Agreement:
    """Samples, recomputes and compares.

    A one-pass draft is called token by token here, as in training's evaluation; its masks are not checked.

    Args:
      target, draft: a pair that shares a vocabulary.
      distribution: for both.
      batches: unpacked evaluation batches; their targets only give the length.
      block_size, seed: see `check`.

    Raises:
      AgreementError: two of the numbers contradict each other; names both.
    """
    vocabulary = tokenizer_of(target).vocabulary
    draft = dataclasses.replace(draft, card=dataclasses.replace(draft.card, mask_id=None))
    batches = list(batches)
    sampled, recomputed, firm = [], [], []
    for i, batch in enumerate(batches):
        rounds = sample_rounds(target, draft, distribution, batch, block_size, (seed, i))
        overlap_BT, firm_BT = teacher_forced(
            (target.model, draft.as_draft),
            (target.params, draft.params),
            distribution,
            batch=batch,
            rounds=rounds,
            vocabulary=vocabulary,
        )
        sampled.append(rounds)
        recomputed.append(over_rounds(overlap_BT, rounds))
        firm.append(over_rounds(~firm_BT, rounds) == 0)
    evaluate = expected_acceptance.expected_acceptance(
        draft.as_draft, target.model, target.params, batches, seed, (distribution,), vocabulary=vocabulary
    )
    expected = evaluate(draft.params)[expected_acceptance.metric(distribution)]
    return compare(distribution, sampled, recomputed, firm, expected)


def sample_rounds(
    target: Pretrained,
    draft: Pretrained,
    distribution: Deployment,
    batch: Batch,
    block_size: int,
    seed: tuple[int, int],
) -> Rounds:
    """Samples a batch speculatively and returns what each round tested, accepted and recorded.

    Rows without a prompt emit nothing. Every row's counts are validated (`acceptance.checked`).
    """
    vocabulary = tokenizer_of(target).vocabulary
    drafter, draft_params = make_drafter([draft], vocab_size=target.model.vocab_size, block_size=block_size)
    loop = SpeculativeLoop(
        target.model,
        drafter,
        stopping=StopOnEos(vocabulary.eos_ids),
        block_size=block_size,
        measure_overlap=True,
    )
    prompt_BT = jnp.asarray(batch["encoder_input_tokens"])
    rows, width = prompt_BT.shape
    # Shorten the texts if a network runs out of positions first.
    rooms = [room for room in (target.model.room, draft.model.room) if room is not None]
    fits = [room - width - block_size - 1 for room in rooms]
    longest = max(1, min([batch["decoder_target_tokens"].shape[1], *fits]))
    keys_B = randomness.row_keys(jax.random.fold_in(randomness.seed_key(seed[0]), seed[1]), jnp.arange(rows))
    limit_B = jnp.where(prompt_lengths(prompt_BT) > 0, longest, 0).astype(jnp.int32)
    sampling = distribution.distribution(vocabulary)
    settings = RowSettings(keys_B, limit_B, sampling.for_rows(rows))
    params = PairParams(target.params, draft_params)
    state = _start(loop, params, prompt_BT, settings, longest)
    found: list[tuple[np.ndarray, ...]] = []
    total = Counts.zeros(rows, block_size)
    while bool(state.rows.running_B.any()):
        start_B = np.asarray(state.rows.emitted_B)
        state = _round(loop, params, state)
        counts = jax.device_get(state.counts)
        total = jax.tree.map(np.add, total, counts)
        if (failed_B := np.asarray(state.rows.status_B) == Status.FAILED).any():
            raise AgreementError(f"prompt {failed_B.argmax()} of batch {seed[1]}: logits are not finite")
        found.append((start_B, counts.tested_BG.sum(1), counts.accepted_BG.sum(1), counts.overlap_B))
    acceptance.checked(total.records(np.asarray(state.rows.emitted_B)))
    columns = (np.stack(column) for column in zip(*found, strict=True))
    return Rounds(np.asarray(state.rows.output_BT), *columns)


_start = jax.jit(SpeculativeLoop.init, static_argnums=(0, 4))


@functools.partial(jax.jit, static_argnums=0)
def _round(loop: SpeculativeLoop, params: PairParams, state: State) -> State:
    """Runs one round; the state's counts are of this round only."""
    rows, block_size = state.counts.tested_BG.shape
    return loop.run(params, dataclasses.replace(state, counts=Counts.zeros(rows, block_size)), 1)


def teacher_forced(
    models: tuple[LanguageModel, LanguageModel],
    params: tuple[Params, Params],
    distribution: Deployment,
    vocabulary: Vocabulary,
    batch: Batch,
    rounds: Rounds,
) -> tuple[np.ndarray, np.ndarray]:
    """Computes sum_v min(p, q) at every position of the sampled texts, with the training code's `overlap`.

    Returns:
      `[B, T]`; and whether both distributions keep the same tokens when logits move by `TIED`.
    """
    tokens_BT = jnp.asarray(rounds.tokens_BT)
    forced = {
        "encoder_input_tokens": jnp.asarray(batch["encoder_input_tokens"]),
        "decoder_input_tokens": shift_right(tokens_BT),
        "decoder_target_tokens": tokens_BT,
    }
    overlap_BT, firm_BT = jax.device_get(_teacher_forced(models, distribution, vocabulary, params, forced))
    return overlap_BT, firm_BT


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _teacher_forced(
    models: tuple[LanguageModel, LanguageModel],
    distribution: Deployment,
    vocabulary: Vocabulary,
    params: tuple[Params, Params],
    batch: Batch,
) -> tuple[Array, Array]:
    both = [model.logits(p, batch) for model, p in zip(models, params, strict=True)]
    overlap_BT = expected_acceptance.overlap(both[0], both[1], distribution, vocabulary)
    return overlap_BT, _firm(both[0], distribution, vocabulary) & _firm(both[1], distribution, vocabulary)


def _firm(logits_BTV: Array, distribution: Deployment, vocabulary: Vocabulary) -> Array:
    """Tells whether the set of kept tokens is unchanged when their logits rise or fall by `TIED`."""
    sampling = distribution.distribution(vocabulary)

    def kept(logits: Array) -> Array:
        return sampling.log_probs(logits) > -jnp.inf

    logits_BTV = logits_BTV[..., : vocabulary.size]
    now = kept(logits_BTV)
    moved = [kept(logits_BTV + jnp.where(now, by, 0.0)) for by in (-TIED, TIED)]
    return jnp.all((moved[0] == now) & (moved[1] == now), axis=-1)


def over_rounds(values_BT: np.ndarray, rounds: Rounds) -> np.ndarray:
    """Sums a value over the positions that each round tested, `[R, B]`."""
    place_T = np.arange(values_BT.shape[1])
    start, end = rounds.start_RB[..., None], (rounds.start_RB + rounds.tested_RB)[..., None]
    tested_RBT = (place_T >= start) & (place_T < end)
    return (tested_RBT * values_BT[None].astype(np.float64)).sum(-1)


def compare(
    distribution: Deployment,
    sampled: list[Rounds],
    recomputed: list[np.ndarray],
    firm: list[np.ndarray],
    expected: float,
) -> Agreement:
    """Compares the numbers.

    Args:
      sampled, recomputed, firm: one entry per batch; overlap and firmness by round, `[R, B]`.
      expected: Eq. 3's alpha, passed through.

    Raises:
      AgreementError: see `agreement`.
    """
    ties = rounds_tested = 0
    for i, (rounds, overlap_RB, firm_RB) in enumerate(zip(sampled, recomputed, firm, strict=True)):
        gap_RB = np.abs(rounds.overlap_RB - overlap_RB)
        apart_RB = ~(gap_RB <= TOLERANCE * np.maximum(rounds.tested_RB, 1))
        for r, b in np.argwhere(apart_RB & firm_RB)[:1]:
            raise AgreementError(
                f"prompt {b} of batch {i}, {rounds.tested_RB[r, b]} positions from {rounds.start_RB[r, b]}, "
                f"under {distribution.name}: the sampler recorded a sum of min(p, q) of "
                f"{rounds.overlap_RB[r, b]:.6f}, teacher forcing recomputes {overlap_RB[r, b]:.6f}"
            )
        ties += int(apart_RB.sum())
        rounds_tested += int((rounds.tested_RB > 0).sum())
    if ties > max(1, rounds_tested // 100):
        raise AgreementError(
            f"sum of min(p, q) recorded by the sampler and recomputed by teacher forcing differ in {ties} of "
            f"{rounds_tested} rounds under {distribution.name}; ties of logits excuse one in a hundred"
        )
    tested_N = np.concatenate([rounds.tested_RB.sum(0) for rounds in sampled])
    some_N = tested_N > 0
    accepted_N = np.concatenate([rounds.accepted_RB.sum(0) for rounds in sampled])[some_N]
    recorded_N = np.concatenate([rounds.overlap_RB.astype(np.float64).sum(0) for rounds in sampled])[some_N]
    recomputed_N = np.concatenate([overlap_RB.sum(0) for overlap_RB in recomputed])[some_N]
    positions = int(tested_N.sum())
    low, high = difference(accepted_N, recorded_N, positions)
    accepted, recorded, again = (
        float(x.sum() / positions) if positions else float("nan")
        for x in (accepted_N, recorded_N, recomputed_N)
    )
    if low > 0 or high < 0:
        raise AgreementError(
            f"{accepted:.4f} of {positions} tested drafts were accepted under {distribution.name}, but the "
            f"sampler recorded a mean sum of min(p, q) of {recorded:.4f}: their difference lies in "
            f"{low:.4f} to {high:.4f} ({LEVEL:.2%}, {len(accepted_N)} prompts)"
        )
    return Agreement(
        distribution.name, len(accepted_N), positions, accepted, recorded, again, low, high, ties, expected
    )


def difference(accepted_N: np.ndarray, recorded_N: np.ndarray, positions: int) -> tuple[float, float]:
    """Computes the `LEVEL` interval of (accepted - recorded) / positions; prompts are the independent units.

    It is Student's t interval: each prompt's difference has mean 0 if the two agree, so no bootstrap is
    needed, whose tails are inaccurate at this level. Infinitely wide below two prompts.
    """
    gap_N = accepted_N - recorded_N
    count = len(gap_N)
    if count < 2 or not positions:
        return -np.inf, np.inf
    # Floating-point sums may differ in their last digits, which is not a contradiction.
    rounding = 1e-6 * positions
    half = stats.t.ppf((1 + LEVEL) / 2, count - 1) * gap_N.std(ddof=1) * count**0.5 + rounding
    return float((gap_N.sum() - half) / positions), float((gap_N.sum() + half) / positions)
