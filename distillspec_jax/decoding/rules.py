"""Verification rules by the names that commands and tables use.

A new rule needs its own file and one line in `RULES`. Then `--rule` and `--rules` accept it, `--help`
describes it, and, if it is exact, `make test` checks whole outputs against their exact joint distribution
(`tests/exactness`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from distillspec_jax import bounds
from distillspec_jax.deferred import deferred
from distillspec_jax.errors import UsageError, find

if TYPE_CHECKING:
    from distillspec_jax.decoding.verifiers import Verifier


@dataclasses.dataclass(frozen=True)
class Rule:
    """One entry of `RULES`.

    Attributes:
      make: makes the verifier; takes `epsilon` if `takes_epsilon`.
      description: a phrase for `--help`.
      exact: the output follows the target's distribution. False for a rule that sacrifices that for speed.
      takes_epsilon: the rule has a parameter epsilon, which is 1 by default.
      make_for_several: makes the verifier of several candidate blocks per row; None if the rule takes only
        one.
    """

    make: Callable[..., Verifier]
    description: str
    exact: bool = True
    takes_epsilon: bool = False
    make_for_several: Callable[..., Verifier] | None = None


_LENIENT_RULE = deferred("distillspec_jax.decoding.lenient_rule", "LenientRule")
_lenient = functools.partial(Rule, exact=False, takes_epsilon=True)

RULES: dict[str, Rule] = {
    "token": Rule(
        deferred("distillspec_jax.decoding.verifiers", "TokenRule"),
        "exact; judges draft by draft",
        make_for_several=deferred("distillspec_jax.decoding.candidates_rule", "CandidatesRule"),
    ),
    "block": Rule(
        deferred("distillspec_jax.decoding.block_rule", "BlockRule"),
        "exact; judges the block as a whole, which keeps more of it",
    ),
    "linear": _lenient(functools.partial(_LENIENT_RULE, "linear"), "lenient; p / epsilon in the place of p"),
    "square": _lenient(functools.partial(_LENIENT_RULE, "square"), "lenient; p / epsilon^2"),
    "exponential": _lenient(functools.partial(_LENIENT_RULE, "exponential"), "lenient; p^epsilon"),
}


def rule(name: str = "token", *, epsilon: float | None = None, candidates: int = 1) -> Verifier:
    """Makes the named verifier.

    Args:
      name: a key of `RULES`.
      epsilon: only for a rule with this parameter; 1 (lossless) by default.
      candidates: blocks per row; several are verified by recursive rejection sampling, token by token.

    Raises:
      UsageError: the name is unknown, `epsilon` is out of range or not a parameter of the rule, or
        `candidates` is below 1, above `bounds.CANDIDATES` or more than the rule can verify.
    """
    if name == "greedy" and name not in RULES:
        raise UsageError("rule 'greedy' was removed: rule 'token' at temperature 0 keeps the same tokens")
    found = find("rule", name, RULES)
    if candidates < 1:
        raise UsageError(f"candidates is {candidates}, must be at least 1")
    bounds.check_most("candidates", candidates, bounds.CANDIDATES)
    make = found.make if candidates == 1 else found.make_for_several
    if make is None:
        able = " or ".join(repr(known) for known, entry in RULES.items() if entry.make_for_several)
        raise UsageError(f"rule {name!r} verifies one candidate block, not {candidates}: use rule {able}")
    if found.takes_epsilon:
        return make(epsilon=1.0 if epsilon is None else epsilon)
    if epsilon is not None:
        able = ", ".join(known for known, entry in RULES.items() if entry.takes_epsilon)
        raise UsageError(f"rule {name!r} takes no epsilon (it is {epsilon}): choose a lenient rule, {able}")
    return make()


def described() -> str:
    """Describes every rule, for `--help`."""
    return ", ".join(f"{name} ({entry.description})" for name, entry in RULES.items())
