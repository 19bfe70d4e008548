"""Request files: JSON lines in; JSON lines out, in a resumable file that appears once it is complete."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from distillspec_jax import outputs
from distillspec_jax.buckets import copies
from distillspec_jax.decoding.prompt_batch import check_max_new_tokens
from distillspec_jax.decoding.sampling import SamplingParams
from distillspec_jax.errors import UsageError, nearest, shown
from distillspec_jax.files import (
    as_json,
    decoded_lines,
    json_lines,
    parse_json_object,
    saving,
    write_whole,
)
from distillspec_jax.generation.text_generator import Generation
from distillspec_jax.locks import lock

SAMPLE = "sample"
"""The field that numbers several outputs of a prompt."""


@dataclasses.dataclass(frozen=True)
class GenerationRequest:
    """A line of a request file.

    Attributes:
      inputs: the raw text.
      where: `file:line`, for errors.
      extra: the line's other fields, passed through to the output.
    """

    inputs: str
    where: str
    extra: dict[str, Any]

    def repeated(self, samples: int) -> list[GenerationRequest]:
        """Makes copies of the request, numbered in a field `sample` if there are several.

        Raises:
          UsageError: it already has this field, so its samples could coincide with those of another line.
        """
        if samples == 1:
            return [self]
        if SAMPLE in self.extra:
            raise UsageError(
                f"{self.where} has a field {SAMPLE!r}, in which {samples} outputs a prompt are numbered: "
                "rename it, or ask for one"
            )
        return [dataclasses.replace(self, extra={**self.extra, SAMPLE: i}) for i in range(samples)]


OPTIONS: Mapping[str, type] = {"temperature": float, "top_k": int, "top_p": float, "max_new_tokens": int}
"""Fields by which a line overrides the sampling distribution and length."""

_ANSWER, _LONGEST_LINE = {"inputs", "outputs", "finish_reason"}, 1 << 26
"""Fields of every line written, and the number of bytes beyond which a line is not ours."""

_GENERATED = {field.name for field in dataclasses.fields(Generation)}


def options(requests: Sequence[GenerationRequest], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Maps each of `OPTIONS` to the default, or to a list per request if any request has its own value.

    Raises:
      UsageError: a value is not a number or out of range; names file and line.
    """
    found: dict[str, Any] = dict(defaults)
    for request in requests:
        own = {name: request.extra[name] for name in OPTIONS if name in request.extra}
        for name, value in own.items():
            if isinstance(value, bool) or not isinstance(value, (int, OPTIONS[name])):
                kind = "a number" if OPTIONS[name] is float else "a whole number"
                raise UsageError(f"{request.where}: field {name!r} is {shown(value)}, must be {kind}")
        limit = own.pop("max_new_tokens", 1)
        try:
            check_max_new_tokens(limit)
            SamplingParams(**own)
        except UsageError as error:
            raise UsageError(f"{request.where}: {error}") from error
    for name in OPTIONS:
        if any(name in request.extra for request in requests):
            found[name] = [request.extra.get(name, defaults[name]) for request in requests]
    return found


def read_requests(path: str, field: str = "inputs") -> list[GenerationRequest]:
    """Reads `{"inputs": ...}` lines from a file, or from standard input if `path` is `-`; UTF-8 always.

    Raises:
      UsageError: no requests; or malformed JSON, a missing or non-text field, or a repeated id, by line.
      OSError: the file cannot be opened.
    """
    name = "standard input" if path == "-" else path
    if path != "-":
        outputs.reads(path)
    content = sys.stdin.buffer.read() if path == "-" else copies.local(path).read_bytes()
    found = [_request(row, where, field) for where, row in json_lines(decoded_lines(content, name), name)]
    if not found:
        raise UsageError(f"{name} holds no requests (one JSON object a line is expected)")
    first: dict[str, str] = {}
    for request in found:
        if "id" in request.extra:
            own = {name: request.extra[name] for name in ("id", SAMPLE) if name in request.extra}
            key = ", ".join(f"{name} {json.dumps(value, sort_keys=True)}" for name, value in own.items())
            if first.setdefault(key, request.where) != request.where:
                raise UsageError(f"{request.where}: {key} is that of {first[key]} already")
    return found


