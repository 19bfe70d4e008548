"""Cases tried one by one on a copy of the world, and how each ended."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import stat
import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from tests.attack import case as cases
from tests.attack import snapshot, worker, world
from tests.attack.case import DONE, OWN, REFUSED, Case

SECONDS = 10.0
"""Of processor time that a refused call may take, and of a call that ends well in a warm process."""
LONGEST_SECONDS, PATIENCE = 60.0, 180.0
"""Of processor time, and of the clock, after which a call is ended."""
MEMORY, MOST_MEMORY = 1 << 30, 4 << 30
"""Bytes that a refused call may take; bytes at which a call is ended."""
FRESH = 60
"""Calls that a process answers: compiled programs add up."""

JUDGED = {"watch": (1, 3), "check": (1,), "redistill": (1, 3), "pilot": (1, 3), "rollout": (1, 3, 4)}
"""Exit statuses by which a command says what it found."""

_ERROR = ": error: "
_PROGRESS = re.compile(
    r"(\[\d+/\d+\]|\d+/\d+ prompts, |"
    r"resuming after|compiling|.* is whole: |.*: failed: the model's logits|.*: \d+ s$|"
    r"distributions of \d+ ids|\d+ outputs, \d+ tokens|\d+ texts, \d+ tokens|"
    r".*: not taken along: |.*: no tokenizer in |"
    r".* lines without .*: set aside|pilot: \d+ steps from .*|going on with the pilot in .*|"
    r"\d+ new prompts and \d+ old ones; .*|"
    r"no final check and no profile: .*|\d+ positions of \d+ prompts tested|"
    r"distillspec \w+: stopped|(train|eval) +\d+/|.*acceptance)"
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Attributes:
      fate: `refused`, `done`, or `failed`.
      reasons: what did not hold; empty unless it failed.
      lost: something of the user's was among it.
      peak: bytes beyond what the process held before the call.
      seconds: of processor time.
      said: the end of standard error.
    """

    case: Case
    fate: str
    reasons: tuple[str, ...]
    lost: bool
    peak: int
    seconds: float
    said: str


