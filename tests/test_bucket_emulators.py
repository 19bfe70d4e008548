"""Emulated stores, through the libraries that speak to the real ones: see `tests/emulators.py`."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest

from distillspec_jax.buckets import commits, copies, stores
from distillspec_jax.buckets.published_files import PublishedFile
from distillspec_jax.buckets.published_folders import PublishedFolder
from distillspec_jax.errors import UsageError
from tests import emulators
from tests.broken_line import Line
from tests.test_publications import AFTER, BEFORE, LATER, held, publish
from tests.training import toy

pytestmark = pytest.mark.skipif(not emulators.EMULATED, reason="no DISTILLSPEC_EMULATORS")

FILES = {
    "runs/target/model.json": b"{}",
    "runs/target/checkpoints/3/params/_METADATA": b"old",
    "runs/target/checkpoints/7/params/_METADATA": b"new",
    "runs/target/checkpoints/7/optimizer/x": b"not read",
    "prompts.jsonl": b'{"inputs": "a"}\n',
}
ENDPOINTS = {"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST"}


@pytest.fixture(scope="module", params=emulators.EMULATED)
def store(request):
    """The address of a bucket, which the tests share."""
    with emulators.store(request.param) as address:
        yield address


@pytest.fixture
def here(store, tmp_path, monkeypatch):
    """A machine that has read nothing yet, and what makes another one of it."""
    numbers = iter(range(100))

    def another():
        copies._copied.cache_clear()
        monkeypatch.setenv("DISTILLSPEC_CACHE", str(tmp_path / f"machine-{next(numbers)}"))

    another()
    return another


def put(address, files):
    library = fsspec.filesystem(address.partition(":")[0])
    for name, content in files.items():
        library.pipe_file(f"{address}/{name}", content)


def read(address):
    copies._copied.cache_clear()
    return held(copies.local(address))


def test_a_file_is_read_and_read_again_when_it_has_changed(store, here):
    put(store, FILES)
    found = copies.local(f"{store}/prompts.jsonl")
    assert (found.name, found.read_bytes()) == ("prompts.jsonl", FILES["prompts.jsonl"])
    copies._copied.cache_clear()
    assert copies.local(f"{store}/prompts.jsonl") == found
    put(store, {"prompts.jsonl": b'{"inputs": "b"}\n'})
    copies._copied.cache_clear()
    assert copies.local(f"{store}/prompts.jsonl").read_bytes() == b'{"inputs": "b"}\n'


def test_of_a_model_the_newest_whole_step_is_read(store, here):
    put(store, FILES)
    found = copies.local(f"{store}/runs/target/", model=True)
    names = {str(path.relative_to(found)) for path in found.rglob("*") if path.is_file()}
    assert names == {"model.json", "checkpoints/7/params/_METADATA"}
    assert (found / "checkpoints/7/params/_METADATA").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["nothing", "../no-such-bucket/x"])
def test_what_is_not_there_is_one_line(store, here, name, tmp_path):
    address = os.path.normpath(f"{store}/{name}").replace(":/", "://")
    with pytest.raises(UsageError, match=rf"cannot read '{address}': .+") as caught:
        copies.local(address)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob(".partial-*"))


def test_a_bucket_that_is_not_there_is_found_before_the_work(store, here):
    scheme = store.partition(":")[0]
    for kind in (PublishedFolder, PublishedFile):
        with pytest.raises(UsageError, match=rf"cannot save to {scheme}://no-such-bucket/x: .+") as caught:
            kind(f"{scheme}://no-such-bucket/x").close()
        assert "\n" not in str(caught.value)


def test_a_folder_is_published_from_two_machines(store, here):
    address = f"{store}/folder/one"
    publish(BEFORE, address)
    assert read(address) == BEFORE
    here()
    publish(AFTER, address)
    assert read(address) == AFTER
    library = fsspec.filesystem(store.partition(":")[0])
    library.invalidate_cache()
    root = library._strip_protocol(address) + "/"
    assert {name.removeprefix(root) for name in library.find(address)} == {*AFTER, commits.NAME}


def test_a_file_is_published_and_its_partial_lines_go(store, here):
    address = f"{store}/files/out.jsonl"
    one = PublishedFile(address)
    one.path.with_name("out.jsonl.partial").write_text("a\n")
    one.publish()
    one.close()
    here()
    one = PublishedFile(address)
    partial = one.path.with_name("out.jsonl.partial")
    assert partial.read_text() == "a\n"
    partial.replace(one.path)
    one.publish()
    one.close()
    assert copies.local(address).read_text() == "a\n"
    with pytest.raises(UsageError, match="cannot read"):
        copies.local(f"{address}.partial")


SETTINGS = {"total_steps": 40, "save_period": 2}


def test_a_training_process_that_is_killed_goes_on_elsewhere(store, here, tmp_path):
    address, said = f"{store}/runs/killed", tmp_path / "said"
    command = [
        sys.executable,
        "-m",
        "tests.training.toy",
        address,
        *(f"{k}={v}" for k, v in SETTINGS.items()),
    ]
    with said.open("w") as file:  # nobody reads a pipe while it runs
        process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=file)
    library = fsspec.filesystem(store.partition(":")[0])
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)  # the emulator of GCS answers one question at a time
        with contextlib.suppress(FileNotFoundError):
            if b"checkpoints/4/" in library.cat_file(f"{address}/{commits.NAME}"):
                break
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL, said.read_text()
    here()
    params = toy.run(address, **SETTINGS)
    toy.assert_equal(toy.run(tmp_path / "whole", **SETTINGS), params)
    copies._copied.cache_clear()
    assert toy.lines(copies.local(address)) == toy.lines(tmp_path / "whole")


@pytest.fixture
def line(store, monkeypatch):
    """A line to the store; the libraries' own patience is cut short."""
    scheme = store.partition(":")[0]
    variable = ENDPOINTS[scheme]
    found = Line(int(os.environ[variable].rpartition(":")[2]))
    monkeypatch.setenv(variable, f"http://127.0.0.1:{found.port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(stores, "WAITS", (0.0, 0.0))
    if scheme == "gs":
        import gcsfs.retry

        monkeypatch.setattr(gcsfs.retry.asyncio, "sleep", _at_once)
    emulators.forget(scheme)
    yield found
    found.mend()
    monkeypatch.undo()
    emulators.forget(scheme)


async def _at_once(seconds, *more):
    return None


LARGE = {"large": "x" * 3_000_000}


@pytest.mark.parametrize("room", [1, 3_000, 100_000, 2_500_000, 3_003_000])
def test_a_line_cut_in_mid_write_is_one_line_and_leaves_the_old_or_the_new(store, here, line, room):
    address = f"{store}/cut/{room}"
    publish(BEFORE, address)
    line.room = room
    with pytest.raises(UsageError, match=rf"cannot save to {address}: .+") as caught:
        publish(AFTER | LARGE, address)
    assert "\n" not in str(caught.value)
    line.mend()
    assert read(address) in (BEFORE, AFTER | LARGE)
    here()
    publish(LATER, address)
    assert read(address) == LATER
