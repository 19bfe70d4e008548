"""What is kept off the terminal, and that nothing else is."""

import logging
import sys
import types
import warnings

import pytest

from distillspec_jax.cli import noise

ORBAX = "/site-packages/orbax/checkpoint/_src/futures/future.py"
OTHER = "/site-packages/seqio/utils.py"
RAISED = (ValueError, ValueError("OUT_OF_RANGE"), None)


@pytest.fixture
def silenced(monkeypatch) -> list:
    """The filters are in; what still comes through to `sys.unraisablehook`."""
    told = []
    monkeypatch.delenv("DISTILLSPEC_TRACEBACK", raising=False)
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    noise.silence.__wrapped__()  # past its cache: once a test
    return told


@pytest.mark.parametrize(
    ("logger", "path", "level", "message", "raised", "told"),
    [
        ("absl", ORBAX, logging.WARNING, "Metadata file does not exist: x", None, False),
        ("absl", ORBAX, logging.ERROR, "_SignalingThread.run() raised an exception", RAISED, False),
        ("absl", ORBAX, logging.ERROR, "a host went away", None, True),
        ("absl", OTHER, logging.WARNING, "a warning", None, True),
        ("absl", OTHER, logging.ERROR, "an error", RAISED, True),
        ("asyncio", "", logging.ERROR, "Task exception was never retrieved", RAISED, False),
        ("asyncio", "", logging.ERROR, "Future exception was never retrieved\nfuture: x", RAISED, False),
        ("asyncio", "", logging.ERROR, "Exception in callback", RAISED, True),
    ],
)
def test_records(silenced, logger, path, level, message, raised, told):
    record = logging.LogRecord(logger, level, path, 1, message, (), raised)
    assert bool(logging.getLogger(logger).filter(record)) is told


def test_orbax_is_heard_through_the_logger_that_knows_who_called(silenced):
    """absl makes its logger when it is imported; a filter on an earlier one would see no caller."""
    assert type(logging.getLogger("absl")).__name__ == "ABSLLogger"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("Event loop is closed"), False),
        (RuntimeError("something else"), True),
        (ValueError("Event loop is closed"), True),
    ],
)
def test_what_native_threads_meet(silenced, error, told):
    sys.unraisablehook(types.SimpleNamespace(exc_value=error, object=None))
    assert len(silenced) == told


@pytest.mark.parametrize(("path", "told"), [(ORBAX, False), (OTHER, True)])
def test_what_a_coroutine_raises_when_it_is_closed(silenced, path, told):
    """A damaged checkpoint was pages of TensorStore's settings after the one line."""
    code = types.SimpleNamespace(co_filename=path)
    of = types.SimpleNamespace(cr_code=code)
    sys.unraisablehook(types.SimpleNamespace(exc_value=ValueError("array index"), object=of))
    assert len(silenced) == told


def test_coroutines_of_a_failed_save_or_restore_and_of_others(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # given back
    saving = "coroutine 'async_serialize_from_host.<locals>.write_fragment' was never awaited"
    restoring = "coroutine '_read_array_index_and_device_put' was never awaited"
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        noise.silence.__wrapped__()
        for message in (saving, restoring, "coroutine 'mine' was never awaited"):
            warnings.warn_explicit(message, RuntimeWarning, "sys", 1)
    assert [str(warning.message) for warning in heard] == ["coroutine 'mine' was never awaited"]


def test_everything_is_told_on_request(monkeypatch):
    monkeypatch.setenv("DISTILLSPEC_TRACEBACK", "1")
    before = sys.unraisablehook
    noise.silence.__wrapped__()
    assert sys.unraisablehook is before
