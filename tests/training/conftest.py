"""Homes of runs, and the run that nothing interrupts."""

import contextlib
import hashlib

import pytest

from tests import emulators
from tests.data.conftest import make_task  # noqa: F401 (a fixture)
from tests.training import homes, toy


@pytest.fixture(scope="session")
def store_of():
    """Starts each kind of store when it is first asked for; yields the address of a bucket there."""
    with contextlib.ExitStack() as stack:
        started = {}

        def address(kind):
            if kind not in started:
                started[kind] = stack.enter_context(emulators.store(kind))
            return started[kind]

        yield address


@pytest.fixture
def home(request, tmp_path, monkeypatch, store_of):
    kind = getattr(request, "param", "folder")
    if kind == "folder":
        return homes.Folder(tmp_path / "run")
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    return homes.Bucket(f"{store_of(kind)}/runs/{name}", tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted")
    return toy.run(directory), toy.lines(directory)
