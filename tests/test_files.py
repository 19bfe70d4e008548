"""Whole files: what is there already is replaced by a whole file, or written to where it is no plain file."""

import os

import pytest

from distillspec_jax import files
from distillspec_jax.errors import UsageError


def test_a_terminal_is_written_to_and_not_replaced():
    leader, follower = os.openpty()
    try:
        name = os.ttyname(follower)
        files.write_whole(name, "said\n")
        assert os.read(leader, 16).split() == [b"said"]
        assert os.path.samestat(os.stat(name), os.fstat(follower))
    finally:
        os.close(leader)
        os.close(follower)


def test_a_link_stays_one_and_its_file_gets_the_content(tmp_path):
    kept, link = tmp_path / "kept", tmp_path / "link"
    kept.write_text("before")
    link.symlink_to(kept)
    files.write_whole(link, "after")
    assert link.is_symlink()
    assert kept.read_text() == "after"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "link"]


def test_half_a_character_is_named_and_not_written(tmp_path):
    """UnicodeEncodeError, after the folder was made."""
    with pytest.raises(UsageError, match=r"cannot save to .*: its text holds a lone surrogate, '\\ud800'"):
        files.write_whole(tmp_path / "a" / "b", "x\ud800")
    assert not list(tmp_path.iterdir())
