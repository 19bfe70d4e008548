"""Text of users and of their files on its way to the terminal, to plots and to pages: it is text, and no code."""

from __future__ import annotations

import json

from tests.attack.case import DONE, EITHER, REFUSED, Case, call
from tests.attack.cases.commands import EVALUATE, REPORT

TEXTS = (
    "[/b]",
    "[bold]",
    "[/]",
    "[link=http://a]x",
    "[red]x[/red]",
    "\\[b]",
    "$\\frac$",
    "$x",
    "$$",
    "$\\alpha_{$",
    "\\frac{1}",
    "_^{}%#&~",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x1b[2J",
    "a\rb",
    "a\nb",
    "a\tb",
    "\x00",
    "\x07",
    "\x7f",
    "\x9b31m",
    "\u202eevil",
    "\u2028",
    "\ufeff",
    "<script>alert(1)</script>",
    "'\"><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}",
    "{% raise %}",
    "%s %d %(x)s",
    "{0.__class__}",
    "ﷺ" * 50,
    "é" * 1000,
    "x" * 10_000,
    "👩‍👩‍👧‍👦" * 20,
    "",
    " ",
)
NO_ARGUMENT = ("\x00",)
SURROGATES = ("\ud800", "\udcff", "a\udfffb")

ROW_FIELDS = (
    "drafter",
    "target",
    "task",
    "split",
    "device",
    "verifier",
    "dtype",
    "command",
    "primary_metric",
    "drafter_path",
    "version",
)


def cases() -> list[Case]:
    found = []
    for text in (*TEXTS, *SURROGATES):
        may = REFUSED if text in SURROGATES else EITHER
        value = json.dumps(text)
        for field in ROW_FIELDS:
            found.append(call("text", REPORT, ("field", "results.jsonl:2", field, value), may=EITHER))
        found.append(
            call("text", "draft --target=target", ("field", "target/model.json", "task", value), may=EITHER)
        )
        found.append(call("text", EVALUATE, ("field", "target/model.json", "prefix", value), may=EITHER))
        sent = ("field", "served.jsonl:2", "inputs", value)
        found.append(call("text", "watch served.jsonl", sent, may=EITHER))
        label = ("field", "asked.jsonl:1", "inputs", value)
        asked = "generate --model=target --input=asked.jsonl --output=- --max_new_tokens=4 --batch_size=2"
        found.append(call("text", asked, label, may=may if text in SURROGATES else EITHER))
        if text in NO_ARGUMENT:
            continue
        argument = _arguments(text)
        found += [Case("text", argv, steps, may=EITHER) for argv, steps in argument]
    for text in ("[/b]", "$\\frac$", "<b>", "%s", "[red]"):
        found.append(
            call("text", REPORT, ("field", "results.jsonl:2", "drafter", json.dumps(text)), may=DONE)
        )
        found.append(Case("text", ("watch", f"{text}=served.jsonl"), (), may=DONE))
        found.append(Case("text", ("report", "results.jsonl", f"--title={text}"), (), may=DONE))
        found.append(
            Case("text", ("report", "results.jsonl", f"--training={text}=metrics.jsonl"), (), may=DONE)
        )
        for name in (text.replace("/", "⁄"),):
            found.append(Case("text", ("draft", f"--target={name}"), (("copy", "target", name),), may=DONE))
            found.append(Case("text", ("watch", name), (("copy", "served.jsonl", name),), may=DONE))
            found.append(
                Case("text", ("report", name, "--output=out"), (("copy", "results.jsonl", name),), may=DONE)
            )
    return found


def _arguments(text: str) -> list[tuple[tuple[str, ...], tuple[tuple[str, str, str], ...]]]:
    """Commands that print, draw or open what they are given."""
    return [
        (("watch", f"{text}=served.jsonl"), ()),
        (("watch", text), ()),
        (("report", "results.jsonl", f"--title={text}"), ()),
        (("report", "results.jsonl", f"--training={text}=metrics.jsonl"), ()),
        (("report", text), ()),
        (("draft", f"--target={text}"), ()),
        (("generate", "--model=target", f"--input={text}"), ()),
        (("generate", f"--model={text}", "--input=asked.jsonl"), ()),
        (("generate", "--model=target", "--input=asked.jsonl", f"--field={text}"), ()),
        (("generate", "--model=target", "--input=asked.jsonl", f"--task={text}"), ()),
        (("generate", "--model=target", "--input=asked.jsonl", "--max_new_tokens=4", f"--prefix={text}"), ()),
        (("generate", "--model=target", "--input=asked.jsonl", "--max_new_tokens=4", f"--stop={text}"), ()),
        (("generate", "--model=target", "--input=asked.jsonl", f"--rule={text}"), ()),
        (("generate", "--model=target", "--input=asked.jsonl", f"--dtype={text}"), ()),
        (("generate", "--model=target", "--input=asked.jsonl", f"--drafter={text}"), ()),
        (
            (
                "sweep",
                "--target=target",
                f"--drafter={text}=draft",
                "--inputs=asked.jsonl",
                "--output_dir=out",
                "--limit=1",
                "--max_new_tokens=4",
                "--timing_prompts=0",
                "--block_sizes=2",
                "--temperatures=0",
            ),
            (),
        ),
        (("evaluate", "--model=target", f"--task={text}"), ()),
        (("evaluate", "--model=target", "--task=office_help_ende", f"--split={text}"), ()),
        (("convert", f"--from={text}", "--input=hf", "--output=out"), ()),
        (("convert", "--from=hf", f"--input={text}", "--output=out"), ()),
        (("zoo", "--build", f"--family={text}"), ()),
        (("demo", f"--task={text}"), ()),
        (("demo", f"--family={text}", "--prompts=1"), ()),
        ((text,), ()),
        (("watch", f"--{text}", "served.jsonl"), ()),
    ]
