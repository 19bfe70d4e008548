"""What goes wrong in object stores: what is tried again, what ends a run at once."""

import errno

import pytest

from distillspec_jax.buckets import stores
from distillspec_jax.errors import Unavailable, UsageError


class HttpError(Exception):
    """What gcsfs says of an answer."""

    def __init__(self, code):
        self.code = code


class ClientError(Exception):
    """What botocore says of one; s3fs raises an `OSError` from it."""

    def __init__(self, status):
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


def of_s3fs(status):
    error = OSError(errno.EIO, "An error occurred")
    error.__cause__ = ClientError(status)
    return error


class ClientConnectorError(type("ClientConnectionError", (Exception,), {})):
    """What aiohttp says of a host that does not answer."""


class RefreshError(Exception):
    """What google.auth says of credentials that are no longer good."""


PASSING = [
    HttpError(429),
    HttpError(503),
    of_s3fs(500),
    ClientConnectorError("no route"),
    TimeoutError("slow"),
]
PASSING += [OSError(errno.ENETUNREACH, "Network is unreachable"), OSError(errno.EBUSY, "Please reduce")]
LASTING = [
    HttpError(412),
    of_s3fs(400),
    RefreshError("invalid_grant"),
    ValueError("Bad Request: requester pays"),
]
LASTING += [PermissionError("denied"), OSError(errno.ENOSPC, "No space left on device"), KeyError("size")]


@pytest.mark.parametrize("error", PASSING + LASTING, ids=repr)
def test_what_may_pass_is_tried_again_and_nothing_else(monkeypatch, error):
    """A launcher started a run without credentials again and again."""
    monkeypatch.setattr(stores, "WAITS", (0.0, 0.0))
    calls = []

    def fail():
        calls.append(1)
        raise error

    with pytest.raises(UsageError, match=r"^cannot read x: ") as refused, stores.told("cannot read x"):
        stores.again(fail)
    assert (len(calls), refused.type) == ((3, Unavailable) if error in PASSING else (1, UsageError))


def test_a_defect_keeps_its_traceback():
    with pytest.raises(TypeError), stores.told("cannot read x"):
        stores.again(lambda: len(1))
