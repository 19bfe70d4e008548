"""Numbers: every flag of every command that takes one, with those that cost the most or mean nothing.

The flags are asked of the commands' own parsers, so that a new flag is attacked by itself.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
from typing import Any

from tests.attack.case import EITHER, REFUSED, Case
from tests.attack.cases.commands import ALONE, EVERY

INTEGERS = (
    *("-1", "0", "1.5", "x", "", " ", "1e3", "0x10", "1_000", "٣", "-0", "+3", "nan", "inf", "None", "true"),
    *("1000000", "100000000", "1000000000", "1000000000000", "2147483647", "2147483648", "4294967296"),
    *("9223372036854775807", "9223372036854775808", "18446744073709551616", "9" * 30, "9" * 5000),
)
FLOATS = (
    *("-1", "0", "-0.0", "1", "2", "x", "", " ", "nan", "inf", "-inf", "1e-310", "1e-45", "1e308", "1e400"),
    *("1000000000", "9" * 400, "0x1p3", "1_0", "٣", "1,5", "True"),
)
LISTS = (
    ",",
    "1,",
    ",1",
    "1,,2",
    "1,1",
    "1;2",
    "[1,2]",
    ",".join(["1"] * 10_000),
    ",".join(map(str, range(1, 2000))),
)
NEVER = ("x", "", " ", "nan", "0x10", "1.5", "None", "true", "9" * 5000)
"""No whole number is written so, or none that anything has."""

MORE = (
    "--drafter=draft " * 20,
    "--drafter=lookup " * 20,
    "--drafter=draft " * 2000,
    "--stop=" + "a" * 100_000,
    "--stop=" + "ab" * 500,
    " ".join(f"--stop=s{i}" for i in range(2000)),
    "--candidates=64 --block_size=64 --max_new_tokens=64",
    "--candidates=1000 --max_new_tokens=4 --batch_size=2",
    "--batch_size=100000 --max_new_tokens=100000",
    "--num_samples=1000000000 --max_new_tokens=4",
    "--num_samples=100000 --max_new_tokens=4 --batch_size=4",
    "--block_size=9999 --max_new_tokens=10000",
    "--epsilon=1e-310 --rule=lenient",
    "--epsilon=nan --rule=lenient",
    "--epsilon=0 --rule=lenient",
    "--epsilon=0.5",
    "--top_k=1000000000000",
    "--num_partitions=3",
    "--num_partitions=1000000",
)
"""Further flags of `generate`."""


def cases() -> list[Case]:
    found = []
    for name, line in EVERY.items():
        argv = shlex.split(line)
        for option, kind in sorted(numeric(argv[0]).items()):
            for value in (
                INTEGERS
                if kind == "int"
                else FLOATS
                if kind == "float"
                else (*INTEGERS[:6], *FLOATS[-8:], *LISTS)
            ):
                kept = [word for word in argv if word.split("=")[0] != option]
                may = REFUSED if kind == "int" and value in NEVER else EITHER
                alone = name.startswith(ALONE)
                found.append(Case("numbers", (*kept, f"{option}={value}"), (), may, alone=alone))
    generate = ("generate", "--model=target", "--drafter=draft", "--input=asked.jsonl", "--output=out")
    found += [Case("numbers", (*generate, *shlex.split(more)), (), EITHER) for more in MORE]
    for value in (
        "0x0",
        "1x",
        "x1",
        "1x1x1",
        "-1x1",
        "1.5x1",
        "",
        "1000000x1",
        "1000000000x1000000000",
        "9" * 50 + "x1",
        "2x1",
    ):
        dryrun = [word for word in shlex.split(EVERY["dryrun"]) if not word.startswith("--mesh")]
        found.append(Case("numbers", (*dryrun, f"--mesh={value}"), (), EITHER, alone=True))
    for value in ("0", "-1", "nan", "inf", "-inf", "x", "", "1e400"):
        found.append(Case("numbers", ("demo", f"--minutes={value}", "--prompts=0"), (), REFUSED, alone=True))
    return found


def numeric(command: str) -> dict[str, str]:
    """A command's flags that take numbers: `int`, `float` or `list`."""
    found = {}
    for action in flags(command):
        kind = getattr(action.type, "__name__", "")
        option = action.option_strings[0] if action.option_strings else ""
        if not option.startswith("--"):
            continue
        if action.type in (int, float):
            found[option] = kind
        elif action.type is not None and ("list" in kind or "whole number" in kind or "number" in kind):
            found[option] = "int" if "auto" in kind or "all" in kind else "list"
    return found


def flags(command: str) -> list[Any]:
    """What a command's parser takes, as argparse knows it."""
    from distillspec_jax.cli.flags import CommandParser

    seen: list[CommandParser] = []

    class Seen(Exception):
        pass

    def parse(self: CommandParser, argv: Any) -> Any:
        del argv
        seen.append(self)
        raise Seen

    whole, CommandParser.parse = CommandParser.parse, parse  # type: ignore[method-assign]
    try:
        importlib.import_module(f"distillspec_jax.cli.{command}").main([])
    except Seen:
        pass
    finally:
        CommandParser.parse = whole  # type: ignore[method-assign]
    return [action for action in seen[0]._actions if not isinstance(action, argparse._HelpAction)]
