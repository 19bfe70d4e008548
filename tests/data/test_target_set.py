"""A stored set that somebody has touched: what is wrong with it is one line that names the file.

The set is the one that 0.1.0 wrote: six texts, and their distributions.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from distillspec_jax.data.target_set import TargetSet, logprobs_file, read_header
from distillspec_jax.errors import UsageError

FOLDER = Path(__file__).parents[1] / "fixtures" / "release_0_1" / "set"
LENGTHS = {"inputs": 32, "targets": 6}


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(FOLDER, tmp_path / "copy")


def spoilt(copy, **changes):
    header = json.loads((copy / "set.json").read_text())
    header["header"]["top_logprobs"] = header["header"].pop("law_ids")
    for name, value in changes.items():
        if value is ...:
            del header["header"][name]
        else:
            header["header"][name] = value
    (copy / "set.json").write_text(json.dumps(header))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": ...}, "it has no field 'rows'"),
        ({"rows": -1}, "field rows: expected int >= 0, got -1"),
        ({"logits": 10**30}, "field logits: "),
        ({"logits": 0}, "field logits: expected int >= 1, got 0"),
        ({"temperature": "hot"}, "field temperature: expected int | float | array, got 'hot'"),
        ({"temperature": [None]}, "field temperature[0]: expected int | float, got None"),
        ({"top_p": 2}, "field top_p: expected int <= 1, got 2"),
        ({"feature_lengths": {"inputs": 16}}, "field feature_lengths: it has no 'targets'"),
        ({"feature_lengths": {"inputs": 0, "targets": 8}}, "field feature_lengths[...]: expected int >= 1"),
        ({"eos_ids": [10**6]}, "field eos_ids: 1000000 is not in the vocabulary of 290"),
        ({"chat": {"x": "y"}}, "field chat: it has no template"),
        ({"top_logprobs": 290}, "field top_logprobs: 290 of 290 ids are all of them"),
        ({"later": 1}, "unknown field 'later': valid are "),
    ],
)
def test_a_header_of_other_types_is_one_line(copy, change, said):
    """Each was a traceback, or was taken."""
    spoilt(copy, **change)
    with pytest.raises(UsageError) as caught:
        read_header(copy)
    assert str(caught.value).startswith(f"{copy}/set.json: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"inputs": "a", "tokens": []}', "field tokens: expected array of length >= 1, got a list of 0"),
        ('{"inputs": "a", "tokens": [1.5]}', "field tokens[0]: expected int, got 1.5"),
        ('{"inputs": "a", "tokens": [290]}', "field tokens: 290 is not in the vocabulary of 290"),
        ('{"inputs": 3, "tokens": [1]}', "field inputs: expected str, got 3"),
        ('{"inputs": "a", "tokens": [1', "malformed JSON"),
        ("[" * 100_000, "JSON that cannot be read"),
    ],
)
def test_a_text_of_other_types_is_one_line(copy, line, said):
    texts = (copy / "texts.jsonl").read_text().splitlines()
    (copy / "texts.jsonl").write_text("\n".join([texts[0], line]))
    with pytest.raises(UsageError) as caught:
        TargetSet(copy)
    assert str(caught.value).startswith(f"{copy}/texts.jsonl:2: ")
    assert said in str(caught.value)


NO_NUMBER = np.float16(np.nan)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda a: {**a, "ids": a["ids"].astype(np.float32)}, "is not of the texts beside it"),
        (lambda a: {**a, "ids": a["ids"][:-1]}, "is not of the texts beside it"),
        (lambda a: {**a, "log_p": a["log_p"].astype(np.int32)}, "is not of the texts beside it"),
        (lambda a: {**a, "log_tail": a["log_tail"][:, None]}, "is not of the texts beside it"),
        (lambda a: {**a, "log_tail": np.zeros(10**6, np.float32)}, "is damaged (an array is larger than"),
        (lambda a: {**a, "log_p": a["log_p"] * NO_NUMBER}, "holds no logarithms of probabilities"),
        (lambda a: {**a, "log_tail": a["log_tail"] + 3}, "holds no logarithms of probabilities"),
        (lambda a: {**a, "log_p": a["log_p"] - np.inf}, "holds distributions that do not sum to 1"),
        (lambda a: {"ids": a["ids"]}, "is damaged"),
        (lambda a: {**a, "ids": a["ids"].astype(object)}, "is damaged"),
    ],
)
def test_distributions_of_another_shape_or_type_are_one_line(copy, spoil, said):
    """Each was a traceback, or was learnt from."""
    path = logprobs_file(copy, 0)
    with np.load(path) as arrays:
        np.savez(path, **spoil(dict(arrays)))
    with pytest.raises(UsageError) as caught:
        TargetSet(copy).batch([0], LENGTHS)
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)


@pytest.mark.parametrize("content", [b"PK\x03\x04" + bytes(99), b"\x93NUMPY\x01\x00v\x00{}", b""])
def test_a_broken_archive_is_one_line(copy, content):
    """zipfile has an error of its own."""
    logprobs_file(copy, 0).write_bytes(content)
    with pytest.raises(UsageError, match=r"00000\.npz is damaged"):
        TargetSet(copy).batch([0], LENGTHS)