class Attacker:
    """Tries cases in a folder of its own.

    Args:
      folder: where the world, its copies and the outputs lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = folder / "world"
        self._process: int | None = None
        self._orders: Connection | None = None
        self._answered = self._asked = 0

    def build(self) -> None:
        """Makes the world, in a process of its own, since that starts JAX."""
        child = os.fork()
        if child == 0:
            with exiting():
                world.build(self.world)
        _, status = os.waitpid(child, 0)
        if status:
            raise RuntimeError("the world cannot be built")

    def outcomes(self, tried: Iterable[Case]) -> Iterator[Outcome]:
        """Tries cases in their order."""
        for case in tried:
            if case.alone:
                self._end()
            yield self._outcome(case)
            if case.alone or self._answered >= FRESH:
                self._end()
        self._end()

    def _outcome(self, case: Case) -> Outcome:
        root = self.folder / "here"
        world.copy(self.world, root, case.names)
        try:
            cases.prepare(case, root)
            before = snapshot.take(root)
            answer = self._ask(case, root)
            after = snapshot.take(root)
            _mend_devices(before, after)
        finally:
            cases.tear_down(case, root)
            shutil.rmtree(root)
        said = (self.folder / "stderr").read_bytes().decode("utf-8", "replace")
        printed = (self.folder / "stdout").read_bytes().decode("utf-8", "replace")
        lost = snapshot.lost(before, after, case.rewrites if answer.status == 0 else ())
        reasons = [f"lost: {what}" for what in lost]
        reasons += _faults(case, answer, said, printed)
        but = (*OWN, *case.makes) if answer.status == 0 else case.leaves
        left = snapshot.added(before, after, but)
        reasons += [f"left behind: {name}" for name in left[:3]]
        fate = "failed" if reasons else "done" if answer.status == 0 else "refused"
        return Outcome(case, fate, tuple(reasons), bool(lost), answer.peak, answer.cpu, said[-600:])

    def _ask(self, case: Case, root: Path) -> _Answer:
        """Runs a command in the worker, and ends that if it takes too much of anything."""
        if self._process is None:
            self._begin()
        assert self._orders is not None
        assert self._process is not None
        stdin, stdout, stderr = (str(self.folder / name) for name in ("stdin", "stdout", "stderr"))
        Path(stdin).write_bytes(case.stdin.encode("utf-8", "surrogatepass"))
        for name in (stdout, stderr):
            Path(name).write_bytes(b"")
        argv = [word.replace("TASK_NAME=mine", f"TASK_NAME=mine_{self._asked}") for word in case.argv]
        self._asked += 1  # a process names a task once
        order = {"argv": argv, "cwd": str(root), "stdin": stdin, "stdout": stdout, "stderr": stderr}
        self._orders.send_bytes(json.dumps(order).encode())
        self._answered += 1
        began, cpu, resting = time.monotonic(), _cpu_seconds(self._process), _memory(self._process)
        peak, wait = 0, 0.002
        while not self._orders.poll(wait):
            wait = min(0.05, wait * 1.5)
            spent = _cpu_seconds(self._process) - cpu
            peak = max(peak, _memory(self._process) - resting)
            ended = None
            if peak > MOST_MEMORY:
                ended = f"takes more than {MOST_MEMORY >> 20:,} MB"
            elif spent > LONGEST_SECONDS or time.monotonic() - began > PATIENCE:
                ended = f"hangs: no end after {spent:.0f} s"
            if ended:
                self._end()
                return _Answer(-signal.SIGKILL, time.monotonic() - began, spent, peak, ended)
        try:
            answer = json.loads(self._orders.recv_bytes())
        except (EOFError, OSError):
            process, self._process = self._process, None
            _, status = os.waitpid(process, 0)
            died = os.waitstatus_to_exitcode(status)
            return _Answer(died, time.monotonic() - began, 0.0, peak, f"the process died ({died})")
        return _Answer(answer["status"], answer["wall"], answer["cpu"], max(peak, answer["peak"]))

    def _begin(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        process = os.fork()
        if process == 0:
            with exiting():
                ours.close()
                worker.serve(theirs, functools.partial(world.enter, self.folder / "zoo"))
        theirs.close()
        self._process, self._orders, self._answered = process, ours, 0

    def _end(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        assert self._orders is not None
        self._orders.close()
        self._process = self._orders = None


@dataclasses.dataclass(frozen=True)
class _Answer:
    status: int
    wall: float
    cpu: float
    peak: int
    ended: str = ""


def _faults(case: Case, answer: _Answer, said: str, printed: str) -> list[str]:
    """What is wrong with an end, but for the files."""
    found = [answer.ended] if answer.ended else []
    if answer.status not in (0, 2, *JUDGED.get(case.command, ())) and not answer.ended:
        found.append(f"exit status {answer.status}")
    if "Traceback (most recent call last)" in said:
        found.append("traceback: " + said.strip().splitlines()[-1][:160])
    if "panicked at" in said:
        found.append("panic")
    if case.may == REFUSED and answer.status == 0:
        found.append("accepted")
    if case.may == DONE and answer.status == 2:
        found.append("refused")
    lines = [line for line in said.split("\n") if line and (_ERROR in line or not _PROGRESS.match(line))]
    if not found and answer.status == 2 and len(lines) != 1:
        found.append(f"{len(lines)} lines: " + " | ".join(line[:100] for line in lines[:3]))
    if not found and answer.status == 2 and _ERROR not in lines[0]:
        found.append(f"no error: {lines[0][:100]}")
    told_to = any(word.endswith(("/dev/stderr", "/fd/2")) for word in case.argv)
    if not found and answer.status == 0 and lines and not told_to:
        found.append("noise: " + lines[0][:100])
    if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f]", said + printed):
        found.append("control characters reach the terminal")
    if answer.status == 2 and answer.peak > MEMORY:
        found.append(f"refused after {answer.peak >> 20:,} MB")
    if answer.status == 2 and min(answer.cpu, answer.wall) > SECONDS:
        found.append(f"refused after {answer.cpu:.0f} s")
    return found


def _mend_devices(before: snapshot.Tree, after: snapshot.Tree) -> None:
    """Makes devices of this namespace again that a command has replaced, for the cases to come."""
    for name in snapshot.DEVICES:
        if name in before and before[name] != after.get(name):
            Path(name).unlink(missing_ok=True)
            number = int(before[name].split()[2])
            os.mknod(name, stat.S_IFCHR | 0o666, number)
            os.chmod(name, 0o666)


def _family(process: int) -> list[int]:
    """A process and what it has started."""
    found = [process]
    for one in found:
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{one}/task"):
                found += map(int, Path(f"/proc/{one}/task/{thread}/children").read_text().split())
    return found


def _cpu_seconds(process: int) -> float:
    ticks = 0
    for one in _family(process):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _memory(process: int) -> int:
    """What a process holds and its children; one that has only been forked still has its parent's pages."""
    found, own = 0, Path(f"/proc/{process}/cmdline").read_bytes()
    for one in _family(process):
        with contextlib.suppress(OSError):
            if one == process or Path(f"/proc/{one}/cmdline").read_bytes() != own:
                found += worker.resident(one)
    return found


@contextlib.contextmanager
def exiting() -> Iterator[None]:
    """Ends a forked process, whatever happens, without the cleaning-up of the one it was forked from."""
    try:
        yield
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(1)


def bytes_of_imports() -> int:
    """What a process holds that has imported all and started nothing."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
