"""`python -m tests.mutants [NUMBER ...]`: mutants and the tests that went red; fails if any mutant lived."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutants.batches import BATCHES
from tests.mutants.buckets import BUCKETS
from tests.mutants.catalog import MUTANTS, Mutant
from tests.mutants.distillation import DISTILLATION
from tests.mutants.losses import LOSSES
from tests.mutants.operations import OPERATIONS
from tests.mutants.watch import WATCH

ROOT = Path(__file__).parents[2]
COPIED = ("distillspec_jax", "gin_configs", "tests", "pyproject.toml")
SHOWN = 3
ALL = (*MUTANTS, *BATCHES, *DISTILLATION, *LOSSES, *WATCH, *OPERATIONS, *BUCKETS)


def mutate(folder: Path, mutant: Mutant) -> None:
    """Makes the edits in a copy of the package.

    Raises:
      ValueError: a text to change is not there exactly once: the catalogue is behind the code.
    """
    for edit in mutant.edits:
        path = folder / "distillspec_jax" / edit.file
        source = path.read_text()
        if source.count(edit.old) != 1:
            raise ValueError(f"mutant {mutant.number}: {edit.old!r} occurs {source.count(edit.old)} times")
        path.write_text(source.replace(edit.old, edit.new))


def killers(mutant: Mutant) -> list[str]:
    """The tests of the ordinary suite that fail with the mutant in place; at most a few are waited for."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for item in COPIED:
            source = ROOT / item
            if source.is_dir():
                # The zoo is large, and none of these tests loads it.
                ignored = shutil.ignore_patterns("__pycache__", "zoo")
                shutil.copytree(source, folder / item, ignore=ignored)
                continue
            shutil.copy(source, folder / item)
        mutate(folder, mutant)
        command = [sys.executable, "-m", "pytest", "-q", f"--maxfail={SHOWN}", "-p", "no:cacheprovider"]
        environment = {**os.environ, "PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [*command, *mutant.tests], cwd=folder, env=environment, capture_output=True, text=True
        )
        if done.returncode not in (0, 1):
            raise RuntimeError(f"mutant {mutant.number}: pytest ended with {done.returncode}\n{done.stdout}")
        return re.findall(r"^FAILED (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("numbers", nargs="*", help="of mutants (default: all)")
    numbers = parser.parse_args(argv).numbers
    if unknown := set(numbers) - {mutant.number for mutant in ALL}:
        print(f"no mutant {sorted(unknown)[0]!r}", file=sys.stderr)
        return 2
    print("| mutant | bug | killed by |\n|---|---|---|", flush=True)
    alive = 0
    for mutant in ALL:
        if numbers and mutant.number not in numbers:
            continue
        found = killers(mutant)
        alive += not found
        named = ", ".join(f"`{test.removeprefix('tests/')}`" for test in found) or "**nothing: it lives**"
        print(f"| {mutant.number} | {mutant.bug} | {named} |", flush=True)
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
