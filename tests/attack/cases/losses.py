"""Calls by which something of the user's was lost once, and those that tell each of the checks apart."""

from __future__ import annotations

from tests.attack.case import DONE, EITHER, REFUSED, Case, Step, call
from tests.attack.cases.commands import ADVISE, COLLECT, DRAFT, EVALUATE, GENERATE, PILOT, REPORT, SWEEP

_ASKED = "generate --model=target --input={} --output=out --max_new_tokens=4 --batch_size=2"
_SERVED = "generate --model=target --input=served.jsonl --max_new_tokens=4 --batch_size=2"

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
    # What only one check stands before: an output of the right kind, a file of another kind, a name beside it.
    (f"{_SERVED} --output=served.jsonl", (), REFUSED),
    (f"{_SERVED} --output=alias", (("hardlink", "alias", "served.jsonl"),), REFUSED),
    (f"{_SERVED} --output=/proc/self/cwd/served.jsonl", (), REFUSED),
    (f"{GENERATE} --output=notes.txt", (), REFUSED),
    (f"{GENERATE} --output=out", (("write", "out.partial", "mine"),), REFUSED),
    (f"{GENERATE} --output=out", (("write", "out.partial.settings", "mine"),), REFUSED),
    (f"{GENERATE} --output=target/metrics.jsonl", (), REFUSED),
    (f"{EVALUATE} --output=notes.txt", (), REFUSED),
    (f"{ADVISE} --output=notes.txt", (), REFUSED),
    (f"{REPORT} --output=notes.txt", (), REFUSED),
    (f"{COLLECT} --output=chatty", (), REFUSED),
    (f"{SWEEP} --output_dir=out", (("write", "out/results.jsonl", "mine"),), REFUSED),
    (f"{DRAFT} --output=full", (), REFUSED),
    (f"{PILOT} --output=target", (), REFUSED),
    (f"{PILOT} --output=. --restart", (), REFUSED),
    (f"{PILOT} --output=out --restart", (("write", "out/pilot.html", "mine"),), REFUSED),
    (
        f"{PILOT.replace('mine.jsonl', 'out/train.jsonl')} --output=out --restart",
        (("write", "out/job.json", "{}"), ("rename", "mine.jsonl", "out/train.jsonl")),
        REFUSED,
    ),
)


def cases() -> list[Case]:
    again = call(
        "losses",
        f"{EVALUATE} --output=alias",
        ("symlink", "alias", "held_out.json"),
        may=DONE,
        rewrites=("held_out.json",),
    )
    return [
        again,
        *(call("losses", line, *steps, may=may, root="/dev/" in line) for line, steps, may in LINES),
    ]
