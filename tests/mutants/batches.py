"""The mutants of rows in company: weights of few rows, stop strings, drafters that follow, arrivals."""

from __future__ import annotations

from tests.mutants.catalog import Edit, Mutant

SLOTS = ("tests/exactness/test_slots.py",)
FOLLOWING = ("tests/decoding/test_drafters.py::test_a_draft_that_follows_drafts_on_the_true_prefix",)
ARRIVALS = ("tests/decoding/test_online.py",)

_SPECULATIVE, _ONE_PASS = "decoding/speculative.py", "decoding/one_pass_drafter.py"

BATCHES = (
    Mutant(
        "26a",
        "a target in eight bits reads prompts with weights that were not rounded",
        (
            Edit(
                "models/pretrained.py",
                "dataclasses.replace(model, int8=True), quantised.rounded(params)",
                "dataclasses.replace(model, int8=True), params",
            ),
        ),
        SLOTS,
    ),
    Mutant(
        "26b",
        "drafts after a stop string that began in an earlier round are tested and kept",
        (
            Edit(
                _SPECULATIVE,
                "ends_BNG = ends(rows.output_BT, rows.emitted_B, tokens_BNG)",
                "ends_BNG = ends(rows.output_BT, 0 * rows.emitted_B, tokens_BNG)",
            ),
        ),
        SLOTS,
    ),
    Mutant(
        "26c",
        "a stop string that the target's own token completes is missed if it began in an earlier round",
        (
            Edit(
                _SPECULATIVE,
                "ends_BK = self.stopping.ends(rows.output_BT, rows.emitted_B, block_BK)",
                "ends_BK = self.stopping.ends(rows.output_BT, 0 * rows.emitted_B, block_BK)",
            ),
        ),
        SLOTS,
    ),
    Mutant(
        "26d",
        "decoding token by token forgets how a stop string began",
        (
            Edit(
                "decoding/autoregressive.py",
                "self.stopping.ends(rows.output_BT, rows.emitted_B, token_B1)",
                "self.stopping.ends(rows.output_BT, 0 * rows.emitted_B, token_B1)",
            ),
        ),
        ("tests/decoding/test_stopping.py",),
    ),
    Mutant(
        "27a",
        "a one-pass draft that follows a text reads what is beyond its unread drafts",
        (
            Edit(
                _ONE_PASS,
                "jnp.where(place_BX < count_B1, place_BX, place_BX + self.block_size - count_B1)",
                "place_BX",
            ),
        ),
        FOLLOWING,
    ),
    Mutant(
        "27b",
        "a one-pass draft that has followed a text reads its old drafts again",
        (Edit(_ONE_PASS, "count_B=jnp.where(some_B, 0, state.count_B),", "count_B=state.count_B,"),),
        FOLLOWING,
    ),
    Mutant(
        "27c",
        "a one-pass draft that follows a text begins with the target's first token",
        (Edit(_ONE_PASS, "begun_B=state.begun_B | some_B", "begun_B=state.begun_B | True"),),
        FOLLOWING,
    ),
    Mutant(
        "28",
        "a prompt that asks for top-p alone, with no row of top-k beside it, gets the whole distribution",
        (
            Edit(
                "decoding/online.py",
                "return self.prompt.top_k > 0 or self.prompt.top_p < 1",
                "return self.prompt.top_k > 0",
            ),
        ),
        ARRIVALS,
    ),
)
