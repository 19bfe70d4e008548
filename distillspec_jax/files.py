"""Files that appear whole or not at all, and JSON lines whose errors name file and line."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from distillspec_jax import outputs
from distillspec_jax.buckets import copies
from distillspec_jax.errors import UsageError

Read = TypeVar("Read")


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
    if isinstance(error, UnicodeEncodeError):
        return f"its text holds a lone surrogate, {error.object[error.start]!r}, no valid Unicode"
    # TensorStore, below Orbax, raises a ValueError that quotes the system's words.
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EIO)
    return next((os.strerror(code) for code in codes if os.strerror(code) in str(error)), None)


def write_whole(path: str | Path, content: str | bytes, ours: outputs.Recognise | None = None) -> None:
    """Writes a file that appears under its name only when all of it is on disk; makes its folder.

    Devices and pipes (`/dev/stdout` is one) are written to as they are, and never replaced; of a link, the
    file that it leads to is replaced.

    Args:
      ours: see `outputs.check`, which is asked first.

    Raises:
      UsageError: the place cannot be written, or would cost somebody something; nothing is left behind.
    """

    def write(place: Path) -> None:
        place.write_bytes(content.encode() if isinstance(content, str) else content)

    write_whole_by(path, write, ours)


def write_whole_by(
    path: str | Path, write: Callable[[Path], Any], ours: outputs.Recognise | None = None
) -> None:
    """Writes a file likewise, by a function that is given the path to write to (its suffix is `path`'s).

    Raises:
      UsageError: as `write_whole`.
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
    """Makes the folders that are missing; they go again when the context is left by an error."""
    missing = [folder for folder in path.parents if not folder.exists()]
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process was faster, and may use it
            folder.mkdir()
            made.callback(_remove_folder, folder)


def _remove_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # somebody has put something in it
        folder.rmdir()


def _new_file(path: Path, made: contextlib.ExitStack) -> Path:
    """Makes an empty file beside `path` under a name that nothing had; it goes when the context is left."""
    while True:
        temporary = path.with_name(f".partial-{secrets.token_hex(6)}{path.suffix[:16]}")
        with contextlib.suppress(FileExistsError):
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            made.callback(temporary.unlink, missing_ok=True)
            return temporary


def write_json(path: str | Path, found: Any, ours: outputs.Recognise | None = None) -> None:
    """Writes one JSON value as a file, whole or not at all.

    Raises:
      UsageError: as `write_whole`.
    """
    write_whole(path, as_json(found, indent=1) + "\n", ours)


def as_json(found: Any, indent: int | None = None) -> str:
    """Writes a value as JSON, which has no number for NaN and infinity: they are null."""
    try:
        text = json.dumps(found, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(found), indent=indent, ensure_ascii=False, allow_nan=False)
    # Only strings hold these; lines of JSON are shown on terminals, too.
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


_CONTROL = re.compile("[\x7f-\x9f]")
"""Control characters that `json` leaves as they are."""


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
      place: where it stands (`file:line`), for errors.
      gaps: NaN and infinities, which are no JSON but were written by 0.1 and are by others, read as None.

    Raises:
      UsageError: malformed JSON, nesting or numbers beyond what is read, or text that is no Unicode.
    """
    try:
        found = (_WITH_GAPS if gaps else _STRICT).decode(text)
        if text.count("[") + text.count("{") > _DEEPEST:  # few values have as many
            _check_depth(found)
    except json.JSONDecodeError as error:
        raise UsageError(f"{place}: malformed JSON ({error.msg}, column {error.colno})") from error
    except RecursionError as error:
        raise UsageError(f"{place}: JSON that cannot be read ({_TOO_DEEP})") from error
    except ValueError as error:  # a number of thousands of digits
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
"""Levels of brackets that are read. No file of ours has ten; what walks a value recurses."""
_TOO_DEEP = f"nested more than {_DEEPEST} levels deep"

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""Half of a character beyond 16 bits: in a file that is UTF-8, only an escape can be one."""


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


def parse_json_object(text: str, place: str, *, gaps: bool = False) -> dict[str, Any]:
    """Parses one JSON object.

    Args:
      text, place, gaps: see `parse_json`.

    Raises:
      UsageError: see `parse_json`; or another JSON value.
    """
    found = parse_json(text, place, gaps=gaps)
    if not isinstance(found, dict):
        raise UsageError(f"{place}: expected a JSON object, got {type(found).__name__}")
    return found


def read_json(path: str | Path, *, gaps: bool = False) -> dict[str, Any]:
    """Reads a UTF-8 file that holds one JSON object.

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
      lines: split at `\\n` alone, since JSON strings may hold U+2028.
      name: of the file, for errors.
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
    """Yields (`path:number`, what is read) for every line that is not blank, or what is wrong with the line.

    Args:
      read: is given the line's object and its place; its UsageErrors are the line's.

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
    return decoded_lines(_content(path), path)


def _content(path: str | Path) -> bytes:
    try:
        return copies.local(str(path)).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror}") from error


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
