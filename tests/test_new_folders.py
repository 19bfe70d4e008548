"""New folders are whole or not there, whenever the process that writes one is killed."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distillspec_jax.errors import UsageError
from distillspec_jax.new_folders import new_folder


def write(place) -> None:
    with new_folder(place) as folder:
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "1").write_text("arrays")
        (folder / "model.json").write_text("{}")


def kill_writers(places: list[str]) -> None:
    """Kills, for each place, a process that writes it: number n before its n-th change of the file system."""
    for count, place in enumerate(places):
        child = os.fork()
        if child == 0:
            _die_before(count)
            try:
                write(place)
            finally:
                os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL)


def _die_before(count: int) -> None:
    left = [count]

    def hook(event, arguments):
        opens = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
        if opens or event in ("os.mkdir", "os.rename", "os.rmdir", "os.remove"):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


@pytest.mark.parametrize("empty", [False, True])
def test_after_a_kill_at_any_moment_the_same_call_makes_it_whole(tmp_path, empty):
    """A model of many gigabytes was left under a hidden name, or half of one in the way of the next call."""
    places = [tmp_path / str(count) / "[out]" for count in range(30)]
    for place in places:
        (place if empty else place.parent).mkdir(parents=True)
    # In a process of its own: this one may have threads, and such do not fork well.
    program = f"from tests.test_new_folders import kill_writers; kill_writers({list(map(str, places))})"
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, text=True, check=True
    )
    kills = done.stdout.split().count("True")
    for place in places:
        with contextlib.suppress(UsageError):  # it is whole already
            write(place)
        assert [path.name for path in place.parent.iterdir()] == ["[out]"]
        assert sorted(path.name for path in place.iterdir()) == ["checkpoints", "model.json"]
        assert (place / "checkpoints" / "1").read_text() == "arrays"
    assert 4 < kills < 30


def test_an_earlier_output_is_there_until_the_new_one_takes_its_place(tmp_path):
    """A model of the zoo was deleted before the one that was to replace it could be written."""
    out = tmp_path / "out"
    write(out)
    with new_folder(out, lambda place: (place / "model.json").exists()) as folder:
        assert (out / "model.json").exists()
        (folder / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["new"]


def test_what_is_being_written_is_left_alone(tmp_path):
    """A second run took the folder of the first, under way, for a dead one's."""
    with new_folder(tmp_path / "out") as first:
        with new_folder(tmp_path / "out") as second:
            (second / "a").write_text("second")
        assert first.is_dir()
        (tmp_path / "out" / "a").unlink()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "name", ["note", ".partial-out-note", ".partial-out-note.json", ".partial-elsewhere-0123456789ab"]
)
def test_what_somebody_else_put_there_stays(tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(UsageError, match="holds something already"):
        write(out)
    assert [path.name for path in out.iterdir()] == [name]


def test_an_empty_folder_stays_the_same_and_is_empty_again_after_an_error(tmp_path):
    inode = tmp_path.stat().st_ino
    with pytest.raises(UsageError), new_folder(tmp_path) as folder:
        write(folder / "checkpoints" / "1" / "beyond" / ("n" * 300))
    assert list(tmp_path.iterdir()) == []
    write(tmp_path)
    assert tmp_path.stat().st_ino == inode
