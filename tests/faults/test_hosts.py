"""Two processes train together, into a folder or a bucket; one, and four devices, go on from there."""

import contextlib
import json
import shutil
import socket

import pytest

from distillspec_jax import checkpoint
from distillspec_jax.buckets import copies
from distillspec_jax.cli.main import main
from tests import emulators
from tests.faults.killing import Job

pytestmark = pytest.mark.slow  # test_faults.py has a short form

SETTINGS = {"EVAL_PERIOD": 3, "loop__LoopConfig__log_period": 3, "SAVE_PERIOD": 3}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    job = Job(tmp_path_factory.mktemp("hosts"), steps=6)
    job.prepare()
    return job


@pytest.fixture(scope="module", params=["folder", *emulators.EMULATED])
def half_way(job, request):
    """A run that two processes brought to step 3, where they agreed that their time was over.

    With a bucket the parameters are split over the two, so that the first has to gather what it saves.
    """
    with contextlib.ExitStack() as stack:
        if request.param == "folder":
            yield together(job, job.folder / "two")
            return
        address = stack.enter_context(emulators.store(request.param)) + "/runs/two"
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("DISTILLSPEC_CACHE", str(job.folder / f"{request.param} machine"))
        yield together(job, address, FULLY_SHARDED=True)


def two(job, directory, **changes):
    """The exit statuses of two processes that train in a directory, and what they say."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    peers = {"DISTILLSPEC_MULTIHOST": "1", "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    processes = [
        job.start(
            "two",
            environment={**peers, "JAX_PROCESS_ID": str(index)},
            loop__LoopConfig__max_seconds=1e-9,
            **{"MODEL_DIR": directory, **SETTINGS, **changes},
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=900)[1] for process in processes]
    return [process.returncode for process in processes], said


def together(job, directory, **changes):
    """Two processes that train in a directory until they have come to step 3."""
    statuses, said = two(job, directory, **changes)
    assert statuses == [0, 0], said
    assert "train      3/6" in said[0]
    assert "train  " not in said[1]  # the first host speaks
    found = copies.local(directory)
    assert checkpoint.latest_step(found) == 3
    return found


def test_what_the_first_finds_wrong_ends_both_in_the_same_way(job):
    """The second waited for the first for five minutes, and had another status."""
    other = shutil.copytree(job.folder / "target", job.folder / "other")
    statuses, said = two(job, other)
    assert statuses == [2, 2], said
    assert all("holds another run, whose" in one for one in said), said


@pytest.fixture(scope="module")
def alone(job):
    assert main(job.flags("alone", 2, **SETTINGS)) == 0
    return values(job.folder / "alone")


def values(directory):
    """Every number of every report, by step, split and name."""
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    names = ("loss", "gradient_norm", "acceptance_on_batch", "acceptance_expected_T1")
    return {(r["step"], r["split"], name): r[name] for r in records for name in names if name in r}


def test_two_processes_train_as_one_does(half_way, alone):
    found = values(half_way)
    assert found == pytest.approx({key: alone[key] for key in alone if key[0] <= 3}, rel=1e-5)
    assert len(found) == 4  # each report once, though two processes ran


def copied(directory, to):
    """A copy of a run, in place of one that another test has left."""
    shutil.rmtree(to, ignore_errors=True)
    return shutil.copytree(directory, to)


def test_one_process_goes_on(job, half_way, alone):
    one = copied(half_way, job.folder / "one")
    assert main(job.flags("one", 2, **SETTINGS)) == 0
    assert values(one) == pytest.approx(alone, rel=1e-5)


def test_four_devices_go_on_with_parameters_split_along_both_axes(job, half_way, alone):
    four = copied(half_way, job.folder / "four")
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "NPROC": "16"}
    process = job.start("four", environment=devices, NUM_PARTITIONS=2, FULLY_SHARDED=True, **SETTINGS)
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert values(four) == pytest.approx(alone, rel=1e-5)
