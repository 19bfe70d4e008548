"""Where the rows of a task's text are kept: files of JSON, or a data set of TensorFlow Datasets (TFDS).

A `TextSource` only finds and reads rows; which fields are prompt and reference is the `TaskSpec`'s affair.
TensorFlow is imported when a TFDS source is read, not before.
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
"""One row of a file or data set, by the names of its fields."""


def default_data_dir() -> Path:
    """Where TFDS keeps data sets: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


class TextSource(Protocol):
    """A frozen value: splits, their rows, and what tells two versions of them apart."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that can be read."""

    def rows(self, split: str) -> Iterator[tuple[str, Fields]]:
        """Every row of a split, in an order that never changes, beside its place (`file:line`) for errors.

        Raises:
          UsageError: missing or malformed data; the message says how to get it where that is known.
        """

    def fingerprint(self, split: str) -> bytes:
        """Digest of what `rows` yields; nothing where the data is absent."""

    def at(self, data_dir: Path) -> TextSource:
        """The same rows, kept in another folder."""


@dataclasses.dataclass(frozen=True)
class Files:
    """JSON lines (.jsonl, .jsonl.gz), or JSON objects whose list `examples` holds the rows (.json).

    Several files of one split are read in turns, a row of each, so that the first rows of a suite of tasks
    are drawn from all of them alike.

    Attributes:
      paths: split to files, relative to `data_dir`.
      data_dir: of relative paths.
      obtain: a command that fetches the files, for the error about a missing one.
    """

    paths: Mapping[str, tuple[Path, ...]]
    data_dir: Path = Path()
    obtain: str = ""

    @classmethod
    def one_each(cls, paths: Mapping[str, Path]) -> Files:
        """One file a split."""
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
    """Rows of a file with one JSON object a line; blank lines are skipped."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        yield from files.json_lines(files.decoded(lines, path), path)


def _json_examples(path: Path) -> Iterator[tuple[str, Fields]]:
    """Rows of a file that is one JSON object with a list `examples` (BIG-Bench's layout)."""
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
    """A data set that TFDS prepared; nothing is ever downloaded by reading it.

    Attributes:
      name: with its version, and its configuration where there is one (`wmt14_translate/de-en:1.0.0`).
      slices: split to TFDS's own (`train[:-512]`).
      data_dir: where TFDS keeps prepared data sets.
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
        """See `TextSource`; the rows come in the order in which training sees them before it shuffles."""
        from distillspec_jax.data.tfds_provider import provider

        dataset = provider(self.name, self.data_dir, self.slices).get_dataset(split, shuffle=False)
        for number, row in enumerate(dataset.as_numpy_iterator(), start=1):
            text = {
                name: x.decode(errors="replace") if isinstance(x, bytes) else x for name, x in row.items()
            }
            yield f"{self.name} {self.slices[split]} row {number}", text

    def fingerprint(self, split: str) -> bytes:
        """Digests the version's own description, which has the sizes of its shards: the files may be huge."""
        folder = self.data_dir / self.name.replace(":", "/")
        description = folder / "dataset_info.json"
        text = description.read_bytes() if description.is_file() else b""
        return hashlib.sha256(self.slices[split].encode() + text).digest()
