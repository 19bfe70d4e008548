"""TensorFlow as this package uses it: a quiet, CPU-only input pipeline.

Every module of `data` that needs TensorFlow or seqio imports them from here, so the settings precede the
import.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def _without_native_stderr() -> Iterator[None]:
    """Discards native code's output to file descriptor 2; Python's own exceptions are unaffected.

    TensorFlow's start-up messages (no GPU, oneDNN) ignore TF_CPP_MIN_LOG_LEVEL: they precede its log set-up.
    """
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # The process has no standard error, so there is nothing to quieten.
        yield
        return
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with _without_native_stderr():
    import seqio
    import tensorflow as tf
    import tensorflow_datasets as tfds

    # JAX owns the accelerators; TensorFlow would otherwise reserve all of a GPU's memory. RuntimeError: the
    # caller started TensorFlow first and has chosen its devices.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")

__all__ = ["seqio", "tf", "tfds"]
