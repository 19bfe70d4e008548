"""The provenance of a result: the command of this process, and the revision of this package."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any


def of_process(**more: Any) -> dict[str, Any]:
    """Returns the command and git revision of this process, and the caller's additions.

    The revision is None if the package is not part of a git checkout (installed from a wheel).
    """
    # An installed package may be inside an unrelated checkout, whose revision is meaningless.
    tracked = _git("ls-files", "--error-unmatch", Path(__file__).name)
    revision = _git("rev-parse", "--short", "HEAD") if tracked else None
    return {"command": _command(), "git_revision": revision, **more}


def settings_of(value: Any) -> str:
    """Describes a frozen value by its class and the fields that differ from their defaults."""
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(settings_of, value))})"
    if not dataclasses.is_dataclass(value):
        plain = value is None or isinstance(value, (str, bool, int, float))
        return repr(value) if plain else type(value).__name__
    changed = [
        f"{field.name}={settings_of(getattr(value, field.name))}"
        for field in dataclasses.fields(value)
        if getattr(value, field.name) != field.default
    ]
    return f"{type(value).__name__}({', '.join(changed)})"


def _command() -> str:
    """Returns this process's command, quoted for a shell: a program's name, or `python -m` and a module."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["python", "-m", module.name.removesuffix(".__main__")] if module else [Path(sys.argv[0]).name]
    return shlex.join([*program, *sys.argv[1:]])


def _git(*arguments: str) -> str | None:
    """Runs git in this package's folder; None if it fails or is not installed."""
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
