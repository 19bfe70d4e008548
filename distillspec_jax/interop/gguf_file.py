"""A GGUF file, llama.cpp's container: metadata and quantised tensors in one file.

    "GGUF", version, counts          little-endian throughout
    key, type, value                 metadata: the architecture, its sizes, the whole tokenizer
    name, dimensions, type, offset   of every tensor
    the tensors' data                in blocks of numbers that share a scale

The header is parsed here, so errors about damage give the location, and a vocabulary takes a tenth of the
time and memory. The package `gguf`, an optional dependency, decodes the blocks.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from distillspec_jax import schema
from distillspec_jax.errors import UsageError

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""struct's format character of every numeric metadata type."""
_UINT32, _STRING, _ARRAY, _UINT64 = 4, 8, 9, 10

_CHUNK = 1 << 20
"""Numbers to dequantise at a time: dequantisation takes several times their memory."""


class _Entry(NamedTuple):
    """The location of a tensor: `size` bytes from `start`; `type` is the package's."""

    shape: tuple[int, ...]
    type: Any
    start: int
    size: int


class GGUFFile(Mapping[str, np.ndarray]):
    """The tensors of a file as float32, each read and dequantised on access and not cached.

    Attributes:
      path: the file.
      metadata: numbers, strings and lists of either, by key.

    Raises:
      UsageError: the file does not exist, is not GGUF or is truncated, a tensor cannot be read (names it), or
        the package `gguf` is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._library = library()
        if not self.path.is_file():
            found = sorted(self.path.glob("*.gguf")) if self.path.is_dir() else []
            why = "no such file" if not self.path.is_dir() else "a folder: name a file"
            raise UsageError(f"{self.path}: {why}{f', {found[0]} for instance' if found else ''}")
        with self.path.open("rb") as file:
            header = _Header(self.path, file)
            self.metadata = header.metadata()
            self._entries = {fields[0]: self._entry(*fields) for fields in header.tensors()}
            if len(self._entries) < header.num_tensors:
                raise UsageError(f"{self.path}: two tensors have one name")
            alignment = self.metadata.get("general.alignment", 32)
            schema.value(schema.Size, alignment, f"{self.path}: metadata", "general.alignment")
            start = header.data_start(alignment)
        for name, entry in self._entries.items():
            self._entries[name] = entry = entry._replace(start=start + entry.start)
            if entry.start + entry.size > header.size:
                raise UsageError(
                    f"{self.path} is cut short: tensor {name} ends at byte {entry.start + entry.size:,}, "
                    f"the file at {header.size:,}"
                )

    def _entry(self, name: str, shape: tuple[int, ...], number: int, offset: int) -> _Entry:
        try:
            kind = self._library.GGMLQuantizationType(number)
            block, block_bytes = self._library.GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError) as error:
            raise UsageError(f"{self.path}: tensor {name} is of the unknown type {number}") from error
        if shape[-1] % block:
            raise UsageError(
                f"{self.path}: tensor {name} has rows of {shape[-1]} numbers, {kind.name} wants a multiple "
                f"of {block}"
            )
        try:
            self._library.quants.dequantize(np.zeros((1, block_bytes), np.uint8), kind)
        except NotImplementedError as error:
            raise UsageError(
                f"{self.path}: tensor {name} is of type {kind.name}, which the package gguf does not "
                "dequantise: it knows F32, F16, BF16, Q4_0 to Q8_0, and K- and IQ-quants"
            ) from error
        return _Entry(shape, kind, offset, math.prod(shape) // block * block_bytes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor without reading it."""
        return self._entries[name].shape

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        found = np.empty(entry.shape, np.float32)
        rows = found.reshape(-1, entry.shape[-1])
        row_bytes = entry.size // max(len(rows), 1)
        step = max(_CHUNK // entry.shape[-1], 1)
        # Read instead of memory-mapping: mapped pages would stay resident until the last tensor is read.
        # Scales of a damaged file may be NaN, about which NumPy would warn.
        with self.path.open("rb", buffering=0) as file, np.errstate(all="ignore"):
            file.seek(entry.start)
            for first in range(0, len(rows), step):
                part = rows[first : first + step]
                raw = np.fromfile(file, np.uint8, len(part) * row_bytes).reshape(len(part), row_bytes)
                part[:] = self._library.quants.dequantize(raw, entry.type)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def library() -> Any:
    """Imports the package `gguf`.

    Raises:
      UsageError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise UsageError("GGUF files need the package gguf: pip install 'distillspec_jax[gguf]'") from error
    return gguf


class _Header:
    """Reads a file's header sequentially.

    Attributes:
      size: of the file, in bytes.
      num_tensors: as stated in the header.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self.size = path.stat().st_size
        if file.read(4) != _MAGIC:
            raise UsageError(f"{path} is not a GGUF file: it does not begin with {_MAGIC.decode()}")
        version = self._number(_UINT32)
        if version not in _VERSIONS:
            raise UsageError(f"{path} is of GGUF's version {version}, only 2 and 3 (little-endian) are read")
        self.num_tensors, self._num_values = self._number(_UINT64), self._number(_UINT64)

    def metadata(self) -> dict[str, Any]:
        found = {}
        for _ in range(self._num_values):
            key = self._string()
            found[key] = self._value(self._number(_UINT32), key)
        return found

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...], int, int]]:
        """Yields each tensor's name, shape, type number and data offset; call after `metadata`."""
        for _ in range(self.num_tensors):
            name = self._string()
            dimensions = self._number(_UINT32)
            if not 1 <= dimensions <= 4:
                raise UsageError(f"{self._path}: tensor {name} has {dimensions} dimensions, must be 1 to 4")
            shape = tuple(self._number(_UINT64) for _ in range(dimensions))[::-1]  # the fastest axis is first
            if not all(shape):
                raise UsageError(f"{self._path}: tensor {name} is of shape {shape}: it is empty")
            yield name, shape, self._number(_UINT32), self._number(_UINT64)

    def data_start(self, alignment: int) -> int:
        """Returns the byte that offsets are relative to; call after `tensors`."""
        return -(-self._file.tell() // alignment) * alignment

    def _take(self, count: int) -> bytes:
        at = self._file.tell()
        if at + count > self.size:
            raise UsageError(
                f"{self._path} is cut short: its header wants {count:,} bytes at {at:,}, the file ends at "
                f"{self.size:,}"
            )
        return self._file.read(count)

    def _number(self, kind: int) -> Any:
        letter = f"<{_NUMBERS[kind]}"
        return struct.unpack(letter, self._take(struct.calcsize(letter)))[0]

    def _string(self) -> str:
        return self._take(self._number(_UINT64)).decode(errors="replace")

    def _value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self._string()
        if kind in _NUMBERS:
            return self._number(kind)
        if kind != _ARRAY:
            raise UsageError(f"{self._path}: metadata {key} is of the unknown type {kind}")
        kind, count = self._number(_UINT32), self._number(_UINT64)
        if kind == _STRING:
            return [self._string() for _ in range(count)]
        if kind not in _NUMBERS:
            raise UsageError(f"{self._path}: metadata {key} is a list of the unknown type {kind}")
        dtype = np.dtype(_NUMBERS[kind]).newbyteorder("<")
        return np.frombuffer(self._take(count * dtype.itemsize), dtype).tolist()
