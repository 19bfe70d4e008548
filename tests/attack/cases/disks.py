"""Disks that fill while a command writes, in memory and of a few kilobytes."""

from __future__ import annotations

import shlex

from tests.attack.case import EITHER, Case
from tests.attack.cases.commands import ALONE, FILES, FOLDERS, TRAINING

SIZES = ("4k", "8k", "16k", "32k", "64k", "128k", "256k", "512k", "1m")
RESUMABLE = ("small/out.partial*", "small/out", "small/out/*")


def cases() -> list[Case]:
    found = []
    for name, line in {**FILES, **FOLDERS, **TRAINING}.items():
        leaves = RESUMABLE if name in ("generate", "collect", "sweep", "finetune", "distill") else ()
        for size in SIZES if name not in TRAINING else SIZES[::2]:
            argv = tuple(word.replace("{}", "small/out") for word in shlex.split(line))
            found.append(
                Case(
                    "disks",
                    argv,
                    (("disk", "small", size),),
                    EITHER,
                    makes=("small/*",),
                    leaves=leaves,
                    alone=line.startswith(ALONE),
                    root=True,
                )
            )
    return found
