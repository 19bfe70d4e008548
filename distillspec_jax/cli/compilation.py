"""JAX's persistent compilation cache, switched on for one process."""

from __future__ import annotations

from pathlib import Path

import jax

SHORTEST_SECONDS = 0.2
"""Programs that compile faster are not worth a file."""


def keep(directory: str) -> None:
    """Keeps compiled programs in a folder, which is made if need be."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST_SECONDS)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
