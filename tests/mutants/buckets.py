"""The mutants of buckets: folders that are half old and half new, and runs that undo each other."""

from __future__ import annotations

from tests.mutants.catalog import Edit, Mutant

_FOLDERS, _TESTS = "buckets/published_folders.py", ("tests/test_publications.py",)


def _mutant(number: str, bug: str, *edit: str) -> Mutant:
    return Mutant(f"B{number}", bug, (Edit(*edit),), _TESTS)


BUCKETS = (
    _mutant(
        "1",
        "an object that changes is written over while the commit in force lists what it was",
        _FOLDERS,
        "for name in changed if new[name] != before.files.get(name, new[name])}",
        "for name in ()}",
    ),
    _mutant(
        "2",
        "a run goes on from what its machine had, although another has published since",
        _FOLDERS,
        "if self._known() != self._commit.id:",
        "if self._known() is None:",
    ),
    _mutant(
        "3",
        "what a killed run had begun to write stays for ever",
        _FOLDERS,
        "leftovers = {*before.leftovers, *direct, *pending}",
        "leftovers = {*direct, *pending}",
    ),
    _mutant(
        "4",
        "an object that was still pending when a run was killed is taken for one in its place",
        _FOLDERS,
        "if one.pending not in left}",
        "}",
    ),
    _mutant(
        "5",
        "what a lost connection cut short is committed",
        "buckets/stores.py",
        "        if found != part.size:",
        "        if False:",
    ),
    _mutant(
        "6",
        "a file that grows while it is published is published longer than it was described",
        "buckets/stores.py",
        "if self.file.stat().st_size == self.size:",
        "if True:",
    ),
    _mutant(
        "7",
        "a host that has written something itself does not take over what the first has published",
        "buckets/followed_folders.py",
        "self._equalise(commit)",
        "self.path.exists() or self._equalise(commit)",
    ),
    _mutant(
        "8",
        "every host publishes what it has",
        "buckets/followed_folders.py",
        '    def publish(self) -> None:\n        """Does nothing."""\n',
        "",
    ),
)
