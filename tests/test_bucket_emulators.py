"""Inputs read from emulated stores, through the libraries that speak to the real ones.

The emulators are no part of the locked environment. In one of its own:

    pip install gcsfs s3fs 'moto[server]' gcp-storage-emulator pytest
    python -m pytest --noconftest tests/test_bucket_emulators.py
"""

import urllib.parse
import urllib.request

import pytest

from distillspec_jax import buckets
from distillspec_jax.errors import UsageError

FILES = {
    "runs/target/model.json": b"{}",
    "runs/target/checkpoints/3/params/_METADATA": b"old",
    "runs/target/checkpoints/7/params/_METADATA": b"new",
    "runs/target/checkpoints/7/optimizer/x": b"not read",
    "prompts.jsonl": b'{"inputs": "a"}\n',
}


@pytest.fixture(scope="module")
def s3():
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    import boto3

    server = server_module.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        yield "s3", lambda name, content: client.put_object(Bucket="bucket", Key=name, Body=content)
    server.stop()


@pytest.fixture(scope="module")
def gs():
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    pytest.importorskip("gcsfs")
    server = emulator.create_server("127.0.0.1", 9023, in_memory=True, default_bucket="bucket")
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9023")
        yield "gs", _put_gs
    server.stop()


def _put_gs(name, content):
    """By the store's own interface: gcsfs, which only reads here, waits for ever when it writes."""
    asked = urllib.parse.urlencode({"uploadType": "media", "name": name})
    url = f"http://127.0.0.1:9023/upload/storage/v1/b/bucket/o?{asked}"
    urllib.request.urlopen(urllib.request.Request(url, content, method="POST"), timeout=10)


@pytest.fixture(params=["s3", "gs"])
def store(request, tmp_path, monkeypatch):
    """A scheme, and how an object is put into its bucket."""
    scheme, put = request.getfixturevalue(request.param)
    monkeypatch.setenv("DISTILLSPEC_CACHE", str(tmp_path))
    for name, content in FILES.items():
        put(name, content)
    buckets._copied.cache_clear()
    return scheme, put


def test_a_file_is_read_and_read_again_when_it_has_changed(store):
    scheme, put = store
    found = buckets.local(f"{scheme}://bucket/prompts.jsonl")
    assert (found.name, found.read_bytes()) == ("prompts.jsonl", FILES["prompts.jsonl"])
    buckets._copied.cache_clear()
    assert buckets.local(f"{scheme}://bucket/prompts.jsonl") == found
    put("prompts.jsonl", b'{"inputs": "b"}\n')
    buckets._copied.cache_clear()
    assert buckets.local(f"{scheme}://bucket/prompts.jsonl").read_bytes() == b'{"inputs": "b"}\n'


def test_of_a_model_the_newest_whole_step_is_read(store):
    found = buckets.local(f"{store[0]}://bucket/runs/target/", model=True)
    names = {str(path.relative_to(found)) for path in found.rglob("*") if path.is_file()}
    assert names == {"model.json", "checkpoints/7/params/_METADATA"}
    assert (found / "checkpoints/7/params/_METADATA").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["bucket/nothing", "no-such-bucket/x"])
def test_what_is_not_there_is_one_line(store, name, tmp_path):
    with pytest.raises(UsageError, match=rf"cannot read '{store[0]}://{name}': .+") as caught:
        buckets.local(f"{store[0]}://{name}")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob(".partial-*"))
