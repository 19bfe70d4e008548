"""Where commands write: over what they read, over what others made, where nothing can be written."""

from __future__ import annotations

import shlex
from typing import Any

from tests.attack.case import DONE, EITHER, REFUSED, Case, call
from tests.attack.cases.commands import ALONE, FILES, FINETUNE, FOLDERS, GENERATE, INPUTS, STORED, TRAINING

LONG, DEEP = "n" * 300, "d/" * 2500 + "out"

ALIASES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("{}", ()),
    ("./{}", ()),
    ("full/../{}", ()),
    ("alias", (("hardlink", "alias", "{}"),)),
    ("alias", (("symlink", "alias", "{}"),)),
    ("alias", (("symlink", "alias", "second"), ("symlink", "second", "{}"))),
    ("here/{}", (("symlink", "here", "."),)),
)
"""Names of one file, and what makes them so."""

FILE_PLACES: tuple[tuple[str, str, tuple[Any, ...], dict[str, Any]], ...] = (
    # path, how it may end, what is done first, what else holds
    ("notes.txt", REFUSED, (), {}),
    ("frozen.txt", REFUSED, (), {}),
    ("train.jsonl", REFUSED, (), {}),
    ("spiece.model", REFUSED, (), {}),
    ("target/notes.txt", EITHER, (), {"makes": ("target/notes.txt",)}),
    ("target/checkpoints/1/params/_METADATA", REFUSED, (), {}),
    ("target", REFUSED, (), {}),
    ("full", REFUSED, (), {}),
    ("empty", REFUSED, (), {}),
    (".", REFUSED, (), {}),
    ("..", REFUSED, (), {}),
    ("/", REFUSED, (), {}),
    ("out/", EITHER, (), {}),
    ("", EITHER, (), {}),
    ("loop", REFUSED, (("symlink", "loop", "loop"),), {}),
    ("loop", REFUSED, (("symlink", "loop", "pool"), ("symlink", "pool", "loop")), {}),
    ("loop/out", REFUSED, (("symlink", "loop", "loop"),), {}),
    ("dangling", EITHER, (("symlink", "dangling", "out"),), {}),
    ("dangling", EITHER, (("symlink", "dangling", "new/out"),), {"makes": ("new", "new/out*")}),
    ("alias", REFUSED, (("symlink", "alias", "notes.txt"),), {}),
    ("alias", REFUSED, (("symlink", "alias", "full"),), {}),
    ("alias", REFUSED, (("hardlink", "alias", "notes.txt"),), {}),
    ("notes.txt/out", REFUSED, (), {}),
    ("locked/out", REFUSED, (), {}),
    ("locked/new/out", REFUSED, (), {}),
    ("locked/notes.txt", REFUSED, (), {}),
    ("new/deep/out", EITHER, (), {"makes": ("new", "new/*")}),
    (LONG, REFUSED, (), {}),
    ("n" * 250, EITHER, (), {"makes": ("n*",)}),
    (f"{LONG}/out", REFUSED, (), {}),
    (DEEP, REFUSED, (), {}),
    ("a\0b", REFUSED, (), {}),
    ("\udcff", EITHER, (), {"makes": ("*",)}),
    ("\ud800", REFUSED, (), {}),
    ("out\nput", EITHER, (), {"makes": ("*",)}),
    ("\x1b[31mout", EITHER, (), {"makes": ("*",)}),
    ("[/b]out", EITHER, (), {"makes": ("*",)}),
    ("-out", EITHER, (), {"makes": ("-out*",)}),
    ("~/out", EITHER, (), {"makes": ("~", "~/*")}),
    ("/dev/null", EITHER, (), {"root": True}),
    ("/dev/full", EITHER, (), {"root": True}),
    ("/dev/zero", EITHER, (), {"root": True}),
    ("/dev/random", EITHER, (), {"root": True}),
    ("/dev/../dev/null", EITHER, (), {"root": True}),
    ("alias", EITHER, (("symlink", "alias", "/dev/null"),), {"root": True}),
    ("alias", EITHER, (("symlink", "alias", "/dev/full"),), {"root": True}),
    ("/dev/stdout", EITHER, (), {}),
    ("/dev/stderr", EITHER, (), {}),
    ("/dev/fd/1", EITHER, (), {}),
    ("/dev/fd/99", REFUSED, (), {}),
    ("/dev/nothing", EITHER, (), {"root": True}),
    ("/dev/nothing/out", EITHER, (), {"root": True}),
    ("/proc/self/fd/1", EITHER, (), {}),
    ("/proc/self/mem", EITHER, (), {}),
    ("/proc/self/cwd/notes.txt", REFUSED, (), {}),
    ("/proc/nothing", REFUSED, (), {}),
    ("/proc/self/cwd/asked.jsonl", REFUSED, (), {}),
    ("theirs", REFUSED, (("write", "theirs", "mine"), ("theirs", "theirs")), {"root": True}),
    (
        "theirs",
        REFUSED,
        (("write", "theirs", "mine"), ("chmod", "theirs", 0o600), ("theirs", "theirs")),
        {"root": True},
    ),
    ("out", REFUSED, (("write", "out", "a note"),), {}),
    ("out", REFUSED, (("write", "out", "{}"),), {}),
    ("out", REFUSED, (("write", "out", '{"mine": 1}\n'),), {}),
    ("out", REFUSED, (("write", "out", '["mine"]\n'),), {}),
    ("out", REFUSED, (("write", "out", b"\xff\xfe\x00"),), {}),
    ("out", REFUSED, (("write", "out", "<!doctype html><p>mine"),), {}),
    ("out", REFUSED, (("write", "out", "[" * 100_000),), {}),
    ("out", EITHER, (("write", "out", ""),), {"rewrites": ("out",)}),
    ("out", REFUSED, (("write", "out", "mine"), ("chmod", "out", 0o000)), {}),
    ("out", EITHER, (("write", "out.partial", "mine"),), {}),
    ("out", EITHER, (("write", "out.tmp", "mine"),), {}),
    ("out", EITHER, (("write", ".out.tmp", "mine"), ("write", ".out.partial", "mine")), {}),
    ("out", EITHER, (("write", "out.partial.settings", "mine"),), {}),
    ("out", EITHER, (("write", "out.settings", "mine"),), {}),
    ("out", EITHER, (("mkdir", "out.partial"),), {}),
    ("out", EITHER, (("mkdir", "out.partial.settings"),), {}),
    ("out", EITHER, (("mkdir", "out.tmp"),), {}),
    ("out", EITHER, (("symlink", "out.partial", "notes.txt"),), {}),
    ("out", EITHER, (("hardlink", "out.partial", "asked.jsonl"),), {}),
    ("out", EITHER, (("symlink", "out.partial", "asked.jsonl"),), {}),
    ("out", EITHER, (("symlink", "out.partial.settings", "notes.txt"),), {}),
    ("out", EITHER, (("symlink", "out.partial.settings", "asked.jsonl"),), {}),
    ("out", EITHER, (("symlink", "out.tmp", "notes.txt"),), {}),
    ("out", EITHER, (("symlink", "out.partial", "loop"), ("symlink", "loop", "out.partial")), {}),
)

