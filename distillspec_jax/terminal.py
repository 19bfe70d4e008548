"""Untrusted text on a terminal: escapes control, direction and unencodable characters.

Labels, paths, names of tasks and models, and messages that quote them may come from anywhere. All output of
commands goes through `shown`: lines by `say`, tables by `reports.fitted`, training by `training.writers`.
"""

from __future__ import annotations

import re
import sys
from typing import TextIO

from distillspec_jax.buckets.stores import named

_UNSEEN = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # control characters: cursor, colours, clipboard, line ends
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # text-direction controls
    "\u2028\u2029"  # line and paragraph separators
    "\ud800-\udfff"  # lone surrogates, e.g. bytes of a path that is not UTF-8
    "]"
)


def shown(text: str) -> str:
    r"""Escapes characters that do not display, and replaces local paths of published outputs by addresses.

    >>> shown("a\x1b[31mb\u202ec\ndé")
    'a\\x1b[31mb\\u202ec\\ndé'
    """
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), named(text))


def say(*lines: object, file: TextIO | None = None) -> None:
    """Prints lines, by default on standard output, and flushes."""
    print(*(shown(str(line)) for line in lines), sep="\n", file=file or sys.stdout, flush=True)


def news(*lines: object) -> None:
    """Prints lines on standard error: progress, and anything else that is not a result."""
    say(*lines, file=sys.stderr)
