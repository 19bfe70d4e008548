"""`python -m notebooks.execute [NAME ...]`: runs notebooks from top to bottom and stores what they show.

    make notebooks                               # all of them
    python -m notebooks.execute first_look       # one

A notebook is stored only if every cell ran. Nothing of the machine is kept: no paths, no times of execution.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
SECONDS_A_CELL = 600


def paths() -> list[Path]:
    """Lists the notebooks, in the order in which they are to be read."""
    return sorted(FOLDER.glob("*.ipynb"))


def executed(path: Path, environment: Mapping[str, str] | None = None) -> nbformat.NotebookNode:
    """Runs a notebook, in its folder, without what it showed before.

    Args:
      path: the notebook, which stays as it is.
      environment: variables of its process beside our own.

    Returns:
      The notebook with its outputs.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell that raised.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=SECONDS_A_CELL,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(FOLDER)}},
    )
    client.execute(env=os.environ | dict(environment or {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
    return notebook


def main(names: list[str]) -> int:
    """Runs the command; the exit status is 2 where there is no such notebook."""
    known = {path.stem: path for path in paths()}
    if unknown := [name for name in names if name not in known]:
        print(f"no notebook {unknown[0]}: {', '.join(known)}", file=sys.stderr)
        return 2
    for name in names or known:
        notebook = executed(known[name])
        nbformat.write(notebook, known[name])
        print(f"{name}: {known[name].stat().st_size:,} bytes", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
