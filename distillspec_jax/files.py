"""Atomic writes of files, and readers of JSON lines whose errors name file and line."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from distillspec_jax import outputs
from distillspec_jax.buckets import copies
from distillspec_jax.errors import UsageError

Read = TypeVar("Read")


@contextlib.contextmanager
def saving(place: str | Path) -> Iterator[None]:
    """Converts errors such as a full disk or an unwritable place into one line that names the place."""
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
    if isinstance(error, UnicodeEncodeError):
        return f"its text holds a lone surrogate, {error.object[error.start]!r}, no valid Unicode"
    # TensorStore, which Orbax uses, raises a ValueError that quotes the system's message.
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EIO)
    return next((os.strerror(code) for code in codes if os.strerror(code) in str(error)), None)


def write_whole(path: str | Path, content: str | bytes, ours: outputs.Recognise | None = None) -> None:
    """Writes a file atomically: it gets its name only when all of it is on disk; makes its folder.

    Devices and pipes (such as `/dev/stdout`) are written to directly and never replaced. For a link, the
    file that it points to is replaced.

    Args:
      ours: see `outputs.check`, which is called first.

    Raises:
      UsageError: the place cannot be written, or `outputs.check` rejects it; nothing is left behind.
    """

    def write(place: Path) -> None:
        place.write_bytes(content.encode() if isinstance(content, str) else content)

    write_whole_by(path, write, ours)


def write_whole_by(
    path: str | Path, write: Callable[[Path], Any], ours: outputs.Recognise | None = None
) -> None:
    """Like `write_whole`, but calls a function with the path to write to (it has the suffix of `path`).

    Raises:
      UsageError: as in `write_whole`.
    """
    real = outputs.check(path, ours)
    with saving(real.parent if real.parent.name else path):
        if outputs.is_special(real):
            write(real)
            return
        with contextlib.ExitStack() as made:
            make_parents(real, made)
            temporary = _new_file(real, made)
            write(temporary)
            with contextlib.suppress(FileNotFoundError):
                shutil.copymode(real, temporary)
            os.replace(temporary, real)
            made.pop_all()
    if (found := outputs.published(real)) is not None:
        found.written()


def make_parents(path: Path, made: contextlib.ExitStack) -> None:
    """Makes missing folders; removes them again if the context exits with an error."""
    missing = [folder for folder in path.parents if not folder.exists()]
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process made it first and may use it
            folder.mkdir()
            made.callback(_remove_folder, folder)


def _remove_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # it is no longer empty
        folder.rmdir()


def _new_file(path: Path, made: contextlib.ExitStack) -> Path:
    """Makes an empty file next to `path` under an unused name; removes it when the context exits."""
    while True:
        # node_exporter reads every *.prom in its folder, hidden ones and half-written ones, too.
        suffix = "" if path.suffix == ".prom" else path.suffix[:16]
        temporary = path.with_name(f".partial-{secrets.token_hex(6)}{suffix}")
        with contextlib.suppress(FileExistsError):
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            made.callback(temporary.unlink, missing_ok=True)
            return temporary


def write_json(path: str | Path, found: Any, ours: outputs.Recognise | None = None) -> None:
    """Writes one JSON value to a file atomically.

    Raises:
      UsageError: as in `write_whole`.
    """
    write_whole(path, as_json(found, indent=1) + "\n", ours)


def as_json(found: Any, indent: int | None = None) -> str:
    """Serialises a value as JSON; NaN and infinities become null, because JSON cannot represent them."""
    try:
        text = json.dumps(found, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(found), indent=indent, ensure_ascii=False, allow_nan=False)
    # Only strings contain these; they are escaped because terminals also show lines of JSON.
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


_CONTROL = re.compile("[\x7f-\x9f]")
"""Control characters that `json` does not escape."""


def _finite(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: _finite(value) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [_finite(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found


def parse_json(text: str, place: str, *, gaps: bool = False) -> Any:
    """Parses one JSON value.

    Args:
      text: the JSON.
      place: its location (`file:line`), for errors.
      gaps: read NaN and infinities as None; they are not JSON, but 0.1 and other programs write them.

    Raises:
      UsageError: the JSON is malformed, its nesting or numbers exceed the limits, or its text is not valid
        Unicode.
    """
    try:
        found = (_WITH_GAPS if gaps else _STRICT).decode(text)
        if text.count("[") + text.count("{") > _DEEPEST:  # most values have fewer, so need no check
            _check_depth(found)
        if _LONG.search(text):
            _check_integers(found)
    except json.JSONDecodeError as error:
        raise UsageError(f"{place}: malformed JSON ({error.msg}, column {error.colno})") from error
    except RecursionError as error:
        raise UsageError(f"{place}: JSON that cannot be read ({_TOO_DEEP})") from error
    except ValueError as error:  # a number with thousands of digits
        raise UsageError(f"{place}: JSON that cannot be read ({str(error).partition(';')[0]})") from error
    if _SURROGATE.search(text):
        _check_unicode(found, place)
    return found


def _number(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise ValueError(f"{word[:20]} is no number of JSON")
    return number


def _number_or_gap(word: str) -> float | None:
    number = float(word)
    return number if math.isfinite(number) else None


_STRICT = json.JSONDecoder(parse_float=_number, parse_constant=_number)
_WITH_GAPS = json.JSONDecoder(parse_float=_number_or_gap, parse_constant=_number_or_gap)

_DEEPEST = 100
"""Maximum nesting depth, because code that walks a value recurses; our files have fewer than ten levels."""
_TOO_DEEP = f"nested more than {_DEEPEST} levels deep"

_LONG = re.compile(r"\d{309}")
"""An integer that may be beyond all floats."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""Half of a character beyond 16 bits; in a UTF-8 file, only an escape can encode one."""


