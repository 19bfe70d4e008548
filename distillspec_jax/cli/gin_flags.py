"""The gin flags of a command line, as typed: below both those who collect them and those who apply them."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class GinFlags:
    """The gin flags of one command line, in its order.

    Attributes:
      files: paths of gin files, as given.
      bindings: (name, value) of each `--gin.NAME=VALUE`, both as typed.
      search_paths: folders to look in, before the gin files that come with the package.
    """

    files: tuple[str, ...] = ()
    bindings: tuple[tuple[str, str], ...] = ()
    search_paths: tuple[str, ...] = ()
