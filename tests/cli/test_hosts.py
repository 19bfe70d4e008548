"""What the environment says about the other hosts of a job."""

import jax
import pytest

from distillspec_jax.cli import hosts
from distillspec_jax.cli import main as console
from distillspec_jax.errors import UsageError


@pytest.fixture
def environment(monkeypatch):
    for name in (hosts.ADDRESS, hosts.COUNT, hosts.INDEX):
        monkeypatch.delenv(name, raising=False)
    return lambda *values: [
        monkeypatch.setenv(name, value)
        for name, value in zip((hosts.ADDRESS, hosts.COUNT, hosts.INDEX), values, strict=False)
    ]


def test_nothing_set_means_autodetection(environment):
    assert hosts.peers() is None


def test_three_variables_name_the_peers(environment):
    environment("10.0.0.1:1234", "4", "3")
    assert hosts.peers() == ("10.0.0.1:1234", 4, 3)


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
        hosts.peers()
    assert says in str(caught.value)


def test_a_command_joins_only_when_asked_and_before_it_starts(environment, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **named: calls.append(named))
    environment("a:1", "2", "1")
    assert console.main(["no_such_command"]) == 2
    monkeypatch.setenv("DISTILLSPEC_MULTIHOST", "1")
    monkeypatch.setitem(console.COMMANDS, "errors", "a module without `main`")
    with pytest.raises(AttributeError, match="main"):
        console.main(["errors"])
    assert calls == [{"coordinator_address": "a:1", "num_processes": 2, "process_id": 1}]
