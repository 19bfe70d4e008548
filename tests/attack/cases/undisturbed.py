"""The calls that the others are made of, left in peace: where one fails, the attacks on it say nothing."""

from __future__ import annotations

from tests.attack.case import DONE, Case, call
from tests.attack.cases.commands import ALONE, EVERY

PYTHON = (
    "ds.generate('target', ['a'], drafter='draft', max_new_tokens=4)",
    "ds.sweep('target', {'d': 'draft'}, inputs='asked.jsonl', output='out', limit=2, max_new_tokens=4, "
    "block_sizes=[2], temperatures=[0.0], timing_prompts=0)",
    "ds.load('target')",
)


def cases() -> list[Case]:
    found = [call("undisturbed", line, may=DONE, alone=line.startswith(ALONE)) for line in EVERY.values()]
    return found + [Case("undisturbed", ("api", line), may=DONE) for line in PYTHON]
