"""What the environment says about the other hosts of a job."""

import signal
from unittest import mock

import jax
import pytest
from jax._src import distributed as jax_distributed

from distillspec_jax.cli import distributed
from distillspec_jax.cli import main as console
from distillspec_jax.errors import UsageError


@pytest.fixture
def environment(monkeypatch):
    slurm = (distributed.SLURM_TASKS, distributed.SLURM_NODES)
    for name in (distributed.ADDRESS, distributed.COUNT, distributed.INDEX, distributed.DEVICES, *slurm):
        monkeypatch.delenv(name, raising=False)
    return lambda *values: [
        monkeypatch.setenv(name, value)
        for name, value in zip(
            (distributed.ADDRESS, distributed.COUNT, distributed.INDEX), values, strict=False
        )
    ]


def test_nothing_set_means_autodetection(environment):
    assert distributed.peers() is None


def test_three_variables_name_the_peers(environment):
    environment("10.0.0.1:1234", "4", "3")
    assert distributed.peers() == ("10.0.0.1:1234", 4, 3)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (("a:1",), "JAX_NUM_PROCESSES, JAX_PROCESS_ID not"),
        (("a:1", "four", "0"), "JAX_NUM_PROCESSES='four' is not a whole number"),
        (("a:1", "4", "4"), "JAX_PROCESS_ID=4 is not below JAX_NUM_PROCESSES=4"),
    ],
)
def test_half_an_environment_is_refused(environment, values, says):
    environment(*values)
    with pytest.raises(UsageError) as caught:
        distributed.peers()
    assert says in str(caught.value)


def test_a_command_joins_only_when_asked_and_before_it_starts(environment, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **named: calls.append(named))
    environment("a:1", "2", "1")
    assert console.main(["no_such_command"]) == 2
    monkeypatch.setattr("distillspec_jax.cli.distill.main", lambda flags: 0)
    monkeypatch.setattr("distillspec_jax.cli.report.main", lambda flags: 0)
    for value, command in (("0", "distill"), ("1", "report"), ("1", "distill")):  # the last alone joins
        monkeypatch.setenv("DISTILLSPEC_MULTIHOST", value)
        assert console.main([command]) == 0
    named = {"coordinator_address": "a:1", "num_processes": 2, "process_id": 1}
    assert calls == [{**named, "local_device_ids": None}]


def test_a_command_that_hosts_share_joins_nobody(environment, monkeypatch, capsys):
    """Each of them takes a shard; without one they would all do the same work and write the same file."""
    monkeypatch.setattr(jax.distributed, "initialize", lambda **named: pytest.fail("joined"))
    monkeypatch.setenv("DISTILLSPEC_MULTIHOST", "1")
    environment("a:1", "2", "1")
    assert console.main(["collect", "--output=texts"]) == 2
    assert "add --shard=auto" in capsys.readouterr().err
    monkeypatch.setattr("distillspec_jax.cli.collect.main", lambda flags: 0)
    assert console.main(["collect", "--output=texts", "--shard=auto"]) == 0


def test_sigterm_ends_a_shard_as_a_preemption(monkeypatch, capsys):
    """Unhandled, it would be dropped by the kernel where the command is a container's first process."""
    monkeypatch.setattr("distillspec_jax.cli.collect.main", lambda _: signal.raise_signal(signal.SIGTERM))
    assert console.main(["collect", "--output=texts"]) == 75
    assert capsys.readouterr().err == "distillspec collect: stopped by SIGTERM: resumable\n"


@pytest.fixture
def joined(environment, monkeypatch):
    """What JAX makes of `distributed.join` in a task of a SLURM step, short of a network."""

    def run(tasks, nodes, task, place, **more):
        step = {"JOB_ID": 17, "STEP_NODELIST": "gpu[03-06]", "NTASKS": tasks, "STEP_NUM_NODES": nodes}
        step |= {"PROCID": task, "LOCALID": place}
        variables = {f"SLURM_{name}": str(value) for name, value in step.items()} | more
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        seen = {"jax_cuda_visible_devices": "all"}
        state = jax_distributed.State()
        monkeypatch.setattr(jax_distributed, "_jax", mock.MagicMock())
        monkeypatch.setattr(jax_distributed, "global_state", state)
        monkeypatch.setattr(jax_distributed.config, "update", seen.__setitem__)
        monkeypatch.setattr(jax_distributed.xla_bridge, "backends_are_initialized", lambda: False)
        distributed.join()
        return state.process_id, state.num_processes, seen["jax_cuda_visible_devices"]

    return run


def test_a_task_alone_on_its_node_drives_all_of_its_gpus(joined):
    assert joined(tasks=4, nodes=4, task=3, place=0) == (3, 4, "all")


def test_so_does_one_whose_peers_are_named(joined):
    named = {distributed.ADDRESS: "a:1", distributed.COUNT: "4", distributed.INDEX: "2"}
    assert joined(tasks=4, nodes=4, task=3, place=0, **named) == (2, 4, "all")


def test_several_tasks_on_a_node_take_one_gpu_each(joined):
    assert joined(tasks=32, nodes=4, task=13, place=5) == (13, 32, "5")


def test_who_names_gpus_gets_them(joined):
    assert joined(tasks=4, nodes=4, task=3, place=0, JAX_LOCAL_DEVICE_IDS="2,3") == (3, 4, "2,3")
