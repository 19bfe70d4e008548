"""The rows of a study: all that its page, its figure and its notebook are made of, and what a killed run has.

setting    the setting, and the words at either end of the topics
texts      a pool: tokens of each answer, and whether its prompt is held out (never trained on)
check      a pool: how many prompts the real sampler decoded alike, and seconds of a call
stream     a seed: pool and number of each request
counts     a draft on a pool: target calls, tested and accepted drafts of each prompt
training   a redistillation: when, why, on what, what it cost, what the gate said
defaults   a redistillation with the default margin and share of old prompts, if one was tried
run        a policy on a seed, ended
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distillspec_jax import files
from distillspec_jax.errors import UsageError

RESULTS = "results.jsonl"
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows in a file; a new one is there at once, or not at all.

    Attributes:
      path: of the file, which need not exist.
      found: all rows, in their order.
    """

    path: Path
    found: list[Row] = dataclasses.field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Rows:
        """Reads a file of rows.

        Raises:
          UsageError: a line is no row.
        """
        rows = cls(path)
        for place, row in files.json_lines(files.read_lines(path) if path.exists() else [], path, gaps=True):
            if "kind" not in row:
                raise UsageError(f"{place}: not a row of a drift study: it has no kind")
            rows.found.append(row)
        return rows

    def add(self, kind: str, **fields: Any) -> Row:
        """Adds a row and writes them all."""
        row = {"kind": kind, **fields}
        self.found.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(self.path, "".join(files.as_json(one) + "\n" for one in self.found))
        return row

    def of(self, kind: str, **fields: Any) -> Iterator[Row]:
        """Yields the rows of a kind whose fields are these."""
        for row in self.found:
            if row["kind"] == kind and all(row[name] == value for name, value in fields.items()):
                yield row

    def one(self, kind: str, **fields: Any) -> Row | None:
        """The row of a kind whose fields are these; None where there is none."""
        return next(self.of(kind, **fields), None)
