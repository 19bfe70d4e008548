"""What the documents name exists: files, gin references, links, layers, make targets."""

import functools
import importlib
import re
from pathlib import Path
from unittest import mock

import pytest

from distillspec_jax.cli.flags import CommandParser
from distillspec_jax.cli.main import COMMANDS
from tests.test_architecture import HEIGHT, ROWS

ROOT = Path(__file__).parents[1]
HOMES = [ROOT, ROOT / "distillspec_jax", ROOT / "gin_configs"]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def each_document(function):
    return pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))(function)


def code(text: str) -> str:
    """Everything in backticks and in indented or fenced blocks."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return "\n".join(
        [*re.findall(r"`([^`\n]+)`", text), *re.findall(r"^    (.+)$", text, re.MULTILINE), *fenced]
    )


@each_document
def test_files_named_exist(path):
    named = re.findall(
        r"(?<![\w/.=:{])((?:[\w.-]+/)*[\w.-]+\.(?:py|gin|md|sh|sbatch|ipynb))\b", code(path.read_text())
    )
    missing = {
        name
        for name in named
        if not re.search(r"NAME|MODEL\.gin|RUN\.gin|^my_|^runs/(?!finetune|distill)", name)
        and not any((home / name).exists() for home in HOMES)
        and not list(ROOT.glob(f"distillspec_jax/**/{name}"))
    }
    assert not missing


@each_document
def test_links_within_the_project_lead_somewhere(path):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text())
    assert not [link for link in links if not (path.parent / link).exists()]


@each_document
def test_flags_with_parentheses_are_quoted(path):
    assert not re.findall(r"(?<!\")--gin[\w.]*=@[\w.]+\(\)", path.read_text())


@each_document
def test_gin_references_resolve(path):
    for module, name in re.findall(r"@(\w+)\.(\w+)\(", code(path.read_text())):
        (file,) = (ROOT / "distillspec_jax").glob(f"*/{module}.py")
        dotted = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        assert hasattr(importlib.import_module(dotted), name)


@each_document
def test_commands_and_make_targets_exist(path):
    text = code(path.read_text())
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bdistillspec ([a-z]+)\b", text)) <= COMMANDS.keys()
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= set(targets)


@functools.cache
def flags_of(command: str) -> set[str]:
    """The flags of a command's parser, which is made and then not asked."""
    with mock.patch.object(CommandParser, "parse", autospec=True, side_effect=SystemExit) as parse:
        with pytest.raises(SystemExit):
            importlib.import_module(f"distillspec_jax.cli.{command}").main([])
        (parser, _) = parse.call_args.args
    return {option for action in parser._actions for option in action.option_strings}


def unknown_flags(text: str) -> set[tuple[str, str]]:
    """(command, flag) of every `distillspec COMMAND ... --flag` that the command's parser does not know."""
    calls = re.findall(rf"\bdistillspec ({'|'.join(COMMANDS)})\b([^`|;&#\n]*)", text.replace("\\\n", " "))
    given = {(name, flag) for name, rest in calls for flag in re.findall(r"(?<!\S)--?[a-z][\w.]*", rest)}
    return {
        (name, flag)
        for name, flag in given
        if flag not in flags_of(name) and not (flag.startswith("--gin.") and "--gin_file" in flags_of(name))
    }


@each_document
def test_flags_of_commands_exist(path):
    assert not unknown_flags(path.read_text())


def test_flags_in_comments_and_help_exist():
    files = [*(ROOT / "gin_configs").rglob("*.gin"), *(ROOT / "distillspec_jax" / "cli").glob("*.py")]
    commented = [re.sub(r"^#", "", file.read_text(), flags=re.MULTILINE) for file in files]
    assert not set().union(*map(unknown_flags, commented))


def test_a_flag_that_is_not_there_is_found():
    assert unknown_flags("`distillspec zoo --build \\\n  --bild --gin.A=1`") == {
        ("zoo", "--bild"),
        ("zoo", "--gin.A"),
    }


def test_the_architecture_page_has_every_layer_in_order():
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = [line for line in page.splitlines() if line.startswith("|")]
    lines = {
        name: next(i for i, line in enumerate(table) if re.search(rf"`{name}\b", line)) for name in HEIGHT
    }
    assert sorted(lines, key=lambda name: (lines[name], -HEIGHT[name])) == sorted(
        lines, key=lambda name: (-HEIGHT[name], lines[name])
    )
    picture = (ROOT / "docs" / "architecture.svg").read_text()
    assert all(name in picture for row in ROWS for name in row - {"demo"})