def _request(row: dict[str, Any], where: str, field: str) -> GenerationRequest:
    if field not in row:
        raise UsageError(f"{where}: no field {field!r}: {nearest(field, row)}")
    if not isinstance(row[field], str):
        raise UsageError(f"{where}: field {field!r} must be text, got {type(row[field]).__name__}")
    return GenerationRequest(row.pop(field), where, row)


def write_line(request: GenerationRequest, generation: Generation) -> str:
    """Formats an output line: the request's fields, then the generation's known fields except its token ids.

    If both have a field, the generation's value wins, so outputs can be used as inputs again.
    """
    fields = {name: value for name, value in dataclasses.asdict(generation).items() if value is not None}
    del fields["tokens"]
    return as_json({**request.extra, **fields})


def finished(
    path: str, requests: Sequence[GenerationRequest], settings: Mapping[str, Any] | None = None
) -> int:
    """Counts the requests answered by an earlier run, in `PATH.partial` if interrupted, else in `PATH`.

    Removes an incomplete last line, so the file holds only complete lines.

    Args:
      settings: the settings the lines must have been made with, if `output_lines` recorded them.

    Raises:
      UsageError: the lines belong to other requests (names the first) or other settings. A complete file has
        no recorded settings and must answer all requests.
    """
    partial = Path(path + ".partial")
    there = partial if partial.is_file() else Path(path)
    if not there.is_file():
        return 0
    if there == partial:
        with saving(path), partial.open("rb") as file:
            _lock(file, path)
    content = there.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    lines = [_fields(line) for line in whole.decode("utf-8", "replace").split("\n")[:-1]]
    for number, line in enumerate(lines, start=1):
        asked = requests[number - 1] if number <= len(requests) else None
        kept = {k: v for k, v in asked.extra.items() if k not in _GENERATED} if asked else {}
        if asked is None or {k: line.get(k) for k in ("inputs", *kept)} != {"inputs": asked.inputs, **kept}:
            raise UsageError(f"{there}:{number} is of another input: resume with the same requests")
    if there != partial:
        if len(whole) < len(content):
            raise UsageError(
                f"{there}:{len(lines) + 1} is cut off: no output of an earlier run, which leaves lines in "
                f"{partial} when it is stopped"
            )
        if len(lines) < len(requests):
            raise UsageError(
                f"{there} is whole with {len(lines)} of {len(requests)} outputs: ask for the others in "
                "requests and an output of their own"
            )
        return len(lines)
    if lines:
        check_settings(path, settings or {})
    with saving(path):
        os.truncate(partial, len(whole))
    return len(lines)


def check_settings(
    path: str, settings: Mapping[str, Any], otherwise: str = "begin anew without --resume"
) -> None:
    """Compares settings with those that `output_lines` recorded next to the lines of an interrupted run.

    Args:
      otherwise: the alternative to resuming with the same settings, for the message.

    Raises:
      UsageError: names the first difference.
    """
    noted = _settings_file(path)
    made_with = _fields(noted.read_text(encoding="utf-8")) if noted.is_file() else {}
    for name, value in settings.items():
        if made_with.get(name, value) != value:
            raise UsageError(
                f"{path}.partial was made with {name} {made_with[name]!r} and not {value!r}: "
                f"resume with the same, or {otherwise}"
            )


def _fields(line: str) -> dict[str, Any]:
    """Returns the fields of a JSON object; empty for a line that is not one."""
    try:
        return parse_json_object(line, "")
    except UsageError:
        return {}


