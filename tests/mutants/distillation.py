"""The mutants of distillation: divergences, reductions, sources, the loss."""

from __future__ import annotations

from tests.mutants.catalog import Edit, Mutant

DIVERGENCES = ("tests/distillation/test_divergences.py",)
LOSS = ("tests/distillation/test_loss.py",)
SOURCES = ("tests/distillation/test_sources.py",)
HELD_OUT = ("tests/distillation/test_expected_acceptance.py",)
WEIGHTING = ("tests/distillation/test_weighting.py",)
REPLAY = ("tests/distillation/test_replay.py",)
ON_POLICY = ("tests/distillation/test_on_policy_gradient.py",)

_DIVERGENCES, _FORMULAS, _LOSS, _SOURCES = (
    f"distillation/{name}.py" for name in ("divergences", "formulas", "loss", "sources")
)

DISTILLATION = (
    Mutant(
        "15",
        "forward and reverse KL are swapped",
        (
            # Two spaces: the second edit must find its text once.
            Edit(_FORMULAS, "return _kl(log_p, log_q)", "return _kl(log_q,  log_p)"),
            Edit(_FORMULAS, "return _kl(log_q, log_p)", "return _kl(log_p, log_q)"),
        ),
        DIVERGENCES,
    ),
    Mutant(
        "16a",
        "the beta of JSD weights the draft in the mixture",
        (
            Edit(
                _FORMULAS,
                "m = beta * jnp.exp(log_p) + (1 - beta) * jnp.exp(log_q)",
                "m = beta * jnp.exp(log_q) + (1 - beta) * jnp.exp(log_p)",
            ),
        ),
        DIVERGENCES,
    ),
    Mutant(
        "16b",
        "JSD takes a beta of 0 or 1, where it is 0",
        (
            Edit(_DIVERGENCES, "if self.beta in (0, 1):", "if self.beta is None:"),
            Edit(_DIVERGENCES, "if not 0 < self.beta < 1:", "if not 0 <= self.beta <= 1:"),
        ),
        DIVERGENCES,
    ),
    Mutant(
        "17",
        "reverse KL on the top-k alone, from which the draft may move its mass away",
        (
            Edit(
                _DIVERGENCES,
                "if self._truncates and not self.truncated_sides:",
                "if self._truncates and self.truncated_sides is None:",
            ),
            Edit(
                _DIVERGENCES,
                "truncated_sides: ClassVar[tuple[str, ...]] = ()",
                'truncated_sides: ClassVar[tuple[str, ...]] = ("target", "draft")',
            ),
        ),
        DIVERGENCES,
    ),
    Mutant(
        "18a",
        "a sequence's mean is taken over its padding, too",
        (
            Edit(
                _LOSS,
                "weight_BT = mask_BT / jnp.maximum(length_B, 1.0)[:, None]",
                "weight_BT = mask_BT / mask_BT.shape[1]",
            ),
        ),
        LOSS,
    ),
    Mutant(
        "18b",
        "batches are averaged by their means",
        (
            Edit(
                "metrics.py",
                "return Mean(self.total + other.total, self.count + other.count)",
                "return Mean((self.total / self.count + other.total / other.count) / 2, 1.0)",
            ),
        ),
        (*HELD_OUT, "tests/test_metrics.py"),
    ),
    Mutant(
        "19a",
        "gradient flows into the target's logits",
        (
            Edit(
                _DIVERGENCES,
                "target = jnp.where(real_BT1, jax.lax.stop_gradient(target_logits_BTV), 0.0)",
                "target = jnp.where(real_BT1, target_logits_BTV, 0.0)",
            ),
        ),
        DIVERGENCES,
    ),
    Mutant(
        "19b",
        "gradient flows through the sampled sequence: its tokens count by their probability",
        (
            Edit(_LOSS, "frozen = jax.lax.stop_gradient(params)", "frozen = params"),
            Edit(
                _SOURCES,
                '"decoder_loss_weights": real_BT.astype(jnp.float32),',
                '"decoder_loss_weights": real_BT * (1.0 + sum(jnp.sum(x) for x in jax.tree.leaves(params))),',
            ),
        ),
        (*SOURCES, *LOSS),
    ),
    Mutant(
        "20a",
        "on-policy sequences are drawn from the parameters of the first step",
        (
            Edit(
                _SOURCES,
                "model, params = networks.draft, networks.draft_params",
                "model, params = networks.draft, jax.pure_callback("
                "lambda p, first={}: first.setdefault(0, p), networks.draft_params, networks.draft_params)",
            ),
        ),
        SOURCES,
    ),
    Mutant(
        "20b",
        "sequences are drawn at temperature 1, whatever was asked for",
        (Edit(_SOURCES, "return SamplingParams(self.temperature)", "return SamplingParams(1.0)"),),
        SOURCES,
    ),
    Mutant(
        "21a",
        "the target is asked, and its divergence weighs nothing",
        (Edit(_LOSS, 'jnp.sum(loss * part["weight"])', 'jnp.sum(0.0 * loss * part["weight"])'),),
        LOSS,
    ),
    Mutant(
        "21b",
        "a weighted sum takes a weight of 0",
        (Edit(_DIVERGENCES, "if not 0 < weight < math.inf:", "if not 0 <= weight < math.inf:"),),
        DIVERGENCES,
    ),
    Mutant(
        "30a",
        "the weights of the LK hybrid learn, too",
        (Edit(_FORMULAS, "jax.lax.stop_gradient(log_overlap(log_p, log_q))", "log_overlap(log_p, log_q)"),),
        DIVERGENCES,
    ),
    Mutant(
        "30b",
        "a token is weighed by its reach alone, and not by the drafts behind it",
        (Edit(_FORMULAS, "overlap_BT * (1 + following_BT)", "overlap_BT + 0 * following_BT"),),
        WEIGHTING,
    ),
    Mutant(
        "30c",
        "tokens are kept that the reference draft has learnt less than the draft",
        (Edit("distillation/token_selection.py", "return ours - theirs", "return theirs - ours"),),
        WEIGHTING,
    ),
    Mutant(
        "30d",
        "padding is among the tokens that a share is taken of",
        (Edit("distillation/token_selection.py", "jnp.sum(real_N)", "jnp.sum(real_N | True)"),),
        WEIGHTING,
    ),
    Mutant(
        "31a",
        "a continuation is drawn behind the whole text, of which a part is shown",
        (
            Edit(
                "decoding/autoregressive.py",
                "target=read.rewind(state.target.length_B + begun_B)",
                "target=read",
            ),
        ),
        ("tests/decoding/test_autoregressive.py",),
    ),
    Mutant(
        "31b",
        "the prefix that another wrote is learnt from, too",
        (
            Edit(
                "distillation/replay.py",
                "learnt_BT = (offset_BT >= 0) & (offset_BT < own_B[:, None])",
                "learnt_BT = offset_BT < own_B[:, None]",
            ),
        ),
        REPLAY,
    ),
    Mutant(
        "31c",
        "texts are cut where a draft would have been accepted",
        (
            Edit(
                "distillation/replay.py",
                "rejected_BT = real_BT & (drawn_BT >= accepted_BT)",
                "rejected_BT = real_BT & (drawn_BT < accepted_BT)",
            ),
        ),
        REPLAY,
    ),
    Mutant(
        "31d",
        "a source that turns goes by the steps since the restart",
        (
            Edit(
                "training/step.py",
                '"step": jnp.broadcast_to(state.step, rows)',
                '"step": jnp.zeros(rows, jnp.int32)',
            ),
        ),
        ("tests/distillation/test_schedules.py",),
    ),
    Mutant(
        "32",
        "a draft's own texts are the target's",
        (
            Edit(
                "distillation/expected_acceptance.py",
                "own = (draw(draft, params, batch, key)",
                "own = (draw(target, target_params, batch, key)",
            ),
        ),
        HELD_OUT,
    ),
    Mutant(
        "33",
        "tokens of all sequences are pooled, where each sequence has its own mean",
        (Edit(_LOSS, '    "sequence": by_sequence,', '    "sequence": by_token,'),),
        ON_POLICY,
    ),
)
