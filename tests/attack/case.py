"""A case: what is done to a small world of files, the command that then runs, and how it may end."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shlex
import shutil
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

REFUSED, EITHER, DONE = "refused", "either", "done"
"""Exit status 2 and one line; that, or 0; only 0."""

Step = tuple[Any, ...]
"""(verb, argument, …): see `STEPS`."""

OWN = ("out", "out/*", "out.*", "report.html")
"""Names under which commands of these cases write; `*` takes slashes, too."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One hostile call.

    Attributes:
      group: the mechanism that is attacked.
      argv: the command and its arguments; `api` and a Python expression in which `ds` is the package.
      before: what is done to the world first.
      may: `REFUSED`, `EITHER` or `DONE`.
      makes: names that a call which reaches its end may add, beside `OWN`.
      rewrites: names of its own earlier outputs, which it may write again then.
      leaves: names that a refused call may add: an interrupted run's, which the same command goes on with.
      stdin: its standard input.
      alone: in a process of its own, since the command changes settings of the whole process.
      root: needs root: a device, a small disk, another user's file.
    """

    group: str
    argv: tuple[str, ...]
    before: tuple[Step, ...] = ()
    may: str = EITHER
    makes: tuple[str, ...] = ()
    rewrites: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    stdin: str = ""
    alone: bool = False
    root: bool = False

    @property
    def command(self) -> str:
        return self.argv[0] if self.argv and self.argv[0].isidentifier() else "(none)"

    @property
    def names(self) -> str:
        """All that it may name, for `world.copy`."""
        return " ".join([*self.argv, *(str(part)[:200] for step in self.before for part in step)])

    def __str__(self) -> str:
        steps = "; ".join(" ".join(_short(part) for part in step) for step in self.before)
        line = " ".join(_short(word) for word in self.argv)
        return f"{line}   [{steps}]" if steps else line


def _short(part: Any, most: int = 120) -> str:
    text = part if isinstance(part, str) else repr(part)
    shown = ascii(text[:most])[1:-1]
    text = shown if len(text) <= most else f"{shown}… ({len(text):,} characters)"
    return shlex.quote(text) if " " in text else text


def call(group: str, line: str, *before: Step, **more: Any) -> Case:
    """A case of a command line as a shell would split it."""
    return Case(group, tuple(shlex.split(line)), before, **more)


def raw(value: Any) -> str:
    """A value as JSON text; text that begins with `=` is JSON already, or nearly."""
    if isinstance(value, str) and value.startswith("="):
        return value[1:]
    return json.dumps(value)


def _write(root: Path, name: str, content: str | bytes) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))


def _field(root: Path, name: str, path: str, value: str) -> None:
    """Sets a field `a.b.0` of a JSON file, or of one of its lines (`FILE:2`); `MISSING` takes it away."""
    file, _, line = name.partition(":")
    lines = (root / file).read_text().split("\n") if line else [(root / file).read_text()]
    number = int(line or 1) - 1
    found = json.loads(lines[number])
    *outer, last = path.split(".")
    inside = found
    for key in outer:
        inside = inside[int(key) if isinstance(inside, list) else key]
    key = int(last) if isinstance(inside, list) else last
    if value == MISSING:
        if isinstance(inside, list) or key in inside:
            del inside[key]
        lines[number] = json.dumps(found)
    else:
        inside[key] = "\0here"
        lines[number] = json.dumps(found).replace(json.dumps("\0here"), value)
    _write(root, file, "\n".join(lines))


def _flip(root: Path, name: str, seed: int) -> None:
    """Changes some bytes of a file, or of one of a folder's; now and then cuts it, or doubles a part."""
    rng = random.Random(seed)
    path = root / name
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.is_file() and p.stat().st_size)
        path = rng.choice(inside)
    data = bytearray(path.read_bytes())
    way = rng.random()
    if way < 0.8:
        for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif way < 0.9:
        del data[rng.randrange(len(data)) :]
    else:
        start = rng.randrange(len(data))
        data[start:start] = data[start : start + rng.randrange(1, 64)]
    path.write_bytes(bytes(data))


def _copy(root: Path, source: str, target: str) -> None:
    if (root / source).is_dir():
        shutil.copytree(root / source, root / target)
    else:
        shutil.copy(root / source, root / target)


def _resign(root: Path, model: str) -> None:
    """Gives a checkpoint's card the fingerprint of the tokenizer beside it."""
    digest = hashlib.sha256((root / model / "tokenizer.json").read_bytes()).hexdigest()
    _field(root, f"{model}/model.json", "tokenizer_fingerprint", json.dumps(digest))


def _json(root: Path, name: str, path: str, change: str) -> None:
    """Evaluates Python in which `it` is a part of a JSON file, and puts the result in its place."""
    whole: Any = {"": json.loads((root / name).read_text())}
    inside, key = whole, ""
    for part in path.split(".") if path else ():
        inside = inside[key]
        key = int(part) if isinstance(inside, list) else part
    known = inside[key] if isinstance(inside, list) or key in inside else None
    inside[key] = eval(change, {"it": known})
    _write(root, name, json.dumps(whole[""]))


def _npz(root: Path, name: str, key: str, change: str) -> None:
    """Evaluates Python in which `it` is an array of an `.npz`, and `np` NumPy; None leaves it out."""
    import numpy as np

    with np.load(root / name) as arrays:
        found = dict(arrays)
    made = eval(change, {"it": found[key], "np": np})
    if made is None:
        del found[key]
    else:
        found[key] = made
    np.savez(root / name, **found)


MISSING = "\0missing"

STEPS: dict[str, Callable[..., Any]] = {
    "write": _write,
    "field": _field,
    "flip": _flip,
    "copy": _copy,
    "resign": _resign,
    "json": _json,
    "npz": _npz,
    "symlink": lambda root, name, target: (root / name).symlink_to(target),
    "hardlink": lambda root, name, target: os.link(root / target, root / name),
    "mkdir": lambda root, name: (root / name).mkdir(parents=True),
    "remove": lambda root, name: _remove(root / name),
    "rename": lambda root, name, new: os.replace(root / name, root / new),
    "chmod": lambda root, name, mode: (root / name).chmod(mode),
    "cut": lambda root, name, size: os.truncate(root / name, size),
    "theirs": lambda root, name: os.chown(root / name, 65534, 65534),
    "fifo": lambda root, name: os.mkfifo(root / name),
    "disk": lambda root, name, size: _mount(root / name, size),
}


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _mount(path: Path, size: str) -> None:
    import subprocess

    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "small", str(path)], check=True)


def prepare(case: Case, root: Path) -> None:
    """Does a case's steps."""
    for verb, *arguments in case.before:
        STEPS[verb](root, *arguments)


def tear_down(case: Case, root: Path) -> None:
    """Takes away what would not let itself be removed with the folder."""
    import subprocess

    for verb, *arguments in case.before:
        if verb == "disk":
            subprocess.run(["umount", "-l", str(root / arguments[0])], check=True)
    for folder, inside, _ in os.walk(root):
        for name in inside:
            path = Path(folder, name)
            if not path.is_symlink() and not stat.S_IMODE(path.stat().st_mode) & 0o200:
                path.chmod(0o755)


def numbered(cases: Iterable[Case]) -> list[Case]:
    """The cases, each once."""
    return list(dict.fromkeys(cases))
