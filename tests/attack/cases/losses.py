"""The sixteen calls by which release 0.2.0 lost something of the user's, as they were found."""

from __future__ import annotations

from tests.attack.case import EITHER, REFUSED, Case, Step, call
from tests.attack.cases.commands import ADVISE, COLLECT, EVALUATE, GENERATE, REPORT, SWEEP

_ASKED = "generate --model=target --input={} --output=out --max_new_tokens=4 --batch_size=2"
LINES: tuple[tuple[str, tuple[Step, ...], str], ...] = (
    (f"{GENERATE} --output=asked.jsonl", (), REFUSED),
    (_ASKED.format("out.partial"), (("rename", "asked.jsonl", "out.partial"),), REFUSED),
    (_ASKED.format("out.partial.settings"), (("rename", "asked.jsonl", "out.partial.settings"),), REFUSED),
    (f"{GENERATE} --output=target/model.json", (), REFUSED),
    (f"{GENERATE} --output=draft/tokenizer.model", (), REFUSED),
    (f"{REPORT} --output=results.jsonl", (), REFUSED),
    (f"{REPORT} --output=metrics.jsonl", (), REFUSED),
    ("report out.tmp --output=out", (("rename", "results.jsonl", "out.tmp"),), EITHER),
    (f"{EVALUATE} --output=target/model.json", (), REFUSED),
    ("evaluate --model=draft --task=office_help_ende --limit=2 --output=draft/tokenizer.model", (), REFUSED),
    (f"{ADVISE} --output=asked.jsonl", (), REFUSED),
    (f"{ADVISE} --output=draft/model.json", (), REFUSED),
    (f"{COLLECT} --output=target", (), REFUSED),
    (f"{SWEEP} --output_dir=unended", (), REFUSED),
    (f"{REPORT} --output=/dev/null", (), EITHER),
    (f"{REPORT} --output=/dev/full", (), EITHER),
)


def cases() -> list[Case]:
    return [call("losses", line, *steps, may=may, root="/dev/" in line) for line, steps, may in LINES]
