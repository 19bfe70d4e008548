"""The mutants of registries, gates and rollouts: what serves and should not, and steps taken twice."""

from __future__ import annotations

from tests.mutants.catalog import Edit, Mutant

_REGISTRY, _TRANSITIONS = "operations/draft_registry.py", "operations/transitions.py"
_REGISTRY_TESTS, _ROLLOUT_TESTS = (
    "tests/operations/test_draft_registry.py",
    "tests/operations/test_rollout.py",
)
_PROMPTS_TESTS = "tests/operations/test_prompts.py"


def _mutant(number: str, bug: str, edit: tuple[str, str, str], *tests: str) -> Mutant:
    return Mutant(f"O{number}", bug, (Edit(*edit),), tests)


OPERATIONS = (
    _mutant(
        "1",
        "going back twice goes to the draft that was just left",
        (_TRANSITIONS, 'if one.action == "roll back" and stack[-2:-1] == [one.stable]:', "if False:"),
        _REGISTRY_TESTS,
    ),
    _mutant(
        "2",
        "a step is taken on a state that is another by now",
        (_REGISTRY, "if expected is not None and expected != last.revision:", "if False:"),
        _REGISTRY_TESTS,
        _ROLLOUT_TESTS,
    ),
    _mutant(
        "3",
        "two processes change the state at once",
        (_REGISTRY, "                if free:\n", "                if free is not None:\n"),
        _REGISTRY_TESTS,
    ),
    _mutant(
        "4",
        "a gain that may be chance passes the gate",
        (
            "operations/gate.py",
            "if not new.low >= 1 + conditions.least_gain:",
            "if not new.value >= 1 + conditions.least_gain:",
        ),
        "tests/operations/test_gate.py",
    ),
    _mutant(
        "5",
        "prompts are held out by a hash that every process has another of",
        (
            "operations/prompts.py",
            "return _share(self.inputs, 0) < HELD_OUT",
            "return hash(self.inputs) % 5 == 0",
        ),
        _PROMPTS_TESTS,
    ),
    _mutant(
        "6",
        "prompts on which no draft was ever trained pass for old ones",
        (
            "operations/prompts.py",
            "old = [one for one in sample if one.since in versions]",
            "old = list(sample)",
        ),
        _PROMPTS_TESTS,
    ),
    _mutant(
        "7",
        "lines of an earlier stage count for the next one",
        (
            "operations/arms.py",
            "return None if revision == stage.revision else OTHER_STAGE",
            "return None",
        ),
        _ROLLOUT_TESTS,
    ),
    _mutant(
        "8",
        "a prompt that comes again counts as evidence of its own",
        ("operations/arms.py", "if unit.prompt is not None and unit.prompt in seen:", "if False:"),
        _ROLLOUT_TESTS,
    ),
    _mutant(
        "9",
        "the lower bound is made of the wrong side's bets",
        (
            "operations/two_arms.py",
            "low = 1.0 - _highest(bottom_P - top_P,",
            "low = 1.0 - _highest(top_P,",
        ),
        "tests/operations/test_two_arms.py",
    ),
    _mutant(
        "10",
        "the candidate goes on as soon as its mean looks well",
        (
            "operations/two_arms.py",
            "sound=candidate.low > (1.0 - margin) * stable.high",
            "sound=candidate.value > (1.0 - margin) * stable.value",
        ),
        "tests/operations/test_two_arms.py",
        _ROLLOUT_TESTS,
    ),
    _mutant(
        "11",
        "a pilot trains on the prompts that it is judged by",
        (
            "operations/pilot.py",
            "trained = [one for one in asked.prompts if not one.held_out]",
            "trained = list(asked.prompts)",
        ),
        "tests/operations/test_pilot.py",
    ),
    _mutant(
        "12",
        "a pilot says go by its estimate, and not by the cautious end",
        (
            "evaluation/prospect.py",
            "if not self.gain.low >= 1 + least_gain:",
            "if not self.gain.value >= 1 + least_gain:",
        ),
        "tests/evaluation/test_prospect.py",
    ),
)
