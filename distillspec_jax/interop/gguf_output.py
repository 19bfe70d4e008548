"""Writes GGUF files in float32, float16 and eight-bit blocks, one tensor at a time.

Vectors (norms, biases) stay in float32 in every type, as llama.cpp requires. The package `gguf` quantises the
blocks, byte for byte as ggml does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distillspec_jax import outputs
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.files import write_whole_by
from distillspec_jax.interop.gguf_file import GGUFFile, library
from distillspec_jax.version import __version__

_RELEASE = "distillspec.release"
"""The key that identifies an earlier output."""


class _Type(NamedTuple):
    """The package's names of a tensor type and of a file with mostly that type; `largest` is the largest
    representable number."""

    tensors: str
    file: str
    largest: float


_HALF = float(np.finfo(np.float16).max)
TYPES = {
    "f32": _Type("F32", "ALL_F32", np.inf),
    "f16": _Type("F16", "MOSTLY_F16", _HALF),
    "q8_0": _Type(
        "Q8_0", "MOSTLY_Q8_0", 127 * _HALF
    ),  # 32 bytes share a float16, which times 127 is the largest
}
"""The supported weight types, by llama.cpp's names in lower case."""


def check(path: str | Path, kind: str) -> None:
    """Rejects what `write` would reject, before anything is read.

    Raises:
      UsageError: the type is unknown, the package `gguf` is missing, or the path holds something else.
    """
    if kind not in TYPES:
        raise UsageError(f"unknown type {kind!r}: {nearest(kind, TYPES)}")
    library()
    outputs.check(path, _is_ours)


def write(
    path: str | Path,
    architecture: str,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    kind: str,
) -> None:
    """Writes a file atomically.

    Args:
      metadata: booleans, whole numbers (written as uint32), floats (float32), strings, and lists of strings
        or of whole numbers (int32), by key.
      tensors: float32, by name.
      kind: a key of `TYPES`.

    Raises:
      UsageError: a tensor cannot be written in this type; or see `check`.
    """
    check(path, kind)
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, kind)
    write_whole_by(path, lambda place: _write(place, architecture, metadata, tensors, kind), _is_ours)


def _check_tensor(name: str, tensor: np.ndarray, kind: str) -> None:
    gguf, type_ = library(), TYPES[kind]
    block, _ = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type_.tensors]]
    if tensor.ndim < 2:
        return
    if tensor.shape[-1] % block:
        raise UsageError(
            f"--type={kind}: tensor {name} has rows of {tensor.shape[-1]} numbers, {kind} wants a multiple "
            f"of {block}: choose f16 or f32"
        )
    if kind != "f32" and not np.abs(tensor).max(initial=0) <= type_.largest:
        raise UsageError(
            f"--type={kind}: tensor {name} holds numbers beyond {type_.largest:,.0f}, or none: choose f32"
        )


def _write(
    place: Path,
    architecture: str,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    kind: str,
) -> None:
    gguf = library()
    writer = gguf.GGUFWriter(place, architecture)
    adds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    told = {
        "general.type": "model",
        "general.file_type": int(gguf.LlamaFileType[TYPES[kind].file]),
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
        _RELEASE: __version__,
    }
    for key, value in {**told, **metadata}.items():
        adds.get(type(value), writer.add_array)(key, value)
    for name, tensor in tensors.items():
        type_ = _type_of(tensor, kind)
        block, block_bytes = gguf.GGML_QUANT_SIZES[type_]
        num_bytes = tensor.size // block * block_bytes
        writer.add_tensor_info(name, tensor.shape, tensor.dtype, num_bytes, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors.values():
        writer.write_tensor_data(gguf.quants.quantize(tensor, _type_of(tensor, kind)))
    writer.close()


def _type_of(tensor: np.ndarray, kind: str) -> Any:
    return library().GGMLQuantizationType["F32" if tensor.ndim < 2 else TYPES[kind].tensors]


def _is_ours(path: Path) -> bool:
    """Tells whether a file is an earlier output."""
    try:
        return _RELEASE in GGUFFile(path).metadata
    except UsageError:
        return False
