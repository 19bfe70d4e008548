"""Whole files: what is there already is replaced by a whole file, or written to where it is no plain file.

And JSON, of which only such is read and written.
"""

import math
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


# --- JSON ---


DEEP = "[" * 99 + "]" * 99


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("NaN", "NaN is no number of JSON"),
        ('{"a": -Infinity}', "-Infinity is no number of JSON"),
        ('{"a": 1e999}', "1e999 is no number of JSON"),
        ("9" * 5_000, "Exceeds the limit"),
        ('{"time": [-' + "9" * 400 + "]}", "an integer beyond 1.8e308"),
        (f"[[{DEEP}]]", "nested more than 100 levels deep"),
        ('{"a":' * 100_000, "nested more than 100 levels deep"),
        (r'{"a": "\ud800"}', "holds a lone surrogate, no valid Unicode"),
        ('{"a": }', "malformed JSON (Expecting value, column 7)"),
    ],
)
def test_what_is_no_json_is_one_line(text, said):
    """Each was a traceback, was read as a number, or was written out again as no JSON."""
    with pytest.raises(UsageError) as caught:
        files.parse_json(text, "f:3")
    message = str(caught.value)
    assert message.startswith("f:3: ")
    assert said in message
    assert "\n" not in message


def test_what_is_json_is_read_as_it_is():
    assert files.parse_json(f"[{DEEP}]", "f") is not None
    assert files.parse_json('["' + "9" * 400 + '", 1]', "f")[1] == 1
    assert files.parse_json("[" + "[]," * 500 + "[]]", "f") == [[]] * 501  # many brackets, not deep
    assert files.parse_json(r'["\ud83d\ude00", 1, 1.0]', "f") == ["\U0001f600", 1, 1.0]
    assert files.parse_json_object('{"a": [NaN, 1e999, 2]}', "f", gaps=True) == {"a": [None, None, 2]}


def test_what_is_written_is_json(tmp_path):
    files.write_json(tmp_path / "f", {"a": (1, math.nan, [-math.inf]), "b": "é"})
    assert (tmp_path / "f").read_text(encoding="utf-8") == (
        '{\n "a": [\n  1,\n  null,\n  [\n   null\n  ]\n ],\n "b": "é"\n}\n'
    )
    assert files.read_json(tmp_path / "f") == {"a": [1, None, [None]], "b": "é"}


def test_half_a_character_is_named_and_not_written(tmp_path):
    """UnicodeEncodeError, after the folder was made."""
    with pytest.raises(UsageError, match=r"cannot save to .*: its text holds a lone surrogate, '\\ud800'"):
        files.write_whole(tmp_path / "a" / "b", "x\ud800")
    assert not list(tmp_path.iterdir())
