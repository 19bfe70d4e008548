"""What a user installs: the wheel's content, away from the source tree, and the lock files."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import distillspec_jax
from distillspec_jax.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Distributions whose modules go by another name.
DISTRIBUTION = {
    "absl": "absl-py",
    "gin": "gin-config",
    "orbax": "orbax-checkpoint",
}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    return {canonical(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}


def locked(file: str) -> dict[str, str]:
    lines = [line for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "an exact version a line"
    return {canonical(line.split("==")[0]): line.split("==")[1] for line in lines}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the sources, since setuptools writes into the folder that it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("distillspec_jax", "gin_configs"):
        shutil.copytree(ROOT / name, folder / "src" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "src")
    pip = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, "-w", str(folder), str(folder / "src")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_the_wheel_holds_every_source_text_and_configuration(wheel):
    content = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "distillspec_jax"
    for path in [
        *package.rglob("*.py"),
        *(package / "data" / "corpora").iterdir(),
        *(package / "zoo").rglob("*"),
    ]:
        if path.is_file():
            assert str(path.relative_to(ROOT)) in content
    for path in (ROOT / "gin_configs").rglob("*.gin"):
        assert f"distillspec_jax/{path.relative_to(ROOT)}" in content
    assert "distillspec_jax/py.typed" in content
    assert not [name for name in content if name.startswith(("tests/", "benchmarks/", "gin_configs/"))]


def run(installed: Path, folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *argv], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_an_installed_wheel_answers_from_any_folder(installed, tmp_path):
    done = run(installed, tmp_path, "-m", "distillspec_jax.cli.main", "--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in COMMANDS)


def test_an_installed_wheel_finds_its_gin_files_from_any_folder(installed, tmp_path):
    code = "from distillspec_jax.cli import bindings; print(bindings.packaged_configs())"
    configs = Path(run(installed, tmp_path, "-c", code).stdout.strip())
    assert configs == installed / "distillspec_jax" / "gin_configs"
    assert (configs / "runs" / "finetune.gin").is_file()
    done = run(installed, tmp_path, "-m", "distillspec_jax.cli.finetune", "--gin_file=runs/finetune.gin")
    assert done.returncode == 2
    assert re.search(r"error: the macro \w+ needs a value", done.stderr)


def test_versions_agree():
    assert PROJECT["version"] == distillspec_jax.__version__
    assert f"version: {distillspec_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_lock_files_hold_all_that_the_project_asks_for():
    extras = PROJECT["optional-dependencies"]
    main, reference = locked("requirements.lock"), locked("requirements-reference.lock")
    asked = PROJECT["dependencies"] + extras["test"] + extras["notebooks"] + extras["gguf"]
    assert names(asked) - {"distillspec-jax"} <= main.keys()
    assert names(extras["reference"]) <= reference.keys()
    assert not main.keys() & reference.keys()
    assert not any("+" in version for version in reference.values()), "a build that the index does not have"


def test_every_import_of_the_package_is_declared():
    extras = PROJECT["optional-dependencies"]
    declared = names(PROJECT["dependencies"] + extras["gguf"] + extras["zoo"] + extras["buckets"] + extras["serve"])
    for path in (ROOT / "distillspec_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                modules = [node.module]
            for top in {module.split(".")[0] for module in modules} - {"distillspec_jax"}:
                known = top in sys.stdlib_module_names
                assert known or canonical(DISTRIBUTION.get(top, top)) in declared, f"{path} imports {top}"


def test_the_entry_points_exist():
    assert PROJECT["scripts"] == {"distillspec": "distillspec_jax.cli.main:main"}
    from distillspec_jax.cli.main import main

    assert callable(main)


def test_continuous_integration_runs_what_a_developer_runs():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().endswith("\nexec make test")