OWN_EARLIER = {
    "generate": "served.jsonl",
    "evaluate": "held_out.json",
    "advise": "advice.json",
}
"""Outputs of an earlier call, which the same command may write again."""

FOLDER_PLACES: tuple[tuple[str, str, tuple[Any, ...], dict[str, Any]], ...] = (
    ("target", REFUSED, (), {}),
    ("target/", REFUSED, (), {}),
    ("./target", REFUSED, (), {}),
    ("target/checkpoints", REFUSED, (), {}),
    ("target/checkpoints/1", REFUSED, (), {}),
    ("target/model.json", REFUSED, (), {}),
    ("draft", REFUSED, (), {}),
    ("alias", REFUSED, (("symlink", "alias", "target"),), {}),
    ("alias", REFUSED, (("symlink", "alias", "second"), ("symlink", "second", "target")), {}),
    ("here/target", REFUSED, (("symlink", "here", "."),), {}),
    ("chatty", REFUSED, (), {}),
    ("texts", REFUSED, (), {}),
    ("hf", REFUSED, (), {}),
    ("notes.txt", REFUSED, (), {}),
    ("notes.txt/out", REFUSED, (), {}),
    ("asked.jsonl", REFUSED, (), {}),
    ("locked", REFUSED, (), {}),
    ("locked/out", REFUSED, (), {}),
    ("locked/new/out", REFUSED, (), {}),
    ("loop", REFUSED, (("symlink", "loop", "loop"),), {}),
    ("loop/out", REFUSED, (("symlink", "loop", "loop"),), {}),
    ("dangling", EITHER, (("symlink", "dangling", "out"),), {}),
    ("alias", EITHER, (("symlink", "alias", "empty"),), {"makes": ("empty/*",)}),
    ("empty", EITHER, (), {"makes": ("empty*",)}),
    ("new/deep/out", EITHER, (), {"makes": ("new", "new/*")}),
    ("out", EITHER, (("write", "out/notes.txt", "mine"),), {}),
    ("out", EITHER, (("write", "out/.hidden", "mine"),), {}),
    ("out", EITHER, (("write", "out.partial", "mine"), ("write", "out.tmp", "mine")), {}),
    ("out", EITHER, (("write", "out/model.json", "mine"),), {}),
    ("out", EITHER, (("write", "out/model.json", "{}"),), {}),
    ("out", EITHER, (("write", "out/set.json", "mine"),), {}),
    ("out", EITHER, (("write", "out/set.json", "{}"),), {}),
    ("out", EITHER, (("write", "out/texts.jsonl", "mine"),), {}),
    ("out", EITHER, (("write", "out/texts.jsonl.partial", "mine"),), {}),
    ("out", EITHER, (("write", "out/tokenizer.model", "mine"),), {}),
    ("out", EITHER, (("write", "out/results.jsonl", "mine\nand mine"),), {}),
    ("out", EITHER, (("write", "out/results.jsonl", "mine"),), {}),
    ("out", EITHER, (("write", "out/results.jsonl", '{"mine": 1}\n{"mi'),), {}),
    ("out", EITHER, (("mkdir", "out/results.jsonl"),), {}),
    (
        "out",
        EITHER,
        (("mkdir", "out"), ("symlink", "out/results.jsonl", "../results.jsonl")),
        {"rewrites": ("results.jsonl",)},
    ),
    ("out", EITHER, (("mkdir", "out"), ("symlink", "out/results.jsonl", "../notes.txt")), {}),
    ("out", EITHER, (("mkdir", "out"), ("symlink", "out/texts.jsonl.partial", "../notes.txt")), {}),
    ("out", EITHER, (("mkdir", "out"), ("symlink", "out/set.json", "../notes.txt")), {}),
    ("out", EITHER, (("mkdir", "out"), ("symlink", "out/model.json", "../target/model.json")), {}),
    ("out", EITHER, (("mkdir", "out"), ("symlink", "out/checkpoints", "../target/checkpoints")), {}),
    ("out", EITHER, (("mkdir", "out"), ("hardlink", "out/results.jsonl", "asked.jsonl")), {}),
    ("out", EITHER, (("write", "out/metrics.jsonl", "mine"),), {}),
    ("out", EITHER, (("write", "out/checkpoints/7/notes.txt", "mine"),), {}),
    ("out", EITHER, (("write", "out/checkpoints/notes.txt", "mine"),), {}),
    ("out", EITHER, (("write", "out/damaged/notes.txt", "mine"),), {}),
    ("out", EITHER, (("write", "out/best/notes.txt", "mine"),), {}),
    ("full", EITHER, (), {"makes": ("full/*",)}),
    ("unended", EITHER, (), {"makes": ("unended/*",)}),
    (".", EITHER, (), {"makes": ("*",), "rewrites": ("results.jsonl",)}),
    ("..", EITHER, (), {}),
    ("/", REFUSED, (), {"root": True}),
    ("", EITHER, (), {"makes": ("*",), "rewrites": ("results.jsonl",)}),
    ("/dev/null", REFUSED, (), {"root": True}),
    ("/dev/full", REFUSED, (), {"root": True}),
    ("/dev/null/out", REFUSED, (), {"root": True}),
    ("alias", REFUSED, (("symlink", "alias", "/dev/null"),), {"root": True}),
    ("/proc/out", REFUSED, (), {}),
    ("/proc/self/cwd/target", EITHER, (), {"makes": ("target/results.jsonl",)}),
    (LONG, REFUSED, (), {}),
    (f"{LONG}/out", REFUSED, (), {}),
    ("n" * 250, EITHER, (), {"makes": ("n*",)}),
    (DEEP, REFUSED, (), {}),
    ("a\0b", REFUSED, (), {}),
    ("\udcff", EITHER, (), {"makes": ("*",)}),
    ("\ud800", REFUSED, (), {}),
    ("out\nput", EITHER, (), {"makes": ("*",)}),
    ("\x1b[31mout", EITHER, (), {"makes": ("*",)}),
    ("[/b]out", EITHER, (), {"makes": ("*",)}),
    ("fifo", REFUSED, (("fifo", "fifo"),), {}),
    ("theirs", REFUSED, (("mkdir", "theirs"), ("theirs", "theirs")), {"root": True}),
)

