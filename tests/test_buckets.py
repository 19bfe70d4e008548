"""Inputs in a bucket are copied once, whole or not at all. The bucket is in memory."""

import json
import sys

import fsspec
import jax
import numpy as np
import pytest

from distillspec_jax import outputs
from distillspec_jax.buckets import copies, stores
from distillspec_jax.cli import errors
from distillspec_jax.cli.main import main
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import results
from distillspec_jax.generation import request_files
from distillspec_jax.models import pretrained
from tests import pair

BUCKET = "memory://bucket"


class Bucket:
    """A bucket in memory that counts what is fetched from it."""

    def __init__(self):
        self.store, self.fetched = fsspec.filesystem("memory"), []
        self.store.store.clear()

    def put(self, files):
        for name, content in files.items():
            self.store.pipe(f"/bucket/{name}", content)
        copies._copied.cache_clear()  # another run


def named(address):
    return address.removeprefix("memory:/")


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILLSPEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stores, "WAITS", (0.0,))
    found = Bucket()
    get_file = found.store.get_file
    monkeypatch.setattr(
        found.store, "get_file", lambda name, to: (found.fetched.append(named(name)), get_file(name, to))
    )
    yield found
    copies._copied.cache_clear()


@pytest.fixture(scope="module")
def target_dir(tmp_path_factory):
    return pair.write(tmp_path_factory.mktemp("pair") / "target", pair.target())


def test_a_path_of_this_machine_stays(tmp_path):
    assert copies.local(str(tmp_path)) == tmp_path
    assert not stores.is_bucket("zoo:wiki_leads/target")
    assert stores.is_bucket("gs://a/b")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("gs:bucket/x", "did you mean gs://bucket/x"),
        ("s3:bucket", "did you mean s3://bucket"),
        ("gs://", "write gs://BUCKET/NAME"),
    ],
)
def test_an_address_that_lacks_something_is_no_folder_of_this_machine(path, said):
    for action in (copies.local, outputs.resolved, lambda path: outputs.place(path, folder=True)):
        with pytest.raises(UsageError, match=f"{path!r} names no bucket: {said}$"):
            action(path)
    assert stores.is_bucket(outputs.Path("gs://a/b"))  # which has one slash


def test_a_file_is_copied_once_and_again_when_it_has_changed(bucket):
    bucket.put({"a/rows.jsonl": b"one\n"})
    first = copies.local(f"{BUCKET}/a/rows.jsonl")
    assert (first.name, first.read_bytes()) == ("rows.jsonl", b"one\n")
    copies._copied.cache_clear()
    assert copies.local(f"{BUCKET}/a/rows.jsonl") == first
    assert bucket.fetched == ["/bucket/a/rows.jsonl"]
    bucket.put({"a/rows.jsonl": b"two\n"})
    assert copies.local(f"{BUCKET}/a/rows.jsonl").read_bytes() == b"two\n"


def test_of_a_model_the_newest_whole_step_is_copied(bucket, target_dir):
    bucket.store.put(target_dir, "/bucket/runs/target", recursive=True)
    unread = (
        "checkpoints/0/params/_METADATA",
        "checkpoints/1/optimizer/x",
        "checkpoints/2/params/x",
        "best/x",
    )
    bucket.put({f"runs/target/{name}": b"x" for name in unread})
    found = pretrained.load(f"{BUCKET}/runs/target/")
    here = pretrained.load(target_dir)
    assert found.name == f"{BUCKET}/runs/target/"
    assert (found.card, found.tokenizer_bytes) == (here.card, here.tokenizer_bytes)
    leaves = zip(*(jax.tree.leaves(one.params) for one in (found, here)), strict=True)
    assert all(np.array_equal(ours, theirs) for ours, theirs in leaves)
    names = {name.removeprefix("/bucket/runs/target/") for name in bucket.fetched}
    assert not names & set(unread)
    assert {"model.json", "checkpoints/1/params/_METADATA"} <= names


def test_requests_and_results_are_read(bucket):
    bucket.put({"in.jsonl": json.dumps({"inputs": "a"}).encode() + b"\n", "r.jsonl": b"{}\n"})
    (request,) = request_files.read_requests(f"{BUCKET}/in.jsonl")
    assert (request.inputs, request.where) == ("a", f"{BUCKET}/in.jsonl:1")
    with pytest.raises(UsageError, match=rf"{BUCKET}/r\.jsonl:1: schema version"):
        results.read([f"{BUCKET}/r.jsonl"])


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (f"{BUCKET}/nothing", "cannot read 'memory://bucket/nothing': nothing is there"),
        ("ftp://bucket/x", r"unknown kind of store ftp:// \(valid: gs://, s3://\)"),
    ],
)
def test_what_is_not_there_is_one_line(bucket, path, said):
    with pytest.raises(UsageError, match=said) as refused:
        copies.local(path)
    assert refused.type is UsageError  # not `Unavailable`: it will not be there another time either


def test_a_store_without_its_library_is_one_line(bucket, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    fsspec.filesystem.__globals__["_registry"].pop("s3", None)
    with pytest.raises(UsageError, match=r"s3fs is not installed: pip install 'distillspec_jax\[buckets\]'"):
        copies.local("s3://bucket/x")


@pytest.mark.parametrize("lost", ["error", "end"])
def test_a_lost_connection_leaves_nothing(bucket, tmp_path, monkeypatch, lost):
    def get_file(name, to):
        with open(to, "wb") as file:
            file.write(b"o")
        if lost == "error":
            raise ConnectionResetError("connection reset by peer")

    bucket.put({"rows.jsonl": b"one\n"})
    said = "connection reset" if lost == "error" else "ended after 1 bytes"
    with monkeypatch.context() as patch:
        patch.setattr(bucket.store, "get_file", get_file)
        with pytest.raises(UsageError, match=rf"cannot read 'memory://bucket/rows\.jsonl': .*{said}"):
            copies.local(f"{BUCKET}/rows.jsonl")
    assert list((tmp_path / "cache").iterdir()) == []
    assert copies.local(f"{BUCKET}/rows.jsonl").read_bytes() == b"one\n"


@pytest.mark.parametrize("flag", ["html", "prometheus", "state"])
def test_outputs_that_stay_on_this_machine_are_refused_in_a_bucket(flag, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lines.jsonl").write_text("{}\n")
    assert main(["watch", "lines.jsonl", "--at_least=0.5", f"--{flag}=gs://bucket/out"]) == errors.USAGE
    assert "cannot save to gs://bucket/out: this writes folders and files" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["lines.jsonl"]


def test_without_a_run_nothing_is_written_to_a_bucket():
    with pytest.raises(UsageError, match=r"cannot save to gs://bucket/sweep/results\.jsonl: this writes"):
        results.reopen(outputs.Path("gs://bucket/sweep") / "results.jsonl")
