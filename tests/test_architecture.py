"""The layers of docs/architecture.md, read off the imports; deferred imports inside functions count too."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "distillspec_jax"

# From the top. A module imports from its own row and the rows below it, never above.
ROWS: list[set[str]] = [
    {"cli"},
    {"api", "showcase"},
    {"operations", "serving"},
    {"reports"},
    {"evaluation"},
    {"distillation"},
    {"training"},
    {"generation"},
    {"decoding", "data", "interop"},
    {"models", "tokenization"},
    {
        "partitioning",
        "acceptance",
        "acceptance_profile",
        "metrics",
        "checkpoint",
        "model_card",
        "provenance",
        "shapes",
        "errors",
        "vocabulary",
        "version",
        "files",
        "new_folders",
        "deferred",
        "bounds",
        "buckets",
        "locks",
        "memory",
        "training_log",
        "outputs",
        "run_inputs",
        "shards",
        "schema",
        "terminal",
    },
]
HEIGHT = {name: height for height, row in enumerate(reversed(ROWS)) for name in row}

# Who alone may import what.
ONLY = {
    "tensorflow": "data",
    "tensorflow_datasets": "data",
    "tensorflow_text": "data",
    "seqio": "data",
    "clu": "data",
    "gin": "cli",
    "absl": "cli",
}
# What a package dependency must never become: these are for tests, benchmarks and notebooks.
NEVER = {"torch", "transformers", "pytest", "hypothesis", "t5x"}

# Packages that do without others although those stand beside or below: decoding speaks ids alone, training
# knows no sampler, evaluation no trainer.
WITHOUT = {
    "models": {"tokenization"},
    "decoding": {"tokenization", "data", "interop"},
    "data": {"decoding", "interop"},
    "interop": {"decoding", "data"},
    "training": {"decoding", "generation"},
    "evaluation": {"training"},
    "reports": {"training", "distillation"},
}

MODULES = sorted(PACKAGE.rglob("*.py"))


def package_of(path: Path) -> str:
    """`distillspec_jax/decoding/sampling.py` -> `decoding`; `distillspec_jax/errors.py` -> `errors`."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(source: str, path: Path) -> Iterator[str]:
    """Full names of all modules that a source imports, with relative imports resolved."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.parent.relative_to(ROOT).parts
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            # `from distillspec_jax import errors` names a module only in its last part.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def violations(source: str, path: Path) -> list[str]:
    """What a source file at `path` may not import, in words."""
    own = package_of(path)
    found = []
    for name in imports(source, path):
        top, *rest = name.split(".")
        if top in NEVER:
            found.append(f"{name}: never inside the package")
        if top in ONLY and own != ONLY[top]:
            found.append(f"{name}: only {ONLY[top]}/ may import it")
        if top != "distillspec_jax" or not rest or rest[0] not in HEIGHT or own == "__init__":
            continue
        if rest[0] in WITHOUT.get(own, ()):
            found.append(f"{name}: {own} does without {rest[0]}")
        if HEIGHT[rest[0]] > HEIGHT[own]:
            found.append(f"{name}: {rest[0]} stands above {own}")
    return found


def graph(sources: Mapping[Path, str]) -> dict[str, set[str]]:
    """The modules that each module imports, by full name; a name in a package counts as its module."""
    names = {dotted(path): path for path in sources}
    return {name: set(known(imports(sources[path], path), names)) - {name} for name, path in names.items()}


def dotted(path: Path) -> str:
    """`distillspec_jax/data/__init__.py` -> `distillspec_jax.data`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def known(names: Iterable[str], modules: Iterable[str]) -> Iterator[str]:
    """`distillspec_jax.errors.UsageError` -> `distillspec_jax.errors`; other packages' modules fall out."""
    for name in names:
        parts = name.split(".")
        ends = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
        yield from [end for end in ends if end in modules][:1]


