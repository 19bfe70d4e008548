"""JAX's persistent compilation cache, switched on for one process."""

from __future__ import annotations

import os
from pathlib import Path

import jax

from distillspec_jax import files, outputs

SHORTEST_SECONDS = 0.2
"""Programs that compile faster are not worth a file, unless JAX's own variable says otherwise."""
_VARIABLE = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def keep(directory: str | None) -> None:
    """Keeps compiled programs in a folder, which is made if need be; None: nowhere."""
    if not directory:
        return
    outputs.take_folder(directory)  # no model's
    outputs.check_writable(directory)  # JAX would warn, program by program
    with files.saving(directory):
        Path(directory).mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", directory)
    if _VARIABLE not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST_SECONDS)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
