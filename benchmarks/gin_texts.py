"""What gin files say, with those that they include: a training is another one when its recipe changes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from distillspec_jax.cli.bindings import packaged_configs

_COMMENT = re.compile(r"(^|\s)#.*")
_INCLUDE = re.compile(r"""include\s+(['"])(.+)\1""")


def read(gin_files: Iterable[str]) -> dict[str, str]:
    """Reads gin files and what they include, without comments, by name.

    A file that is not found has no text: the command that is given it refuses it.
    """
    roots, found, left = (Path(), packaged_configs()), dict[str, str](), list(gin_files)
    while left:
        name = left.pop()
        if name in found:
            continue
        path = next((root / name for root in roots if (root / name).is_file()), None)
        lines = path.read_text(encoding="utf-8").splitlines() if path else []
        said = [line for one in lines if (line := _COMMENT.sub("", one).rstrip())]
        found[name] = "\n".join(said)
        left += [match[2] for line in said if (match := _INCLUDE.match(line))]
    return found
