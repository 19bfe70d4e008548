"""The catalogue of mutants is up with the code; `make mutants` tries each."""

import collections

import pytest

from tests.mutants.__main__ import ALL, ROOT


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.number)
def test_what_a_mutant_changes_is_there_once(mutant):
    for edit in mutant.edits:
        assert (ROOT / "distillspec_jax" / edit.file).read_text().count(edit.old) == 1


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.number)
def test_the_tests_of_a_mutant_are_there(mutant):
    assert [name for name in mutant.tests if not (ROOT / name.partition("::")[0]).is_file()] == []


def test_numbers_are_unique():
    counts = collections.Counter(mutant.number for mutant in ALL)
    assert set(counts.values()) == {1}