def check_output(path: str, resume: bool = False, noted: bool = True) -> None:
    """Rejects an unusable output before anything is decoded; see `outputs.check`. Also checks its side files.

    Args:
      resume: existing lines were or will be compared with the requests (`finished`).
      noted: whether an interrupted run would have recorded its settings next to its lines.

    Raises:
      UsageError: it is an input of the run, or a file that this module did not write.
    """
    if path == "-":
        return
    outputs.check(path, holds_answers)
    if outputs.is_special(path):
        return
    settings = _settings_file(path)
    outputs.check(settings, lambda there: "seed" in _fields(there.read_text(encoding="utf-8")))
    partial = outputs.check(path + ".partial")
    began = settings.is_file() or not noted
    foreign = not resume and partial.is_file() and partial.stat().st_size > 0
    if foreign and not (began and (_is_torn(partial) or holds_answers(partial))):
        raise UsageError(
            f"{path}.partial is not of an interrupted run, and the lines of this one would be written there: "
            "move it away, or choose another output"
        )


def holds_answers(path: Path) -> bool:
    """Tells whether a file begins with a line written by this module."""
    with path.open("rb") as file:
        line = file.readline(_LONGEST_LINE)
    return line.endswith(b"\n") and _fields(line.decode()).keys() >= _ANSWER


def _is_torn(path: Path) -> bool:
    """Tells whether a file holds only the beginning of one line, as after a kill."""
    with path.open("rb") as file:
        line = file.readline(_LONGEST_LINE)
    return line.startswith(b"{") and not line.endswith(b"\n")


def _settings_file(path: str) -> Path:
    return Path(path + ".partial.settings")


def _lock(file: IO[Any], path: str) -> None:
    """Locks a partial file against other processes while it is open.

    Raises:
      UsageError: another process is writing it or has just completed it.
    """
    partial = Path(path + ".partial")
    if lock(file.fileno()) is False or not (
        partial.exists() and os.path.samestat(os.fstat(file.fileno()), partial.stat())
    ):
        file.close()
        raise UsageError(f"cannot save to {path}: another process is writing it")


def forget_settings(path: str) -> None:
    """Removes the recorded settings of a run that was killed just after completing its output."""
    with saving(path):
        _settings_file(path).unlink(missing_ok=True)


@contextlib.contextmanager
def output_lines(
    path: str, resume: bool = False, settings: Mapping[str, Any] | None = None
) -> Iterator[Callable[[str], None]]:
    """Opens a writer of lines to a file or, for `-`, to standard output.

    A file appears under its own name only when the context exits without error; until then, and after an
    error, its lines are in `PATH.partial`. With `resume`, they are appended there. Pipes and devices get
    their lines at once.

    Args:
      settings: recorded next to the lines while these are incomplete (see `finished`).

    Raises:
      UsageError: the output cannot be written, here or later.
    """
    if path == "-":
        yield lambda line: print(line, flush=True)
        return
    check_output(path, resume, settings is not None)
    whole = not outputs.is_special(path)  # a pipe or device is written directly and never replaced
    partial = Path(path + ".partial") if whole else Path(path)
    with saving(path):
        outputs.resolved(path).parent.stat()  # for a link, the folder of the real file
        file = partial.open("a", encoding="utf-8")
        if whole:
            _lock(file, path)
            if not resume and partial.stat().st_size:
                file.truncate(0)
        if whole and settings is not None:
            write_whole(_settings_file(path), as_json(settings))

    bucket = outputs.published(path)
    if bucket is not None:
        bucket.publish()

    def write(line: str) -> None:
        with saving(path):
            file.write(line + "\n")
            file.flush()
        if bucket is not None:
            bucket.publish_some()

    try:
        yield write
    except BaseException:
        if bucket is not None:  # the run may be resumed on another machine
            with contextlib.suppress(UsageError):
                bucket.publish()
        raise
    finally:
        # Closing retries a write that failed on a full disk; that failure is already reported.
        with contextlib.suppress(OSError):
            file.close()
    if whole:
        with saving(path):
            os.replace(partial, outputs.check(path))
            _settings_file(path).unlink(missing_ok=True)
    if bucket is not None:
        bucket.publish()
