"""`distillspec registry`."""

import json
import shutil

import pytest

from distillspec_jax import files
from distillspec_jax.cli import errors, registry
from distillspec_jax.operations.draft_registry import DraftRegistry
from tests import pair
from tests.operations import toy


def call(*argv: str) -> int:
    return errors.run(registry.main, list(argv), command="registry")


def test_a_draft_goes_in_serves_and_goes_back(tmp_path, capsys):
    target = pair.write(tmp_path / "target", pair.target())
    draft = pair.write(tmp_path / "draft", pair.draft())
    where = f"--registry={tmp_path / 'drafts'}"
    assert call("init", where, f"--target={target}", f"--draft={draft}") == 0
    assert call("add", "next", where, f"--draft={draft}", f"--target={target}") == 0
    assert call("promote", "next", where, "--reason=swept") == 0
    assert call("rollback", where) == 0
    assert call("check", where, f"--target={target}") == 0
    said = [line.split(": ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    count = len(DraftRegistry(tmp_path / "drafts").lineage("v1").files)
    assert said == [
        "v1 serves",
        "next added, v1 serves",
        "revision 2, promote: next serves",
        "revision 3, roll back: v1 serves",
        f"{count} files as they were added",
        f"{count} files as they were added",
    ]
    assert call("show", where) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == files.read_json(tmp_path / "drafts" / "registry.json")
    assert [one["reason"] for one in shown["transitions"]] == ["the first", "swept", "no reason was given"]


def test_the_list_says_what_serves(tmp_path, capsys):
    drafts = toy.registry(tmp_path / "drafts", versions=2)
    drafts.change("start", "", candidate="v2", share=0.1)
    assert call("list", f"--registry={drafts.path}") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip().startswith("v")]
    assert [line[:2] for line in lines] == [["version", "serves"], ["v1", "90%"], ["v2", "10%"]]


def test_a_version_that_serves_and_has_gone_is_told(tmp_path, capsys):
    """The list left it out, and the check found all of the others whole."""
    drafts = toy.registry(tmp_path / "drafts", versions=2)
    shutil.rmtree(drafts.path_of("v1"))
    assert call("list", f"--registry={drafts.path}") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["v1"]]
    assert line.split()[1] == "all"
    assert "has gone" in line
    assert call("check", f"--registry={drafts.path}") == 2
    assert "has no version 'v1'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["promot"], "'promot' is not one of them: did you mean 'promote'?"),
        (["promote"], "registry promote needs VERSION"),
        (["promote", "v3"], "has no version 'v3': did you mean"),
        (["promote", "v1"], "version v1 is the stable one already"),
        (["rollback", "v2"], "registry rollback takes no VERSION"),
        (["rollback"], "v1 is the first of"),
        (["list", "--reason=x"], "registry list takes no --reason"),
        (["add"], "registry add needs --draft"),
        (["add", "--draft=nowhere"], "nowhere is not a checkpoint directory"),
        (["show", "../v1"], "has no version '../v1'"),
    ],
)
def test_what_is_refused(tmp_path, capsys, argv, said):
    drafts = toy.registry(tmp_path / "drafts", versions=2)
    assert call(*argv, f"--registry={drafts.path}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert drafts.state().revision == 1