ROWS_OF_A_FILE = (
    "evaluate --model=target --gin_file=tasks/jsonl.gin --gin.TASK_NAME=mine --gin.TRAIN_FILE=train.jsonl "
    "--gin.TEST_FILE=valid.jsonl --limit=2 --output=valid.jsonl"
)
"""Its output is the file that the task's rows come from."""

CACHES = ("target", "texts", "notes.txt", "locked", "locked/out", "/dev/null", LONG, "loop")
"""Folders for compiled programs."""

BUILDS = ("notes.txt", "target", "locked", "locked/out", "loop", "/dev/null", "\0", LONG)
"""Folders for `demo` and `zoo --build`, both of which end before they train."""


def cases() -> list[Case]:
    found = []
    for command, line in FILES.items():
        for name in INPUTS[command]:
            for path, steps in ALIASES:
                filled = tuple(tuple(part.format(name) for part in step) for step in steps)
                found.append(_at(line, path.format(name), filled, REFUSED))
        for path, may, steps, more in FILE_PLACES:
            found.append(_at(line, path, steps, may, **more))
        earlier = OWN_EARLIER.get(command)
        if earlier:
            found.append(_at(line, earlier, (), DONE, rewrites=(earlier,)))
    for name, line in FOLDERS.items():
        for path, may, steps, more in FOLDER_PLACES:
            if name == "sweep" and not path.startswith(("/", "target/checkpoints")):
                # It adds one file to any folder that has none of that name.
                may, more = EITHER, {**more, "makes": (*more.get("makes", ()), "*/results.jsonl")}
            found.append(_at(line, path, steps, may, **more))
    for line in TRAINING.values():
        for path, may, steps, more in FOLDER_PLACES:
            found.append(_at(line, path, steps, may, **more))
    found += [_at(f"{STORED} --gin.MODEL_DIR={{}}", "texts", (), REFUSED)]
    found.append(call("outputs", ROWS_OF_A_FILE, may=REFUSED))
    loops = (("symlink", "loop", "loop"),)
    for path in CACHES:
        for line in (
            f"{GENERATE} --output=out --compilation_cache={{}}",
            f"{FINETUNE} --gin.MODEL_DIR=out --compilation_cache={{}}",
        ):
            may = EITHER if path == "notes.txt" else REFUSED
            root = path.startswith("/dev")
            found.append(_at(line, path, loops if path == "loop" else (), may, alone=True, root=root))
    for path in BUILDS:
        for line in ("demo --prompts=1 --output_dir={}", "zoo --build --directory={} --limit=1"):
            steps = loops if path == "loop" else ()
            found.append(_at(line, path, steps, REFUSED, alone=True, root=path.startswith("/dev")))
    return found


def _at(line: str, path: str, steps: tuple[Any, ...], may: str, **more: Any) -> Case:
    argv = tuple(word.replace("{}", path) for word in shlex.split(line))
    alone = more.pop("alone", False) or line.startswith(ALONE)
    return Case("outputs", argv, tuple(steps), may, alone=alone, **more)
