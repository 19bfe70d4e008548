"""New folders are whole or not there, whenever the process that writes one is killed."""

import contextlib
import os
import signal
import sys

import pytest

from distillspec_jax.errors import UsageError
from distillspec_jax.new_folders import new_folder


def write(place) -> None:
    with new_folder(place) as folder:
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "1").write_text("arrays")
        (folder / "model.json").write_text("{}")


def killed_before(place, count: int) -> bool:
    """Whether a process that writes the folder was killed before its `count`-th change of the file system."""
    child = os.fork()
    if child == 0:
        left = [count]

        def hook(event, arguments):
            if event in ("os.mkdir", "os.rename", "os.rmdir", "os.remove") or (
                event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
            ):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            write(place)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("empty", [False, True])
def test_after_a_kill_at_any_moment_the_same_call_makes_it_whole(tmp_path, empty):
    """A model of many gigabytes was left under a hidden name, or half of one in the way of the next call."""
    kills = 0
    for count in range(30):
        around = tmp_path / str(count)
        place = around / "[out]"
        (place if empty else around).mkdir(parents=True)
        kills += killed_before(place, count)
        with contextlib.suppress(UsageError):  # it is whole already
            write(place)
        assert [path.name for path in around.iterdir()] == ["[out]"]
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
