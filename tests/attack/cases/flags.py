"""Command lines: every flag misspelt, empty, doubled, without its value; commands that are none."""

from __future__ import annotations

import shlex

from distillspec_jax.cli.main import COMMANDS
from tests.attack.case import EITHER, REFUSED, Case
from tests.attack.cases import numbers
from tests.attack.cases.commands import ALONE, EVERY

LINES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("",), REFUSED),
    (("generat",), REFUSED),
    (("-x",), REFUSED),
    (("--verbose",), REFUSED),
    (("../cli/generate",), REFUSED),
    (("main",), REFUSED),
    (("errors",), REFUSED),
    (("flags",), REFUSED),
    (("__init__",), REFUSED),
    (("a.b",), REFUSED),
    (("GENERATE",), REFUSED),
    (("help",), EITHER),
    (("--help", "x"), EITHER),
    (("--version", "x"), EITHER),
    (("x" * 100_000,), REFUSED),
    (("generate", "--help=x"), REFUSED),
    (("generate", "@notes.txt"), REFUSED),
    (("generate", "--", "--model=target"), REFUSED),
    (("generate", "--gin_file"), REFUSED),
    (("generate", *["--model=target"] * 5000), EITHER),
)
SERVE = (
    "--port=65536",
    "--port=-1",
    "--port=x",
    "--host=nowhere.invalid",
    "--host=999.1.1.1",
    "--batch_size=0",
    "--batch_size=1000000000",
    "--max_prompt_tokens=0",
    "--max_prompt_tokens=2000000000",
    "--max_new_tokens=2000000000",
    "--max_queue=-1",
    "--max_body_bytes=1",
    "--block_size=0",
    "--block_size=1e3",
    "--block_size=1000000",
    "--rounds_per_visit=0",
    "--grace_seconds=-1",
    "--rule=x",
    "--epsilon=0.5",
    "--candidates=0",
    "--drafter=nowhere",
    "--drafter=notes.txt",
    "--registry=notes.txt",
    "--registry=drafts --drafter=draft",
    "--tokens_file=nowhere",
    "--tokens_file=asked.jsonl",
    "--log=notes.txt",
    "--log=nowhere/served.jsonl",
    "--log_texts",
    "--task=x",
    "--dtype=x",
    "--num_partitions=3",
    "--drafter=none --drafter=draft",
)
"""Flags with which `serve` must refuse to begin; it would not end by itself."""
TEXT_MAY_BE_EMPTY = ("--prefix", "--title")


def cases() -> list[Case]:
    found = [Case("flags", argv, (), may) for argv, may in LINES]
    found += [
        Case("flags", ("serve", "--model=target", "--port=0", *flags.split()), (), REFUSED) for flags in SERVE
    ]
    for command in COMMANDS:
        found += [Case("flags", (command, "--help"), (), EITHER, alone=command in ALONE)]
        found += [
            Case("flags", (command, word), (), REFUSED)
            for word in ("--", "-", "--=", "--x=1", "extra", "-1", "--gin.=1")
        ]
    for line in EVERY.values():
        argv = tuple(shlex.split(line))
        alone = line.startswith(ALONE)
        for action in numbers.flags(argv[0]):
            if not action.option_strings or action.dest == "_binding":
                continue
            option = action.option_strings[0]
            kept = tuple(word for word in argv if word.split("=")[0] != option)
            empty = EITHER if option in TEXT_MAY_BE_EMPTY else REFUSED
            found.append(Case("flags", (*kept, f"{option}="), (), empty, alone=alone))
            found.append(Case("flags", (*kept, f"{option} "), (), REFUSED, alone=alone))
            found.append(
                Case(
                    "flags",
                    (*kept, f"{option[:-1]}"),
                    (),
                    REFUSED if len(option) > 4 else EITHER,
                    alone=alone,
                )
            )
            found.append(Case("flags", (*kept, f"{option}x=1"), (), REFUSED, alone=alone))
            found.append(Case("flags", (*kept, option.upper() + "=1"), (), REFUSED, alone=alone))
            if action.nargs != 0:
                found.append(Case("flags", (*kept, option), (), REFUSED, alone=alone))
                found.append(Case("flags", (*kept, f"{option}=\x00"), (), EITHER, alone=alone))
                found.append(Case("flags", (*kept, f"{option}=\udcff"), (), EITHER, alone=alone))
                found.append(Case("flags", (*kept, f"{option}={'x' * 50_000}"), (), EITHER, alone=alone))
                found.append(Case("flags", (*kept, f"{option}=/nowhere/at/all"), (), EITHER, alone=alone))
            else:
                found.append(Case("flags", (*kept, f"{option}=yes"), (), REFUSED, alone=alone))
    return found
