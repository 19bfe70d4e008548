"""Verification rules by the names that commands and tables use."""

from __future__ import annotations

from distillspec_jax.decoding.block_rule import BlockRule
from distillspec_jax.decoding.candidates_rule import CandidatesRule
from distillspec_jax.decoding.lenient_rule import LENIENCES, GreedyMatch, LenientRule
from distillspec_jax.decoding.verifiers import TokenRule, Verifier
from distillspec_jax.errors import UsageError, nearest

NAMES = ("token", "block", "greedy", *LENIENCES)


def rule(name: str = "token", *, epsilon: float | None = None, candidates: int = 1) -> Verifier:
    """The verifier of a name.

    Args:
      name: `token` and `block` keep the target's distribution, `greedy` its likeliest text; `linear`,
        `square` and `exponential` are the lenient rules.
      epsilon: of the lenient rules, and only of them; 1 (lossless) by default.
      candidates: blocks a row; several are verified by recursive rejection, token by token.

    Raises:
      UsageError: an unknown name, an epsilon that is out of place or range, candidates below 1 or more than
        the rule can verify.
    """
    if name not in NAMES:
        raise UsageError(f"unknown rule {name!r}: {nearest(name, NAMES)}")
    if candidates < 1:
        raise UsageError(f"candidates is {candidates}, must be at least 1")
    if candidates > 1 and name != "token":
        raise UsageError(f"rule {name!r} verifies one candidate block, not {candidates}: use rule 'token'")
    if name in LENIENCES:
        return LenientRule(name, 1.0 if epsilon is None else epsilon)
    if epsilon is not None:
        raise UsageError(
            f"rule {name!r} takes no epsilon (it is {epsilon}): choose a lenient rule, {', '.join(LENIENCES)}"
        )
    if candidates > 1:
        return CandidatesRule()
    lossless: dict[str, Verifier] = {"token": TokenRule(), "block": BlockRule(), "greedy": GreedyMatch()}
    return lossless[name]