def floors(of: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """The floor of every node: one above the highest that it imports, 0 if it imports none.

    Raises:
      graphlib.CycleError: the first circle that is found.
    """
    found: dict[str, int] = {}
    for node in graphlib.TopologicalSorter(of).static_order():
        found[node] = 1 + max((found[below] for below in of.get(node, ())), default=-1)
    return found


def test_every_module_has_a_row():
    assert {package_of(path) for path in MODULES} - HEIGHT.keys() == {"__init__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    assert violations(path.read_text(), path) == []


def test_no_circle_between_files_nor_between_packages():
    """Each file has a floor of its own above all that it imports, and so has each package."""
    files = graph({path: path.read_text() for path in MODULES})
    height = floors(files)
    assert all(height[below] < height[name] for name, imported in files.items() for below in imported)
    packages: dict[str, set[str]] = {}
    for name, imported in files.items():
        own, *others = ([*module.split("."), "__init__"][1] for module in (name, *imported))
        packages.setdefault(own, set()).update({*others} - {own})
    floors(packages)


@pytest.mark.parametrize(
    "lower", ["from distillspec_jax.data.b import x", "def f():\n  from . import b", "from .b import x"]
)
def test_a_circle_would_be_seen(lower):
    sources = {PACKAGE / "data" / "a.py": lower, PACKAGE / "data" / "b.py": "import distillspec_jax.data.a"}
    with pytest.raises(graphlib.CycleError, match="cycle"):
        floors(graph(sources))


@pytest.mark.parametrize(
    ("where", "source", "said"),
    [
        (
            "decoding/sampling.py",
            "from distillspec_jax.training import loop",
            "training stands above decoding",
        ),
        (
            "decoding/sampling.py",
            "def f():\n  import distillspec_jax.evaluation.sweep",
            "evaluation stands above",
        ),
        ("models/t5.py", "from distillspec_jax import interop", "interop stands above models"),
        ("models/t5.py", "from ..interop.t5x import read", "interop stands above models"),
        ("errors.py", "from . import models", "models stands above errors"),
        ("api.py", "from distillspec_jax.cli import errors", "cli stands above api"),
        ("decoding/engine.py", "from distillspec_jax.data import tasks", "decoding does without data"),
        ("decoding/sampling.py", "import tensorflow as tf", "only data/ may import it"),
        ("training/loop.py", "import gin", "only cli/ may import it"),
        ("interop/hf.py", "def f():\n  from torch import nn", "never inside the package"),
    ],
)
def test_a_violation_would_be_seen(where, source, said):
    (violation,) = violations(source, PACKAGE / where)
    assert said in violation


def test_tensorflow_waits_until_a_task_is_read():
    light = HEIGHT["data"]
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in MODULES
        if package_of(path) in HEIGHT
    }
    modules = [name for name in names if HEIGHT[name.split(".")[1]] < light or name.endswith("__init__")]
    modules += [name for name in names if name.split(".")[1] in ("decoding", "interop")]
    code = f"import importlib, sys\nfor name in {sorted(modules)}: importlib.import_module(name)\n"
    code += "print(sorted({'tensorflow', 'seqio', 'clu', 'gin'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("folder", ["distillspec_jax", "tests", "benchmarks"])
def test_files_are_short_and_named_for_what_they_hold(folder):
    vague = {"utils", "util", "common", "helpers", "helper", "misc", "lib", "core"}
    for path in sorted((ROOT / folder).rglob("*.py")):
        lines = len(path.read_text().splitlines())
        assert lines <= 400, f"{path}: {lines} lines; a file stops at 400"
        assert not vague & {path.stem, *path.relative_to(ROOT).parts[:-1]}, (
            f"{path}: a concept without a name"
        )


WORST_STARTS = ("Of ", "Itself", "Those", "What ", "Which ", "That ")


def test_docstrings_do_not_begin_without_a_subject():
    """Docstrings of modules, classes, functions and constants."""
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {node.value.value.splitlines()[0]}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and str(node.value.value).startswith(WORST_STARTS)
    ]
    assert found == []
