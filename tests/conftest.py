"""Settings of every test: CPU, quiet, deterministic; in place before any test imports JAX or TensorFlow."""

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path

# An accelerator is asked for by name: `JAX_PLATFORMS=cuda make test`.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Each program is compiled once a session, by whichever worker or command needs it first. JAX's own cache
# goes by function and dies with the process; this one goes by program. Subprocesses inherit the folder.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# These tests try our programs and not XLA, and compiling is most of their time: XLA optimises little here,
# which takes half as long. Programs that run long, as those of the exactness grid, ask for `tiny.OPTIMISED`.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    f" --xla_cpu_parallel_codegen_split_count=1 {os.environ.get('XLA_FLAGS', '')}"
)

import hypothesis
import jax
import pytest

# [B, T, V] + [V] must be written out: an accidental broadcast between axes is a bug, not a convenience.
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples on every run, and no deadline: the first example pays for the compilation.
hypothesis.settings.register_profile(
    "distillspec", derandomize=True, deadline=None, max_examples=25, database=None, print_blob=True
)
hypothesis.settings.load_profile("distillspec")

SLOW_ALONE = ("showcase/test_demo.py", "test_notebooks.py", "test_partitioning.py")
"""Files of few but long tests: dealt out first, or one worker runs them when the others have finished."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.path.as_posix().endswith(SLOW_ALONE))


def pytest_collection_finish() -> None:
    gc.set_threshold(100_000, 20, 20)
    gc.freeze()  # what is imported stays: the collector need not walk it again and again while JAX traces


MAPPINGS = 40_000
"""Of memory, of the 65,530 that Linux grants a process: compiled programs take them; beyond, it dies."""


@pytest.fixture(scope="module", autouse=True)
def mappings_left():
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MAPPINGS:
        jax.clear_caches()
