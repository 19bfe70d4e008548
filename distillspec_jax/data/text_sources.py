"""Sources of a task's rows: JSON files, or a data set of TensorFlow Datasets (TFDS).

A `TextSource` only finds and reads rows; the `TaskSpec` selects the fields of prompt and reference.
TensorFlow is imported only when a TFDS source is read.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import itertools
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from distillspec_jax import files, outputs
from distillspec_jax.errors import UsageError

Fields = dict[str, Any]
"""One row of a file or data set, by field name."""


def default_data_dir() -> Path:
    """Returns the folder of TFDS data sets: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


class TextSource(Protocol):
    """A frozen value: splits, their rows, and a fingerprint of their version."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the readable splits."""

    def rows(self, split: str) -> Iterator[tuple[str, Fields]]:
        """Yields every row of a split, in a fixed order, with its place (`file:line`) for errors.

        Raises:
          UsageError: data is missing or malformed; the message says how to get it if that is known.
        """

    def fingerprint(self, split: str) -> bytes:
        """Returns a fingerprint of the rows; empty if the data is absent."""

    def at(self, data_dir: Path) -> TextSource:
        """Returns a source of the same rows in another folder."""


@dataclasses.dataclass(frozen=True)
class Files:
    """JSON lines (.jsonl, .jsonl.gz), or JSON objects whose list `examples` holds the rows (.json).

    Several files of one split are read alternately, one row of each, so the first rows of a suite of tasks
    cover all of them equally.

    Attributes:
      paths: maps a split to files, relative to `data_dir`.
      data_dir: base of relative paths.
      obtain: a command that fetches the files, for the error about a missing one.
    """

    paths: Mapping[str, tuple[Path, ...]]
    data_dir: Path = Path()
    obtain: str = ""

    @classmethod
    def one_each(cls, paths: Mapping[str, Path]) -> Files:
        """Makes a source with one file per split."""
        return cls({split: (path,) for split, path in paths.items()})

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.paths)

    def at(self, data_dir: Path) -> Files:
        """See `TextSource`."""
        return dataclasses.replace(self, data_dir=data_dir)

    def rows(self, split: str) -> Iterator[tuple[str, Fields]]:
        """See `TextSource`."""
        readers = [self._of_file(self.data_dir / path) for path in self.paths[split]]
        for turn in itertools.zip_longest(*readers):
            yield from (row for row in turn if row is not None)

    def fingerprint(self, split: str) -> bytes:
        """See `TextSource`."""
        files = [self.data_dir / path for path in self.paths[split]]
        return b"".join(file.read_bytes() for file in files if file.is_file())

    def _of_file(self, path: Path) -> Iterator[tuple[str, Fields]]:
        outputs.reads(path)
        reader = _json_examples if path.suffix == ".json" else _json_lines
        try:
            yield from reader(path)
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or str(error)
            how = ""
            if isinstance(error, FileNotFoundError) and self.obtain:
                how = f"; fetch it: {self.obtain.format(data_dir=self.data_dir)}"
            raise UsageError(f"cannot read {str(path)!r}: {reason}{how}") from error


def _json_lines(path: Path) -> Iterator[tuple[str, Fields]]:
    """Yields the rows of a file with one JSON object per line; skips blank lines."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        yield from files.json_lines(files.decoded(lines, path), path)


def _json_examples(path: Path) -> Iterator[tuple[str, Fields]]:
    """Yields the rows of a file that is one JSON object with a list `examples` (BIG-Bench's layout)."""
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text") from error
    examples = files.parse_json_object(content, str(path)).get("examples")
    if not isinstance(examples, list) or not all(isinstance(row, dict) for row in examples):
        raise UsageError(f"{path}: expected a list of JSON objects in its field 'examples'")
    yield from ((f"{path} example {number}", row) for number, row in enumerate(examples, start=1))


@dataclasses.dataclass(frozen=True)
class Tfds:
    """A data set prepared by TFDS; reading it never downloads anything.

    Attributes:
      name: with its version, and its configuration if any (`wmt14_translate/de-en:1.0.0`).
      slices: maps a split to a TFDS split (`train[:-512]`).
      data_dir: the folder of prepared TFDS data sets.
    """

    name: str
    slices: Mapping[str, str]
    data_dir: Path = dataclasses.field(default_factory=default_data_dir)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.slices)

    def at(self, data_dir: Path) -> Tfds:
        """See `TextSource`."""
        return dataclasses.replace(self, data_dir=data_dir)

    def rows(self, split: str) -> Iterator[tuple[str, Fields]]:
        """See `TextSource`; the rows come in training's order before shuffling."""
        from distillspec_jax.data.tfds_provider import provider

        dataset = provider(self.name, self.data_dir, self.slices).get_dataset(split, shuffle=False)
        for number, row in enumerate(dataset.as_numpy_iterator(), start=1):
            text = {
                name: x.decode(errors="replace") if isinstance(x, bytes) else x for name, x in row.items()
            }
            yield f"{self.name} {self.slices[split]} row {number}", text

    def fingerprint(self, split: str) -> bytes:
        """Digests the version's description, which has the shard sizes, since the files may be huge."""
        folder = self.data_dir / self.name.replace(":", "/")
        description = folder / "dataset_info.json"
        text = description.read_bytes() if description.is_file() else b""
        return hashlib.sha256(self.slices[split].encode() + text).digest()
