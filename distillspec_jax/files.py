"""Files that appear whole or not at all, and JSON lines whose errors name file and line."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from distillspec_jax.errors import UsageError


@contextlib.contextmanager
def saving(place: str | Path) -> Iterator[None]:
    """Turns a full disk, or a place that cannot be written, into one line that names the place."""
    try:
        yield
    except Exception as error:
        reason = _why_not_written(error)
        if reason is None:
            raise
        raise UsageError(f"cannot save to {place}: {reason}") from error


def _why_not_written(error: Exception) -> str | None:
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    # TensorStore, below Orbax, raises a ValueError that quotes the system's words.
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EIO)
    return next((os.strerror(code) for code in codes if os.strerror(code) in str(error)), None)


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Writes a file that appears under its name only when all of it is on disk; makes its folder.

    Devices, pipes and links (`/dev/stdout` is one) are written to as they are, and never replaced.

    Raises:
      UsageError: the place cannot be written; nothing is left behind.
    """
    data = content.encode() if isinstance(content, str) else content
    write_whole_by(path, lambda temporary: temporary.write_bytes(data))


def write_whole_by(path: str | Path, write: Callable[[Path], Any]) -> None:
    """Writes a file likewise, by a function that is given the path to write to (its suffix is `path`'s).

    Raises:
      UsageError: as `write_whole`.
    """
    path = Path(path)
    temporary = path.with_name(f"partial-{path.name}")
    with saving(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            write(path)
            return
        try:
            write(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def parse_json_object(text: str, place: str) -> dict[str, Any]:
    """Parses one JSON object.

    Args:
      text: the JSON.
      place: where it stands (`file:line`), for errors.

    Raises:
      UsageError: malformed JSON, nesting or numbers beyond what Python reads, or another JSON value.
    """
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{place}: malformed JSON ({error.msg}, column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a thousand brackets
        raise UsageError(f"{place}: JSON that cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise UsageError(f"{place}: expected a JSON object, got {type(found).__name__}")
    return found


def json_lines(lines: Iterable[str], name: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (`name:number`, object) for every line that is not blank.

    Args:
      lines: split at `\\n` alone, since JSON strings may hold U+2028.
      name: of the file, for errors.

    Raises:
      UsageError: see `parse_json_object`.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = f"{name}:{number}"
            yield place, parse_json_object(line, place)


def decoded(lines: Iterable[bytes], name: str | Path) -> Iterator[str]:
    """Decodes the lines of a UTF-8 file one by one (a byte order mark is dropped), for files of any size.

    Args:
      lines: as a file that is open in binary mode yields them.
      name: of the file, for errors.

    Raises:
      UsageError: a line (named by number) is not UTF-8.
    """
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{name}:{number}: not UTF-8 text") from error


def read_lines(path: str | Path) -> list[str]:
    """Reads a UTF-8 text file (a byte order mark is dropped) as its lines, split at `\\n` alone.

    Raises:
      UsageError: the file cannot be read, or a line (named by number) is not UTF-8.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror}") from error
    return decoded_lines(content, path)


def decoded_lines(content: bytes, name: str | Path) -> list[str]:
    """Decodes bytes likewise.

    Raises:
      UsageError: a line is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{name}:{number}: not UTF-8 text") from error
