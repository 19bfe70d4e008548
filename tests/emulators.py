"""Object stores that tests write to: one in memory, and emulators of the real ones.

The emulators are no part of the locked environment. In one of its own, beside the package's:

    pip install gcsfs s3fs 'moto[server]' gcp-storage-emulator
    export DISTILLSPEC_EMULATORS=s3,gs
    python -m pytest -m '' tests/test_bucket_emulators.py tests/training/test_{restart,damage}.py \
        tests/faults/test_hosts.py
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import fsspec
import pytest

EMULATED = tuple(filter(None, os.environ.get("DISTILLSPEC_EMULATORS", "").split(",")))
"""Kinds of stores whose emulators the tests use."""

_GS_PROGRAM = r"""
import email.feedparser, re
from gcp_storage_emulator import __main__ as emulator, storage
email.feedparser.NLCRE_eol = re.compile(r"\n\Z")
storage.Storage._write_config_to_file = lambda self: None
emulator.main()
"""
"""The emulator reads what is uploaded as an e-mail, and takes a carriage return at the end of an object for a
part of the line's end that follows: an object in 256 would lose its last byte. After every write it writes
down what all objects are, though it forgets them when it ends: the more, the slower."""


@contextlib.contextmanager
def store(kind: str) -> Iterator[str]:
    """Starts a store, empty; yields the address of a bucket there."""
    with {"memory": _memory, "s3": _s3, "gs": _gs}[kind]() as address:
        yield address


@contextlib.contextmanager
def _memory() -> Iterator[str]:
    found = fsspec.filesystem("memory")
    bucket = secrets.token_hex(4)
    found.mkdirs(f"/{bucket}", exist_ok=True)
    yield f"memory://{bucket}"
    found.rm(f"/{bucket}", recursive=True)


@contextlib.contextmanager
def _s3() -> Iterator[str]:
    with _served("-m", "moto.server", "-p") as port, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        forget("s3")
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"


@contextlib.contextmanager
def _gs() -> Iterator[str]:
    options = ("start", "--host=127.0.0.1", "--in-memory", "--default-bucket=bucket", "--port")
    with _served("-c", _GS_PROGRAM, *options) as port, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        # Nobody asks the machine's cloud who it is, nor the emulator by gRPC of what kind its buckets are.
        patch.setenv("NO_GCE_CHECK", "true")
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        forget("gs")
        yield "gs://bucket"


@contextlib.contextmanager
def _served(*command: str) -> Iterator[int]:
    """Runs Python with a server in a process of its own, which others reach; yields its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    whole = [sys.executable, *command, str(port)]
    process = subprocess.Popen(whole, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
        yield port
    finally:
        process.kill()
        process.wait()


def forget(scheme: str) -> None:
    """Makes the library connect anew: it keeps what it has opened, by its arguments alone."""
    fsspec.get_filesystem_class(scheme).clear_instance_cache()
