"""Every notebook runs from top to bottom, and shows what it showed when it was stored."""

import ast
import functools
import os
import re

import nbformat
import pytest

from notebooks.execute import executed, paths

NOTEBOOKS = paths()
LARGEST = 300_000
MACHINE = re.compile(r"/(root|home|tmp|work|Users|private)/|[A-Z]:\\\\|Traceback|[Ww]arning")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@functools.cache
def stored(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def said(cell):
    """All words that a cell shows."""
    data = [output.get("data", {}) for output in cell.outputs]
    parts = [output.get("text", "") for output in cell.outputs]
    return "".join(parts + [one.get(kind, "") for one in data for kind in ("text/markdown", "text/html")])


def test_there_are_six():
    assert [path.name[0] for path in NOTEBOOKS] == ["1", "2", "3", "4", "5", "6"]


@each_notebook
def test_what_is_stored_is_small_and_of_no_machine(path):
    assert path.stat().st_size <= LARGEST
    for cell in code(stored(path)):
        assert cell.execution_count, "stored without a run: make notebooks"
        assert not cell.metadata
        assert all(output.get("name") != "stderr" for output in cell.outputs)
        assert not MACHINE.search(said(cell))


@each_notebook
def test_top_level_names_are_enough(path):
    """A reader copies a cell: what lies below the top level may move."""
    for cell in code(stored(path)):
        for node in ast.walk(ast.parse(cell.source)):
            names = (
                [alias.name for alias in getattr(node, "names", [])] if isinstance(node, ast.Import) else []
            )
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith("distillspec_jax.")]


@each_notebook
def test_notebook_runs(path):
    # The shipped models are no toys: their programs run long enough to be worth some optimisation.
    flags = f"{os.environ['XLA_FLAGS']} --xla_backend_optimization_level=1"
    found = executed(path, {"XLA_FLAGS": flags})
    for before, after in zip(code(stored(path)), code(found), strict=True):
        kinds = [
            [(o.output_type, sorted(o.get("data", {}))) for o in cell.outputs] for cell in (before, after)
        ]
        assert kinds[0] == kinds[1], (
            f"shows something else than what is stored: make notebooks\n{before.source}"
        )
        # Nothing is decoded: the same numbers everywhere.
        if path.stem in ("2_explore_a_sweep", "6_when_to_distil_again"):
            assert said(before) == said(after)