def _check_unicode(found: Any, place: str) -> None:
    fields = found.items() if isinstance(found, dict) else [(None, found)]
    for name, value in fields:
        try:
            json.dumps([name, value], ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            where = f"{place}: " if name is None else f"{place}: field {name!r} "
            raise UsageError(f"{where}holds a lone surrogate, no valid Unicode") from error


def _check_depth(found: Any) -> None:
    level = [found]
    for _ in range(_DEEPEST):
        entries = (one.values() if isinstance(one, dict) else one for one in level)
        level = [entry for of_one in entries for entry in of_one if isinstance(entry, (dict, list))]
        if not level:
            return
    raise ValueError(_TOO_DEEP)


def _check_integers(found: Any) -> None:
    left = [found]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left += one.values()
        elif isinstance(one, list):
            left += one
        elif isinstance(one, int) and abs(one) > sys.float_info.max:
            raise ValueError("an integer beyond 1.8e308")


def parse_json_object(text: str, place: str, *, gaps: bool = False) -> dict[str, Any]:
    """Parses one JSON object.

    Args:
      text, place, gaps: see `parse_json`.

    Raises:
      UsageError: see `parse_json`; or the value is not an object.
    """
    found = parse_json(text, place, gaps=gaps)
    if not isinstance(found, dict):
        raise UsageError(f"{place}: expected a JSON object, got {type(found).__name__}")
    return found


def read_json(path: str | Path, *, gaps: bool = False) -> dict[str, Any]:
    """Reads a UTF-8 file that contains one JSON object.

    Args:
      gaps: see `parse_json`.

    Raises:
      UsageError: the file cannot be read, is not UTF-8, or see `parse_json_object`.
    """
    return parse_json_object("\n".join(read_lines(path)), str(path), gaps=gaps)


def json_lines(
    lines: Iterable[str], name: str | Path, *, gaps: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (`name:number`, object) for every line that is not blank.

    Args:
      lines: split only at `\\n`, since JSON strings may contain U+2028.
      name: name of the file, for errors.
      gaps: see `parse_json`.

    Raises:
      UsageError: see `parse_json_object`.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = f"{name}:{number}"
            yield place, parse_json_object(line, place, gaps=gaps)


def json_lines_apart(
    path: str | Path, read: Callable[[dict[str, Any], str], Read]
) -> Iterator[tuple[str, Read | UsageError]]:
    """Yields (`path:number`, result or error) for every line that is not blank.

    Args:
      read: maps the line's object and its place to the result; its UsageErrors are yielded as the line's.

    Raises:
      UsageError: the file cannot be read.
    """
    for number, line in enumerate(_content(path).split(b"\n"), start=1):
        if line.strip():
            place = f"{path}:{number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                found: Read | UsageError = read(parse_json_object(text, place), place)
            except UnicodeDecodeError:
                found = UsageError(f"{place}: not UTF-8 text")
            except UsageError as error:
                found = error
            yield place, found


def decoded(lines: Iterable[bytes], name: str | Path) -> Iterator[str]:
    """Decodes the lines of a UTF-8 file one by one (without a byte order mark), for files of any size.

    Args:
      lines: the lines of a file opened in binary mode.
      name: name of the file, for errors.

    Raises:
      UsageError: a line (named by number) is not UTF-8.
    """
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{name}:{number}: not UTF-8 text") from error


def read_lines(path: str | Path) -> list[str]:
    """Reads the lines of a UTF-8 text file (without a byte order mark), split only at `\\n`.

    Raises:
      UsageError: the file cannot be read, or a line (named by number) is not UTF-8.
    """
    return decoded_lines(_content(path), path)


def _content(path: str | Path) -> bytes:
    try:
        return copies.local(str(path)).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror}") from error


def decoded_lines(content: bytes, name: str | Path, first: int = 1) -> list[str]:
    """Like `read_lines`, for bytes.

    Args:
      content: of a file, or its end.
      name: name of the file, for errors.
      first: number of the first line.

    Raises:
      UsageError: a line is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + first
        raise UsageError(f"{name}:{number}: not UTF-8 text") from error
