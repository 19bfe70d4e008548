"""Logs a line for every served output, in the format of `distillspec generate`; `watch` reads it."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from types import TracebackType

from distillspec_jax import files, outputs
from distillspec_jax.acceptance import COUNTS
from distillspec_jax.evaluation.served_lines import REQUEST_FIELD, VERSION_FIELD
from distillspec_jax.operations.arms import (
    DECODING_FIELD,
    REVISION_FIELD,
    RULE_FIELD,
    SECONDS_FIELD,
)
from distillspec_jax.serving.sample import Sample
from distillspec_jax.terminal import news

_BEGINNINGS = ('{"id": "cmpl-', '{"id": "chatcmpl-')
"""How a line of a log begins."""
_CHUNK = 1 << 16


@dataclasses.dataclass
class RequestLog:
    """An append-only file of lines.

    Texts are written only on request, since prompts are private to the users.

    Args:
      path: of the file; existing lines are kept, but for a last one that was cut short by a kill.
      texts: also write prompts and outputs, for training by `redistill`.
      rule: the verification rule, with its epsilon if it has one.

    Raises:
      UsageError: the file cannot be written.
    """

    path: str
    texts: bool = False
    rule: str = "token"

    def __post_init__(self) -> None:
        outputs.check(self.path, _is_ours)
        with files.saving(self.path):
            outputs.resolved(self.path).parent.stat()
            _mend(Path(self.path))
            self._file = Path(self.path).open("a", encoding="utf-8", buffering=1)  # noqa: SIM115  # closed by `close`; a line at a time
        self._lost = 0

    def write(self, sample: Sample, identity: str, request: str, inputs: str | None) -> None:
        """Appends a sample that has ended.

        Args:
          identity: of the request, with the sample's number.
          request: of the request, with the prompt's number: the same for all samples of a prompt.
          inputs: the raw prompt; None if it was not text.
        """
        ending = sample.ending
        assert ending is not None
        assert sample.ended is not None
        if ending.record is None:
            return
        counts = {name: getattr(ending.record, name) for name in COUNTS}
        seconds = {SECONDS_FIELD: sample.ended - sample.arrived}
        if sample.began is not None:
            seconds[DECODING_FIELD] = sample.ended - sample.began
        if sample.first_token is not None:
            seconds["first_token_s"] = sample.first_token - sample.arrived
        line = {
            "id": identity,
            REQUEST_FIELD: request,
            "time": round(time.time(), 3),
            **(
                {"inputs": inputs, "outputs": sample.stream.sent} if self.texts and inputs is not None else {}
            ),
            **{
                name: list(one) if isinstance(one, tuple) else one
                for name, one in counts.items()
                if one is not None
            },
            "finish_reason": "eos"
            if ending.reason == "stop" and not sample.stream.stopped
            else ending.reason,
            VERSION_FIELD: ending.draft,
            **({} if sample.revision is None else {REVISION_FIELD: sample.revision}),
            RULE_FIELD: self.rule,
            **{name: getattr(sample.prompt, name) for name in ("temperature", "top_k", "top_p")},
            **{name: round(one, 6) for name, one in seconds.items()},
        }
        try:
            self._file.write(files.as_json(line) + "\n")
        except OSError as error:  # a full disk must not stop serving
            self._lost += 1
            if self._lost.bit_count() == 1:
                news(f"{self.path}: {self._lost} lines are lost: {error.strerror}")

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> RequestLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_ours(path: Path) -> bool:
    """Tells whether a file begins with a line of a log, or is empty."""
    with path.open(encoding="utf-8") as file:
        line = file.readline()
    if line and not line.endswith("\n") and line.startswith(_BEGINNINGS):
        return True  # its first line was cut short
    return not line or files.parse_json_object(line, str(path)).keys() >= {VERSION_FIELD, "finish_reason"}


def _mend(path: Path) -> None:
    """Removes a last line that was cut short: with the next line it would be one that nobody can read."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        size = end = file.seek(0, os.SEEK_END)
        tail = b""
        while end and b"\n" not in tail:
            start = max(0, end - _CHUNK)
            file.seek(start)
            tail, end = file.read(end - start) + tail, start
    tail = tail[tail.rfind(b"\n") + 1 :]
    if not tail:
        return
    with path.open("r+b") as file:
        try:
            json.loads(tail)
        except ValueError:
            file.truncate(size - len(tail))
            news(f"{path}: its last line was cut short, and is removed")
        else:  # all of it but its end
            file.seek(size)
            file.write(b"\n")
