"""Settings of every test: CPU, quiet, deterministic; in place before any test imports JAX or TensorFlow."""

import os
from pathlib import Path

# An accelerator is asked for by name: `JAX_PLATFORMS=cuda pytest -m gpu`.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

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

MAPPINGS = 40_000
"""Of memory, of the 65,530 that Linux grants a process: compiled programs take them; beyond, it dies."""


@pytest.fixture(scope="module", autouse=True)
def mappings_left():
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MAPPINGS:
        jax.clear_caches()
