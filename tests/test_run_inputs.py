"""What a run has read stays known, and nothing else is taken for it."""

import os

import pytest

from distillspec_jax import outputs
from distillspec_jax.errors import UsageError


@pytest.fixture
def asked(tmp_path):
    path = tmp_path / "asked.jsonl"
    path.write_text("asked\n")
    with outputs.run():
        outputs.reads(path)
        yield path


@pytest.fixture
def other_name(asked):
    other = asked.with_name("other.jsonl")
    os.link(asked, other)
    return other


def test_another_name_of_what_was_read_is_refused(asked, other_name):
    with asked.open("a") as file:  # a log may grow meanwhile
        file.write("more\n")
    with pytest.raises(UsageError, match=r"this run reads it \(.*asked\.jsonl\)"):
        outputs.check(other_name)


def test_what_was_read_and_moved_is_refused(asked):
    moved = asked.rename(asked.with_name("moved.jsonl"))
    with pytest.raises(UsageError, match="this run reads it"):
        outputs.check(moved)


def test_a_new_file_with_the_inode_of_one_that_is_gone_is_none_of_it(asked, other_name):
    """File systems give inodes again; a long process once could not save for it."""
    asked.unlink()
    os.utime(other_name, ns=(0, 0))
    assert outputs.check(other_name) == other_name
    outputs.reads(other_name)
    with pytest.raises(UsageError, match=r"this run reads it \(.*other\.jsonl\)"):
        outputs.check(other_name)
