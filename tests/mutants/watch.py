"""The mutants of `watch`: false alarms, drops that nobody hears of, and requests counted twice or guessed."""

from __future__ import annotations

from tests.mutants.catalog import Edit, Mutant

_ALARM = "evaluation/alarm.py"
_READERS = ("tests/evaluation/test_engines.py", "tests/evaluation/test_scrapes.py")


def _watch(number: str, bug: str, edit: tuple[str, str, str], *tests: str) -> Mutant:
    return Mutant(f"W{number}", bug, (Edit(*edit),), tests)


WATCH = (
    _watch(
        "1",
        "gamblers who begin later have as much money as the first: evidence is no longer bounded",
        (
            _ALARM,
            "np.arange(first, first + count) ** -_DECAY / zeta(_DECAY)",
            "np.ones(count) / zeta(_DECAY)",
        ),
        "tests/evaluation/test_alarm.py",
    ),
    _watch(
        "2",
        "bets on requests alone decide, which sessions deceive",
        (_ALARM, "np.minimum(of_requests_U, of_blocks_U)", "of_requests_U"),
        "tests/evaluation/test_alarm.py",
    ),
    _watch(
        "3",
        "a block's variance is foreseen from the block itself",
        (_ALARM, "seen_B = (after_B - step_B) / 2", "seen_B = after_B / 2"),
        "tests/evaluation/test_alarm.py",
    ),
    _watch(
        "4",
        "the estimate of few prompts is taken for the truth",
        (
            "evaluation/reference.py",
            "min(found.value * (1.0 - margin), low)",
            "found.value * (1.0 - margin)",
        ),
        "tests/evaluation/test_alarm.py",
    ),
    _watch(
        "5",
        "what a process counted before it was seen is taken for new",
        ("evaluation/engines/differences.py", "if one.source not in known:", "if False:"),
        *_READERS,
    ),
    _watch(
        "6",
        "all rounds are taken for full, so that tested drafts are guessed",
        (
            "evaluation/engines/engine.py",
            "return rounds + accepted - full if drafted == rounds * block_size else None",
            "return rounds + accepted - full",
        ),
        *_READERS,
    ),
    _watch(
        "7",
        "a file that was rotated is read from its beginning again",
        ("evaluation/served_files.py", "_digest(whole[: one.size]) == one.digest", "False"),
        "tests/evaluation/test_watching.py",
    ),
    _watch(
        "8",
        "segments do not share the rate of false alarms",
        (
            "evaluation/watching.py",
            "return 2 * self._tests / self.false_alarms",
            "return 2 / self.false_alarms",
        ),
        "tests/evaluation/test_watching.py",
    ),
)
