import pytest

from distillspec_jax.decoding import BlockRule, CandidatesRule, LenientRule, TokenRule
from distillspec_jax.decoding.rules import rule
from distillspec_jax.errors import UsageError


def test_names_and_their_rules():
    assert rule() == TokenRule()
    assert rule("block") == BlockRule()
    assert rule("token", candidates=4) == CandidatesRule()
    assert rule("square", epsilon=0.5) == LenientRule("square", 0.5)
    assert rule("linear") == LenientRule("linear", 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "blok"}, "unknown rule 'blok': did you mean 'block'"),
        ({"name": "token", "epsilon": 0.5}, "rule 'token' takes no epsilon .*choose a lenient rule, linear"),
        ({"name": "linear", "epsilon": 0}, r"epsilon is 0, must be in \(0, 1\]"),
        ({"candidates": 0}, "candidates is 0, must be at least 1"),
        ({"candidates": 65}, "candidates is 65, must be at most 64"),
        ({"name": "linear", "epsilon": 1e-310}, "epsilon is 1e-310, must be at least 1e-30"),
        ({"name": "block", "candidates": 2}, "rule 'block' verifies one .* not 2: use rule 'token'"),
        ({"name": "greedy"}, "rule 'greedy' was removed: rule 'token' at temperature 0"),
    ],
)
def test_what_does_not_go_together_is_said(arguments, message):
    with pytest.raises(UsageError, match=message):
        rule(**arguments)
