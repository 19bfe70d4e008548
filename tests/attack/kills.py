"""Processes killed at random moments, and two at once on one output; what the same command makes of it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.attack import worker, world
from tests.attack.attacker import Attacker, exiting
from tests.attack.cases import commands

PATIENCE = 180.0
"""Seconds after which a process hangs."""

JOBS: dict[str, tuple[str, str]] = {
    # the command; what is added to go on with it
    "generate": (
        "generate --model=target --drafter=draft --input=many.jsonl --max_new_tokens=4 --batch_size=2 "
        "--temperature=1 --output=out",
        "--resume",
    ),
    "sweep": (
        "sweep --target=target --drafter=d=draft --inputs=asked.jsonl --limit=2 --max_new_tokens=4 "
        "--timing_prompts=0 --block_sizes=1,2 --temperatures=0,1 --output_dir=out",
        "",
    ),
    "collect": (
        "collect --model=target --task=office_help_ende --limit=6 --max_new_tokens=4 --batch_size=2 "
        "--top_logprobs=2 --output=out",
        "",
    ),
    "convert": (f"{commands.FROM_GGUF} --output=out", ""),
    "convert to hf": (f"{commands.TO_HF} --output=out", ""),
    "convert to gguf": (f"{commands.TO_GGUF} --output=out", ""),
    "convert into an empty folder": (f"{commands.FROM_HF} --output=empty", ""),
    "draft": (f"{commands.DRAFT} --output=out", ""),
    "report": (f"{commands.REPORT} --output=out", ""),
    "zoo export": (
        'api \'of("distillspec_jax.showcase.zoo_export").export_greedy(["office_help_ende"], "trained", '
        '"zoo", 1)\'',
        "",
    ),
}
"""What is killed; the export writes over an earlier one."""

TOGETHER = {
    **{
        name: line
        for name, (line, _) in JOBS.items()
        if name in ("generate", "sweep", "collect", "convert", "report")
    },
    "finetune": f"{commands.FINETUNE} --gin.MODEL_DIR=out --gin.TRAIN_STEPS=4 --gin.SAVE_PERIOD=1",
}

_TEMPORARY = re.compile(r"(^|/)\.partial-|\.orbax-checkpoint-tmp|(^|/)\.tmp")
_TIMES = ("seconds", "baseline_seconds", "speedup", "speedup_ci95", "timing", "command", "git_revision")


@dataclasses.dataclass(frozen=True)
class Killed:
    """One process that was killed, or two that ran at once.

    Attributes:
      moment: when, in words.
      fate: `killed`, or `finished` where it was over before.
      differences: to an undisturbed run, after the same command was given again.
      leftovers: temporary files that are still there then.
    """

    job: str
    moment: str
    fate: str
    differences: tuple[str, ...]
    leftovers: int


def kills(attack: Attacker, count: int, seed: int) -> Iterator[Killed]:
    """Kills each job's processes in turn: by the clock, and just before one of its file operations."""
    rng = random.Random(seed)
    names = list(JOBS)
    known = {name: _Job(attack, name, *JOBS[name]) for name in names[:count]}
    for number in range(count):
        yield known[names[number % len(names)]].killed(rng, by_file=bool(number // len(names) % 2))


def together(attack: Attacker, seed: int, times: int = 4) -> Iterator[Killed]:
    """Runs each command twice at once, the second a little later."""
    rng = random.Random(seed)
    for name, line in TOGETHER.items():
        job = _Job(attack, name, line, "--resume" if name == "generate" else "")
        for _ in range(times):
            yield job.together(rng.choice((0.0, 0.05, 0.3, rng.uniform(0, 1) * job.seconds)))


class _Job:
    """A command in a folder of its own, and what it makes when it is left in peace."""

    def __init__(self, attack: Attacker, name: str, line: str, again: str) -> None:
        self._attack, self.name = attack, name
        self._argv = shlex.split(line)
        self._again = [*self._argv, *shlex.split(again)]
        root = self._fresh()
        began = time.monotonic()
        status, said = self._finish(self._start(root, self._argv, root.parent / "events"))
        self.seconds = time.monotonic() - began
        if status:
            raise RuntimeError(f"{line} ended with {status}: {said}")
        self.events = int((root.parent / "events").read_text())
        self._expected = self._canonical(root)

    def _fresh(self) -> Path:
        root = self._attack.folder / "job" / "here"
        shutil.rmtree(root.parent, ignore_errors=True)
        root.parent.mkdir()
        world.copy(self._attack.world, root, f"{self._argv} {'texts' if self.name.startswith('zoo') else ''}")
        lines = [{"id": i, "inputs": f"text {i}"} for i in range(24)]
        (root / "many.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if self.name.startswith("zoo"):
            _trained(root)
        return root

    def killed(self, rng: random.Random, by_file: bool) -> Killed:
        """Kills one process, runs the command again, and compares."""
        root = self._fresh()
        number = rng.randrange(self.events) if by_file else None
        delay = rng.uniform(0, self.seconds)
        process = self._start(root, self._argv, root.parent / "events", die_at=number)
        if number is None:
            time.sleep(delay)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process[0], signal.SIGKILL)
        status, _ = self._finish(process)
        moment = f"{delay:.3f} s" if number is None else f"file operation {number} of {self.events}"
        fate = "killed" if status == -signal.SIGKILL else "finished"
        return Killed(self.name, moment, fate, *self._made_whole(root))

    def together(self, delay: float) -> Killed:
        """Runs two at once, then the command once more, and compares."""
        root = self._fresh()
        first = self._start(root, self._argv, root.parent / "events", log="first")
        time.sleep(delay)
        second = self._start(root, self._argv, root.parent / "events", log="second")
        found = []
        for process in (first, second):
            status, said = self._finish(process)
            if status not in (0, 2) or "Traceback" in said:
                found.append(f"ended with {status}: {said.strip().splitlines()[-1:]}")
        more, leftovers = self._made_whole(root)
        return Killed(f"{self.name}, twice at once", f"{delay:.3f} s", "killed", (*found, *more), leftovers)

    def _made_whole(self, root: Path) -> tuple[tuple[str, ...], int]:
        status, said = self._finish(self._start(root, self._again, root.parent / "events"))
        found = []
        if status not in (0, 2) or "Traceback" in said:
            found.append(f"then ended with {status}: {said.strip().splitlines()[-1:]}")
        made = self._canonical(root)
        junk = [name for name in made if _TEMPORARY.search(name)]
        made = {name: digest for name, digest in made.items() if name not in junk}
        names = sorted(made.keys() | self._expected.keys())
        found += [name for name in names if made.get(name) != self._expected.get(name)]
        if found and status == 2:
            found.append(f"then said: {said.strip()[-300:]}")
        return tuple(found), len({_TEMPORARY.split(name)[0] for name in junk})

    def _start(
        self, root: Path, argv: list[str], events: Path, die_at: int | None = None, log: str = "log"
    ) -> tuple[int, Path]:
        said = root.parent / log
        child = os.fork()
        if child:
            return child, said
        with exiting():
            os.setsid()
            world.enter(self._attack.folder / "zoo")
            os.chdir(root)
            for descriptor, name in ((0, os.devnull), (1, os.devnull), (2, said)):
                opened = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND)
                os.dup2(opened, descriptor)
            counted = _count_files(root, die_at)
            status = worker.status_of(argv)
            events.write_text(str(counted[0]))
            sys.stderr.flush()
            os._exit(status)
        raise AssertionError  # a child does not come here

    def _finish(self, process: tuple[int, Path]) -> tuple[int, str]:
        began = time.monotonic()
        while True:
            ended, status = os.waitpid(process[0], os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status), process[1].read_text() if process[
                    1
                ].exists() else ""
            if time.monotonic() - began > PATIENCE:
                os.killpg(process[0], signal.SIGKILL)
                os.waitpid(process[0], 0)
                return -1, "hangs"
            time.sleep(0.005)

    def _canonical(self, root: Path) -> dict[str, str]:
        """Every file below the folder by its content, less times; steps of ours by their arrays."""
        answer = root.parent / "canonical.json"
        child = os.fork()
        if child == 0:
            with exiting():
                answer.write_text(json.dumps(_canonical(root)))
        _, status = os.waitpid(child, 0)
        if status:
            raise RuntimeError("what was made cannot be read")
        found: dict[str, str] = json.loads(answer.read_text())
        return found


def _trained(root: Path) -> None:
    """Makes a draft that was trained for temperature 0, and a zoo that has an earlier export of it."""
    draft, exported = root / "trained/greedy_office_help_ende", root / "zoo/greedy_office_help_ende"
    shutil.copytree(root / "draft", draft)
    (draft / "metrics.jsonl").write_text("{}\n")
    shutil.copytree(root / "texts", root / "trained/greedy_texts/office_help_ende")
    shutil.copytree(root / "target", root / "zoo/target")
    shutil.copytree(root / "draft", exported)
    card = json.loads((exported / "model.json").read_text())
    card["provenance"]["exported_step"] = 0
    (exported / "model.json").write_text(json.dumps(card))


def _count_files(root: Path, die_at: int | None) -> list[int]:
    """Counts operations that change files below a folder; kills this process before one of them."""
    counted = [0]
    changes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    named = (
        "os.rename",
        "os.remove",
        "os.mkdir",
        "os.rmdir",
        "os.truncate",
        "os.link",
        "os.symlink",
        "os.chmod",
    )

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & changes:
                return
        elif event in named:
            path = arguments[0]
        else:
            return
        if not isinstance(path, (str, os.PathLike)):
            return
        if not os.path.abspath(os.fspath(path)).startswith(str(root)):
            return
        if counted[0] == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        counted[0] += 1

    sys.addaudithook(hook)
    return counted


def _canonical(root: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if not path.is_file() or path.is_symlink():
            continue
        step = next((p for p in path.parents if p.parent.name == "checkpoints" and p.name.isdecimal()), None)
        if step is not None and not _TEMPORARY.search(name):
            if path.name == "_METADATA" and path.parent.name in ("params", "optimizer"):
                found[str(path.parent.relative_to(root))] = _arrays(path.parent)
            continue
        if "tensorboard" in path.parts or path.name == "seconds.json":
            continue
        found[name] = hashlib.sha1(_without_times(path)).hexdigest()
    return found


def _without_times(path: Path) -> bytes:
    content = path.read_bytes()
    if content.startswith(b"<!doctype html"):
        return re.sub(rb"\b[a-z][0-9a-f]{8,}\b", b"", content)  # ids that a plot draws anew
    if path.name not in ("results.jsonl", "metrics.jsonl") or path.parent.name != "out":
        return content
    from distillspec_jax.training import throughput

    rows = [json.loads(line) for line in content.decode().splitlines()]
    dropped = (*_TIMES, *throughput.NAMES)
    # Two sweeps at once may both measure a cell, which says the same twice.
    lines = {
        json.dumps({k: v for k, v in row.items() if k not in dropped}, sort_keys=True): None for row in rows
    }
    return "\n".join(sorted(lines)).encode()


def _arrays(folder: Path) -> str:
    from tests.faults import killing

    digest = hashlib.sha1()
    for name, array in sorted(killing._arrays(folder).items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()
