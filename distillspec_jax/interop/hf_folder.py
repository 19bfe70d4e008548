"""A Hugging Face model folder on the local disk: config.json and safetensors, whole or in shards.

config.json                     the architecture (`model_type`) and its sizes
model.safetensors               the weights; or
model.safetensors.index.json    maps each tensor to one of the files next to it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from distillspec_jax import files, schema
from distillspec_jax.errors import UsageError, nearest, shown
from distillspec_jax.interop import hf, hf_decoder, hf_decoder_config, hf_t5gemma, hf_t5gemma_config
from distillspec_jax.interop.tensors import Tensors
from distillspec_jax.models import registry
from distillspec_jax.models.network import Network
from distillspec_jax.shapes import Params

MASK_FIELD = "pard_token"
"""The field of config.json from which vLLM reads a one-pass draft's mask."""
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"

_READERS: Mapping[str, Callable[..., Any]] = {
    "t5": hf.from_hf,
    "t5gemma": hf_t5gemma.from_hf,
    "decoder_only": hf_decoder.from_hf,
}
_WRITERS: Mapping[str, Callable[..., Any]] = {
    "t5": hf.to_hf,
    "t5gemma": hf_t5gemma.to_hf,
    "decoder_only": hf_decoder.to_hf,
}
"""By family, conversions of tensors and config.json to sizes and parameters, and back."""

_ENCODER_DECODERS: Mapping[str, Callable[..., Any]] = {
    "t5": hf.config_from_hf,
    "t5gemma": hf_t5gemma_config.config_from_hf,
}
"""By family, which is also the `model_type`, the conversion of config.json to sizes."""

_KINDS = (*_ENCODER_DECODERS, *hf_decoder_config.ARCHITECTURES)
"""Supported values of `model_type`."""

_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".ckpt")


class SafeTensors(Mapping[str, np.ndarray]):
    """The tensors of some files, each read on access and not cached.

    Raises:
      UsageError: a file is missing or truncated, or lacks a tensor of the index; names it.
    """

    def __init__(self, files: list[Path], index: Mapping[str, str] | None = None) -> None:
        self._opened: dict[str, tuple[Path, Any]] = {}
        for path in files:
            opened = _open(path)
            self._opened |= dict.fromkeys(opened.keys(), (path, opened))
        for name, file in (index or {}).items():
            if name not in self._opened:
                where = files[0].parent / file
                raise UsageError(f"{where}: tensor {name} is missing, though the index puts it there")

    def __getitem__(self, name: str) -> np.ndarray:
        path, opened = self._opened[name]
        try:
            return opened.get_tensor(name)
        except Exception as error:  # the type differs between damage and dtypes unknown to NumPy
            raise UsageError(f"{path}: tensor {name} cannot be read: {str(error).splitlines()[0]}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._opened)

    def __len__(self) -> int:
        return len(self._opened)


def _open(path: Path) -> Any:
    try:
        if not path.is_file():
            raise UsageError(f"{path}: no such file")
        # Read instead of memory-mapping: mapped pages would stay resident until the last tensor is read.
        return safe_open(path, framework="np", backend="pread")
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is damaged or cut short: {str(error).splitlines()[0]}") from error


def read(directory: str | Path) -> tuple[Network, Params]:
    """Reads the network of a folder, and its parameters as float32 NumPy arrays.

    Raises:
      UsageError: the folder does not exist, the architecture is unknown, there are no safetensors, or tensors
        contradict the configuration; names the file and the tensors.
    """
    root = Path(directory)
    config, kind, where = _described(root / CONFIG_FILE)
    tensors, family = _weights(root), family_of(kind)
    sizes, params = _READERS[family](tensors, config, where)
    return registry.FAMILIES[family](sizes), params


def mask_id(directory: str | Path) -> int | None:
    """Reads the mask of a draft that proposes a block in one call, see `ModelCard.mask_id`."""
    path = Path(directory) / CONFIG_FILE
    return schema.value(schema.Id | None, read_json(path).get(MASK_FIELD), str(path), MASK_FIELD)


def family_of(kind: str) -> str:
    """Returns the family of a `model_type`."""
    return kind if kind in _ENCODER_DECODERS else "decoder_only"


def kind_of(family: str, config: Any) -> str:
    """Returns the `model_type` that a network is written as.

    Raises:
      UsageError: transformers has no architecture for it.
    """
    return family if family in _ENCODER_DECODERS else hf_decoder_config.config_to_hf(config)["model_type"]


def read_config(directory: str | Path) -> tuple[str, Any]:
    """Reads the `model_type` of a folder, and the sizes of its network.

    Raises:
      UsageError: the architecture is unknown, or the configuration is not supported.
    """
    path = Path(directory) / CONFIG_FILE
    config, kind, where = _described(path)
    return kind, _ENCODER_DECODERS.get(kind, hf_decoder_config.config_from_hf)(config, where)


def _described(path: Path) -> tuple[dict[str, Any], str, str]:
    """Reads the values of a config.json, its `model_type`, and its name in errors."""
    config = read_json(path)
    kind = str(config.get("model_type"))
    if kind not in _KINDS:
        raise UsageError(f"{path}: unknown model_type {shown(kind)}: {nearest(kind, _KINDS)}")
    return config, kind, f"{path} is not the configuration of a {kind}"


def _weights(root: Path) -> Tensors:
    if (root / WEIGHTS_FILE).is_file():
        return SafeTensors([root / WEIGHTS_FILE])
    if (root / INDEX_FILE).is_file():
        index = read_json(root / INDEX_FILE).get("weight_map")
        schema.value(dict[str, str] | None, index, str(root / INDEX_FILE), "weight_map")
        if not index:
            raise UsageError(f"{root / INDEX_FILE} has no weight_map: it does not say where tensors are")
        return SafeTensors([root / file for file in sorted(set(index.values()))], index)
    others = sorted(path.name for path in root.glob("*") if path.suffix in _OTHER_WEIGHTS)
    otherwise = "save the model as safetensors"
    if others and others[0].endswith(".gguf"):
        otherwise = f"pass --from=gguf --input={root / others[0]}"
    why = f" ({others[0]} is not read: {otherwise})" if others else ""
    raise UsageError(f"{root} holds no {WEIGHTS_FILE} and no {INDEX_FILE}{why}")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      UsageError: the file does not exist or holds something else.
    """
    if not path.is_file():
        there = "" if path.parent.is_dir() else " (no such folder)"
        raise UsageError(f"{path.parent} is not a Hugging Face model: it has no {path.name}{there}")
    return files.read_json(path, gaps=True)


def write(directory: str | Path, model: Network, params: Params, **more: Any) -> None:
    """Writes config.json and float32 weights.

    Args:
      more: further values of config.json, such as ids of special tokens.

    Raises:
      UsageError: transformers does not support the network, or the disk is full.
    """
    root = Path(directory)
    tensors, config = _WRITERS[registry.family_of(model)](model.config, params)
    with files.saving(root):
        root.mkdir(parents=True, exist_ok=True)
        save_file(tensors, root / WEIGHTS_FILE, metadata={"format": "pt"})
        written = {**config, "dtype": "float32", "torch_dtype": "float32", **more}
        (root / CONFIG_FILE).write_text(files.as_json(written, indent=2) + "\n", encoding="utf-8")
        # safetensors makes the file readable only by its owner, but a server may run as another user.
        (root / WEIGHTS_FILE).chmod((root / CONFIG_FILE).stat().st_mode & 0o777)
