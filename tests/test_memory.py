"""What memory there is, and that needs beyond it are refused in one line."""

import resource

import jax
import pytest

from distillspec_jax import memory
from distillspec_jax.errors import UsageError


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1_000, "1.0 kB"),
        (8.25e9, "8.2 GB"),
        (3 * 10**21, "3,000.0 EB"),
        (10**400, "1,000,000.0 EB"),  # of a size that no float holds
    ],
)
def test_sizes_are_told_in_the_unit_that_suits_them(size, said):
    assert memory.text(size) == said


def test_what_is_asked_needed_and_there_is_told(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 2 * 10**9)
    memory.check("--batch_size=8", 2 * 10**9)
    with pytest.raises(UsageError) as caught:
        memory.check("--batch_size=9", 2 * 10**9 + 1)
    assert str(caught.value) == "--batch_size=9 needs at least 2.0 GB of memory, and there are 2.0 GB"


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A process in /job/step of both versions of control groups."""
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "own")
    (tmp_path / "own").write_text("0::/job/step\n5:cpu,memory:/job\n4:cpuset:/job/other\n")
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "memory").mkdir()
    return tmp_path


def test_a_container_has_what_its_groups_leave(groups):
    unlimited = memory.host()
    (groups / "job" / "step" / "memory.max").write_text("max\n")
    assert memory.host() == unlimited
    (groups / "job" / "memory.max").write_text("5000\n")  # of the group above
    assert memory.host() == 5000
    # In a container the path may be the host's: the limit is in the first folder that there is.
    (groups / "memory" / "memory.limit_in_bytes").write_text("4000\n")
    assert memory.host() == 4000


def test_ulimit_is_a_limit(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (7_000, -1))
    assert memory.host() == 7_000


class _Device:
    platform = "gpu"

    def __init__(self, stats):
        self.memory_stats = lambda: stats


@pytest.mark.parametrize(("stats", "there"), [({"bytes_limit": 10**9}, 10**9), (None, 2**63 - 1)])
def test_an_accelerator_has_its_own(monkeypatch, stats, there):
    monkeypatch.setattr(jax, "local_devices", lambda: [_Device(stats)])
    assert memory.available() == there
