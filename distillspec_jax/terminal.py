"""Text of others on a terminal: what would command it, reorder its lines or cannot be written is spelt out.

Labels, paths, names of tasks and models, and messages that quote them come from anywhere. All that commands
print goes through `shown`: lines by `say`, tables by `reports.fitted`, training by `training.writers`.
"""

from __future__ import annotations

import re
import sys
from typing import TextIO

from distillspec_jax.buckets.stores import named

_UNSEEN = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # controls: of the cursor, colours, the clipboard, line ends too
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # controls of direction
    "\u2028\u2029"  # ends of a line and of a paragraph
    "\ud800-\udfff"  # lone surrogates, as bytes of a path that are no UTF-8
    "]"
)


def shown(text: str) -> str:
    r"""The text with what does not show as an escape, and what a run publishes in a bucket by its address.

    >>> shown("a\x1b[31mb\u202ec\ndé")
    'a\\x1b[31mb\\u202ec\\ndé'
    """
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), named(text))


def say(*lines: object, file: TextIO | None = None) -> None:
    """Prints each of some lines, on standard output by default, at once."""
    print(*(shown(str(line)) for line in lines), sep="\n", file=file or sys.stdout, flush=True)


def news(*lines: object) -> None:
    """Prints lines on standard error: progress, and what else is no result."""
    say(*lines, file=sys.stderr)
