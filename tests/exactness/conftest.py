import jax
import pytest

FEW = 100
"""Tests. Every kernel that is kept is a mapping of memory, of which Linux grants a process 65,530."""

_run = 0


@pytest.fixture(autouse=True)
def few_programs():
    """Of the whole grid (`make test-exact`), only the last programs are kept."""
    global _run
    yield
    _run += 1
    if _run % FEW == 0:
        jax.clear_caches()
