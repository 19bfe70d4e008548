"""A registry of drafts: what serves, how it is changed, and what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distillspec_jax.errors import UsageError
from distillspec_jax.operations.draft_registry import DraftRegistry
from distillspec_jax.operations.transitions import ServingState
from tests.operations import toy

ROOT = Path(__file__).parents[2]


def test_what_serves_after_each_change(tmp_path):
    """Going back twice went to the draft that had just been left."""
    registry = toy.registry(tmp_path / "drafts", versions=3)
    other = DraftRegistry(tmp_path / "drafts")  # as a server in another process sees it
    assert other.state() == ServingState("v1", None, 0.0, 1)
    changes = [
        (lambda: registry.promote("v2", "better"), ("v2", None, 0.0)),
        (lambda: registry.promote("v3", "better still"), ("v3", None, 0.0)),
        (lambda: registry.roll_back("worse"), ("v2", None, 0.0)),
        (lambda: registry.change("start", "", candidate="v3", share=0.01), ("v2", "v3", 0.01)),
        (lambda: registry.change("advance", "", candidate="v3", share=0.1), ("v2", "v3", 0.1)),
        (lambda: registry.roll_back("slow"), ("v2", None, 0.0)),
        (lambda: registry.roll_back("both"), ("v1", None, 0.0)),
        (lambda: registry.promote("v3", "again"), ("v3", None, 0.0)),
        (lambda: registry.roll_back("no"), ("v1", None, 0.0)),
    ]
    for revision, (change, serving) in enumerate(changes, start=2):
        change()
        assert other.state() == ServingState(*serving, revision)
    with pytest.raises(UsageError, match=r"v1 is the first of .*: nothing was before it"):
        registry.roll_back("more")
    assert [one.revision for one in other.history.transitions] == list(range(1, 11))
    assert other.history.transitions[3].reason == "worse"


def test_a_state_that_did_not_change_is_not_read_again(tmp_path, monkeypatch):
    """A server that polls each second parsed the whole history each time."""
    registry = toy.registry(tmp_path / "drafts", versions=2)
    other = DraftRegistry(registry.path)
    other.state()
    with monkeypatch.context() as patched:
        patched.setattr("distillspec_jax.operations.transitions.read", None)
        assert other.state().stable == "v1"
    registry.promote("v2", "")
    assert other.state().stable == "v2"


def test_a_step_is_taken_once(tmp_path):
    """Two cron jobs that had read the same evidence moved a rollout by two stages."""
    registry = toy.registry(tmp_path / "drafts", versions=2)
    registry.change("start", "", candidate="v2", share=0.01, expected=1)
    with pytest.raises(UsageError, match=r"is at revision 2 by now .* decided at 1: look again"):
        registry.change("advance", "", candidate="v2", share=0.1, expected=1)
    assert registry.state().share == 0.01


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"candidate": "v2", "share": 1.5}, r"share=1.5: must lie in \[0, 1\]"),
        ({"candidate": "v2", "share": -0.1}, r"share=-0.1: must lie in \[0, 1\]"),
        ({"candidate": "v2", "share": float("nan")}, r"share=nan: must lie in \[0, 1\]"),
        ({"share": 0.5}, "share=0.5: there is no candidate to have it"),
        ({"candidate": "v1", "share": 0.5}, "v1 serves already"),
        ({"candidate": "v3", "share": 0.5}, "has no version 'v3': did you mean"),
        ({"candidate": "../v2", "share": 0.5}, "has no version '../v2'"),
    ],
)
def test_an_impossible_state_is_refused(tmp_path, change, said):
    registry = toy.registry(tmp_path / "drafts", versions=2)
    before = (registry.path / "registry.json").read_bytes()
    with pytest.raises(UsageError, match=said):
        registry.change("start", "", **change)
    assert (registry.path / "registry.json").read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda v: (v / "checkpoints/1/params/arrays").write_text("other"),
            "arrays was changed; versions are",
        ),
        (lambda v: (v / "checkpoints/1/params/arrays").unlink(), "arrays is missing"),
        (lambda v: (v / "notes").write_text("!"), "v2: notes was not part of it"),
        (lambda v: shutil.rmtree(v / "checkpoints"), "v2 has no whole checkpoint in"),
        (lambda v: (v / "model.json").write_text('{"tokenizer_fingerprint": "b"}'), "has another vocabulary"),
        (lambda v: (v / "lineage.json").write_text("{"), "not a draft's lineage: malformed JSON"),
        (lambda v: shutil.rmtree(v), "has no version 'v2'"),
    ],
)
def test_a_version_that_is_not_as_it_was_does_not_get_into_service(tmp_path, damage, said):
    registry = toy.registry(tmp_path / "drafts", versions=2)
    damage(registry.path / "versions" / "v2")
    with pytest.raises(UsageError, match=said):
        registry.promote("v2", "")
    assert registry.state().revision == 1


@pytest.mark.parametrize(
    ("draft", "said"),
    [
        (toy.draft(target="beef"), "v2 is a draft of another target, .*beef"),
        (toy.draft(vocabulary="b" * 64), "v2 has another vocabulary than this registry's target .*bbbb"),
    ],
)
def test_a_version_of_another_target_is_refused(tmp_path, draft, said):
    """A folder that was copied from another registry."""
    registry = toy.registry(tmp_path / "drafts")
    registry.add(draft)
    with pytest.raises(UsageError, match=said):
        registry.check("v2")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "malformed JSON"),
        ("[]", "expected a JSON object"),
        ('{"registry_version": 2}', "version 2, this release reads 1"),
        ('{"registry_version": 1}', "it has no field 'target'"),
    ],
)
def test_a_damaged_state_is_named(tmp_path, text, said):
    registry = toy.registry(tmp_path / "drafts")
    (registry.path / "registry.json").write_text(text)
    with pytest.raises(UsageError, match=rf"registry\.json: .*{said}"):
        DraftRegistry(registry.path).state()


def test_a_history_that_was_cut_is_named(tmp_path):
    registry = toy.registry(tmp_path / "drafts", versions=2)
    registry.promote("v2", "")
    path = registry.path / "registry.json"
    found = json.loads(path.read_text())
    del found["transitions"][0]
    path.write_text(json.dumps(found))
    with pytest.raises(UsageError, match="revision 2, must be 1: somebody has changed"):
        registry.state()


def test_no_registry_is_said_to_be_none(tmp_path):
    with pytest.raises(UsageError, match=r"is no registry of drafts: it has no registry.json; `distillspec"):
        DraftRegistry(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        DraftRegistry(tmp_path / "none")


@pytest.mark.parametrize("name", ["", ".v2", "-v", "a/b", "v" * 65, "v 2"])
def test_names_that_no_folder_should_have(tmp_path, name):
    registry = toy.registry(tmp_path / "drafts")
    if name:
        with pytest.raises(UsageError, match="a name has up to 64 letters"):
            registry.add(toy.draft(), name)
    else:
        assert registry.add(toy.draft(), name) == "v2"
    with pytest.raises(UsageError, match="v1 is there already"):
        registry.add(toy.draft(), "v1")


PROGRAM = """
import sys
from tests.operations import test_draft_registry
test_draft_registry.{}(sys.argv[1])
"""


def run(function: str, path: Path) -> str:
    """Runs a function of this file in a process of its own, which forks: this one has threads."""
    command = [sys.executable, "-c", PROGRAM.format(function), str(path)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def change_at_once(path: str) -> None:
    """Changes the state from eight processes at a time, 5 times each, while one of them is killed."""
    toy.registry(Path(path), versions=2)
    children = []
    for number in range(8):
        child = os.fork()
        if child == 0:
            registry = DraftRegistry(path)
            for _ in range(5):
                registry.change("start", f"process {number}", candidate="v2", share=0.5)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def test_two_processes_at_once_lose_no_change(tmp_path):
    """Both read revision 3 and wrote revision 4."""
    run("change_at_once", tmp_path / "drafts")
    reasons = [one.reason for one in DraftRegistry(tmp_path / "drafts").history.transitions[1:]]
    assert sorted(reasons) == sorted(f"process {number}" for number in range(8) for _ in range(5))


def kill_before_each_change(path: str) -> None:
    """Kills a process that adds v2 and promotes it before its n-th change of the files, for every n."""
    for count in range(60):
        place = Path(path) / str(count)
        toy.registry(place)
        child = os.fork()
        if child == 0:
            toy.die_before(count)
            registry = DraftRegistry(place)
            registry.add(toy.draft("more weights"), "v2")
            registry.promote("v2", "better")
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print("killed" if status == -signal.SIGKILL else "done")
        if status != -signal.SIGKILL:
            return


def test_a_kill_at_any_moment_leaves_one_whole_draft_in_service(tmp_path):
    """Half a version was seen, or the state was half a file."""
    ends = run("kill_before_each_change", tmp_path).split()
    assert ends[-1] == "done"
    assert len(ends) > 8
    for count in range(len(ends)):
        registry = DraftRegistry(tmp_path / str(count))
        for version in registry.versions():
            registry.check(version)  # none is half
        serving = registry.state().stable
        assert serving in registry.versions()
        if "v2" not in registry.versions():  # what the dead one left is in nobody's way
            assert registry.add(toy.draft("more weights"), "v2") == "v2"
        if serving == "v1":
            registry.promote("v2", "once more")
        assert registry.state().revision == 2  # the step was taken once
        left = [*registry.path.glob(".partial-*"), *(registry.path / "versions").glob(".partial-*")]
        assert left == [] or serving == "v2"
