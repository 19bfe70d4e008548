"""The mutants: what is changed, and the tests that ought to notice."""

from __future__ import annotations

import dataclasses

DISTRIBUTION = ("tests/exactness/test_outputs.py",)
DRAFTS = ("tests/decoding/test_drafters.py",)
RULES = (
    "tests/decoding/test_verifiers.py",
    "tests/decoding/test_block_rule.py",
    "tests/decoding/test_candidates_rule.py",
)
RESTARTS = ("tests/training/test_restart.py",)
IDENTITIES = ("tests/models/test_decoding_identities.py",)


@dataclasses.dataclass(frozen=True)
class Edit:
    """A text of a file of the package, which must occur there once, and what takes its place."""

    file: str
    old: str
    new: str


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A bug.

    Attributes:
      number: as the literature of this project counts them; letters tell variants apart.
      bug: in words.
      edits: made together.
      tests: files of the ordinary suite that are run against it.
    """

    number: str
    bug: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


_DRAFTERS, _VERIFIERS = "decoding/drafters.py", "decoding/verifiers.py"
_STORED_DISTRIBUTIONS = "distillation/stored_logprobs.py"
_SNAPSHOTS = "training/snapshots.py"
_SPECULATIVE, _RANDOMNESS = "decoding/speculative.py", "decoding/randomness.py"

MUTANTS = (
    Mutant(
        "1",
        "the draft takes its likeliest token, and its soft distribution enters the ratio",
        (
            Edit(
                _DRAFTERS,
                "token_B = randomness.draw(keys, log_q_BV)",
                "token_B = jnp.argmax(log_q_BV, axis=-1).astype(jnp.int32)",
            ),
        ),
        (*DISTRIBUTION, *DRAFTS),
    ),
    Mutant(
        "2",
        "drafts are drawn through top-k and top-p, and recorded without",
        (
            Edit(
                _DRAFTERS,
                "jnp.array(ids_V)[token_B], log_q_BV",
                "jnp.array(ids_V)[token_B], "
                "distribution.replace(truncates=False).log_probs(logits_BV, ids_V)",
            ),
        ),
        (*DISTRIBUTION, *DRAFTS),
    ),
    Mutant(
        "3a",
        "the residual is q - p",
        (
            Edit(
                _VERIFIERS,
                "jnp.maximum(jnp.exp(log_p) - jnp.exp(log_q), 0.0)",
                "jnp.maximum(jnp.exp(log_q) - jnp.exp(log_p), 0.0)",
            ),
        ),
        (*DISTRIBUTION, *RULES),
    ),
    Mutant(
        "3b",
        "a rejected draft is replaced by a draw from p",
        (
            Edit(
                _VERIFIERS,
                "rejected_B[:, None], residual(log_p_BV, log_q_BV)",
                "rejected_B[:, None], log_p_BV",
            ),
        ),
        (*DISTRIBUTION, *RULES),
    ),
    Mutant(
        "3c",
        "the residual of several candidates is not renormalised before the next is tested",
        (
            Edit(
                _VERIFIERS,
                "jnp.log(excess) - jnp.log(jnp.where(mass > 0, mass, 1.0))",
                "jnp.log(excess)",
            ),
        ),
        (*DISTRIBUTION, *RULES),
    ),
    Mutant(
        "4a",
        "the bonus token is drawn from the distribution before the last draft",
        (
            Edit(
                _VERIFIERS,
                "log_p_BV = row_of(log_p_BKV, accepted_B)",
                "log_p_BV = row_of(log_p_BKV, jnp.minimum(accepted_B, offset_1G.size - 1))",
            ),
        ),
        (*DISTRIBUTION, *RULES),
    ),
    Mutant(
        "4b",
        "the bonus token is drawn from the residual",
        (
            Edit(
                _VERIFIERS,
                "jnp.where(rejected_B[:, None], residual(log_p_BV, log_q_BV), log_p_BV)",
                "residual(log_p_BV, log_q_BV)",
            ),
        ),
        (*DISTRIBUTION, *RULES),
    ),
    Mutant(
        "5",
        "the draft's cache is trimmed by one token too many",
        (
            Edit(
                _DRAFTERS,
                "cache=cache.rewind(memory.cache.length_B + gained_B)",
                "cache=cache.rewind(memory.cache.length_B + jnp.maximum(gained_B - 1, 0))",
            ),
        ),
        DRAFTS,
    ),
    Mutant(
        "6",
        "the last accepted draft is missing from the draft's cache",
        (
            Edit(
                _DRAFTERS,
                "jnp.take_along_axis(line_BK, (accepted_B + 1)[:, None], axis=1)",
                "jnp.take_along_axis(line_BK, jnp.maximum(accepted_B, 0)[:, None], axis=1)",
            ),
        ),
        DRAFTS,
    ),
    Mutant(
        "7a",
        "one key for acceptance and for the residual's draw",
        (
            Edit(
                _VERIFIERS,
                "jnp.where(rejected_B, int(Purpose.RESIDUAL)",
                "jnp.where(rejected_B, int(Purpose.ACCEPT)",
            ),
        ),
        DISTRIBUTION,
    ),
    Mutant(
        "7b",
        "one key for all rows of a batch",
        (Edit(_RANDOMNESS, "_fold_in(seed_key, prompt_index_B)", "_fold_in(seed_key, prompt_index_B * 0)"),),
        (*DISTRIBUTION, "tests/decoding/test_randomness.py"),
    ),
    Mutant(
        "8a",
        "rows write into the cache of the row after them",
        (
            Edit(
                "models/attention.py",
                "(cache_BHTD, slot_BK, fresh_BHKD)",
                "(cache_BHTD, slot_BK, jnp.roll(fresh_BHKD, 1, axis=0))",
            ),
        ),
        (*DISTRIBUTION, *IDENTITIES),
    ),
    Mutant(
        "8b",
        "all rows carry the first row's temperature",
        (
            Edit(
                "decoding/sampling.py",
                "temperature = _per_row(self.temperature, logits.ndim)",
                "first = self.temperature.reshape(-1)[:1].reshape((1,) * self.temperature.ndim)\n"
                "        temperature = _per_row(first, logits.ndim)",
            ),
        ),
        (*DISTRIBUTION, "tests/decoding/test_sampling.py"),
    ),
    Mutant(
        "9",
        "tokens after an EOS inside the block are tested and kept",
        (
            Edit(
                _SPECULATIVE,
                "jnp.where(ends_BNG.any(-1), jnp.argmax(ends_BNG, axis=-1) + 1, self.block_size)",
                "jnp.full(draft.length_BN.shape, self.block_size)",
            ),
        ),
        (*DISTRIBUTION, "tests/decoding/test_speculative.py"),
    ),
    Mutant(
        "10",
        "above a batch size decoding is silently greedy",
        (
            Edit(
                "decoding/sampling.py",
                "greedy = temperature == 0.0",
                "greedy = (temperature == 0.0) | (logits.shape[0] > 256)",
            ),
        ),
        DISTRIBUTION,
    ),
    Mutant(
        "11",
        "a length limit inside a block lets one token too many pass",
        (
            Edit(
                _SPECULATIVE,
                "done_B = take_last(ends_BK, accepted_B) | (accepted_B >= rows.remaining_B)",
                "done_B = take_last(ends_BK, accepted_B) | (accepted_B > rows.remaining_B)",
            ),
        ),
        (*DISTRIBUTION, "tests/decoding/test_speculative.py"),
    ),
    Mutant(
        "12",
        "positions are counted from the longest row of the batch",
        (
            Edit(
                "models/decoder_stack.py",
                "position_BK = state.length_B[:, None] + jnp.arange(tokens)[None]",
                "position_BK = (state.length_B * 0 + state.length_B.max())[:, None] "
                "+ jnp.arange(tokens)[None]",
            ),
        ),
        (*DISTRIBUTION, *IDENTITIES),
    ),
    Mutant(
        "13",
        "the temperature reaches the target and not the draft",
        (
            Edit(
                _DRAFTERS,
                "log_q_BV = distribution.log_probs(logits_BV, ids_V)",
                "log_q_BV = distribution.replace(temperature=jnp.ones_like(distribution.temperature))"
                ".log_probs(logits_BV, ids_V)",
            ),
        ),
        DRAFTS,
    ),
    Mutant(
        "14",
        "the block rule draws from the token rule's residual",
        (
            Edit(
                "decoding/block_rule.py",
                "excess_BV = row_of(excess_BGV, jnp.minimum(accepted_B, offset_1G.size - 1))",
                "excess_BV = row_of(jnp.maximum(jnp.exp(log_p_BKV[:, :-1]) - jnp.exp(log_q_BGV), 0.0), "
                "jnp.minimum(accepted_B, offset_1G.size - 1))",
            ),
        ),
        (*DISTRIBUTION, *RULES),
    ),
    Mutant(
        "14b",
        "draft keys follow from the position alone, so that a position drafted again meets its old noise",
        (
            Edit(
                _SPECULATIVE,
                "params.draft, state.draft, keys_B, rows.pending_B, distribution, self.block_size",
                "params.draft, state.draft, rows.settings.keys_B, rows.pending_B, distribution, "
                "self.block_size",
            ),
            Edit(
                _DRAFTERS,
                "first_offset = jnp.tile(jnp.arange(blocks) * block_size, rows)",
                "first_offset = jnp.repeat(state.cache.length_B + state.has_previous_B, blocks) "
                "+ jnp.tile(jnp.arange(blocks) * 64, rows)",
            ),
        ),
        DISTRIBUTION,
    ),
    Mutant(
        "17b",
        "the loss on stored distributions sees the target's likeliest ids alone, not the mass of the rest",
        (
            Edit(
                _STORED_DISTRIBUTIONS,
                "return jnp.concatenate([chosen_BTK, tail_BT1], axis=-1)",
                "return jax.nn.log_softmax(jnp.concatenate([chosen_BTK, tail_BT1 * 0 - 1e30], axis=-1))",
            ),
        ),
        ("tests/distillation/test_stored_logprobs.py",),
    ),
    Mutant(
        "22a",
        "a restart begins with fresh moments of the optimizer",
        (Edit(_SNAPSHOTS, 'stored["optimizer"]\n        )', "fresh.optimizer\n        )"),),
        RESTARTS,
    ),
    Mutant(
        "22b",
        "a restart draws the keys of the first steps again",
        (Edit(_SNAPSHOTS, "np.asarray(step, np.int32)", "np.asarray(0, np.int32)"),),
        RESTARTS,
    ),
    Mutant(
        "22c",
        "a restart reads the text from its beginning",
        (Edit("training/loop.py", "source = batches(start) if", "source = batches(0) if"),),
        RESTARTS,
    ),
    Mutant(
        "22d",
        "a restart forgets the metrics since the last report",
        (Edit(_SNAPSHOTS, "return state, step, pending", "return state, step, {}"),),
        RESTARTS,
    ),
    Mutant(
        "23",
        "what a kill leaves of a step is taken for whole",
        (
            Edit(
                "checkpoint.py",
                'return (step / "params" / "_METADATA").is_file()',
                "return step.is_dir()",
            ),
        ),
        RESTARTS,
    ),
    Mutant(
        "24",
        "an evaluation drops its last, smaller batch",
        (
            Edit(
                "data/features.py",
                "for batch in _numpy(features.batch(rows)))",
                "for batch in _numpy(features.batch(rows, drop_remainder=True)))",
            ),
        ),
        ("tests/data/test_features.py",),
    ),
    Mutant(
        "25",
        "hosts, batches and micro-batches that counted unequally weigh the same in a mean",
        (
            Edit(
                "metrics.py",
                "return Mean(self.total + other.total, self.count + other.count)",
                "return Mean((self.total / self.count + other.total / other.count) / 2, 1.0)",
            ),
        ),
        ("tests/test_metrics.py", "tests/training/test_step.py", "tests/training/test_loop.py"),
    ),
)
