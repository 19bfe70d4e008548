"""A service on a simulated stream: the package's own log, alarm, registry, redistillation and gate.

What is simulated is the decoding alone (`greedy`). A request's line is written as `generate` writes it, and
`watch` reads the log; `redistill` reads the log and adds a version; a version that has passed the gate serves
from the next look on, for all requests: stages of a rollout are left out.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from benchmarks.drift.greedy import Passes, Text
from benchmarks.drift.rows import Row, Rows
from benchmarks.drift.setting import NEVER, ON_ALARM, START, Setting
from benchmarks.drift.training import Trainer
from distillspec_jax.acceptance import COUNTS, Record
from distillspec_jax.evaluation import reference
from distillspec_jax.evaluation.reference import ALL
from distillspec_jax.evaluation.watch_state import Stream
from distillspec_jax.evaluation.watching import Watch
from distillspec_jax.generation import request_files
from distillspec_jax.generation.request_files import GenerationRequest
from distillspec_jax.generation.text_generator import Generation
from distillspec_jax.models import pretrained
from distillspec_jax.operations import admission
from distillspec_jax.operations.draft_registry import DraftRegistry
from distillspec_jax.operations.gate import Conditions
from distillspec_jax.operations.redistill_folder import Plan
from distillspec_jax.operations.redistillation import redistill

TEMPERATURE = 0.0


@dataclasses.dataclass
class Drafts:
    """What every draft does on every pool, counted once and kept as rows.

    Attributes:
      texts: of every pool.
    """

    rows: Rows
    passes: Passes
    texts: dict[str, Sequence[Text]]
    _known: dict[tuple[int, str, str], list[Record]] = dataclasses.field(default_factory=dict)

    def records(self, seed: int, draft: str, path: str, pool: str) -> list[Record]:
        """Counts of a draft on each prompt of a pool."""
        key = seed, draft, pool
        if key not in self._known:
            self._known[key] = self._counted(seed, draft, path, pool)
        return self._known[key]

    def _counted(self, seed: int, draft: str, path: str, pool: str) -> list[Record]:
        row = self.rows.one("counts", seed=seed, draft=draft, pool=pool)
        if row is None:
            found = self.passes.records(pretrained.load(path), self.texts[pool])
            columns = {
                name: [getattr(one, name) for one in found] for name in ("target_calls", "tested", "accepted")
            }
            row = self.rows.add("counts", seed=seed, draft=draft, pool=pool, **columns)
        emitted = [len(text.tokens) for text in self.texts[pool]]
        counts = (row["target_calls"], row["tested"], row["accepted"])
        return [
            Record(emitted_tokens=e, target_calls=c, tested=t, accepted=a)
            for e, c, t, a in zip(emitted, *counts, strict=True)
        ]


@dataclasses.dataclass
class Watcher:
    """The operator's watch: a log and its evidence, begun anew with every draft and after every attempt.

    Attributes:
      log: of one reference.
      first: number of its first request, from 0.
    """

    log: Path
    first: int
    watch: Watch
    stream: Stream

    @classmethod
    def begin(cls, log: Path, first: int, draft: str, block_size: int) -> Watcher:
        """Begins, with the profile that stands beside a draft."""
        log.unlink(missing_ok=True)
        against = reference.read(draft, TEMPERATURE, None)
        return cls(log, first, Watch(against, block_size=block_size), Stream(str(log)))

    def look(self, lines: Sequence[str]) -> tuple[int, int] | None:
        """Reads new lines; tells at which request the alarm came, and since when acceptance is lower."""
        with self.log.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        self.watch.read(self.stream, str(self.log))
        evidence = self.stream.segment(ALL).evidence
        if evidence.alarm_at is None or evidence.since is None:
            return None
        return self.first + evidence.alarm_at - 1, self.first + evidence.since - 1


@dataclasses.dataclass
class Service:
    """One policy on one stream.

    Attributes:
      folder: for the registry and the logs.
      names, stream_R2: see `traffic.stream`.
      start: folder of the draft that serves at first.
      trained_with: file of the prompts that it was distilled on.
    """

    setting: Setting
    rows: Rows
    drafts: Drafts
    folder: Path
    target: str
    start: str
    trained_with: Path
    seed: int
    policy: str
    names: Sequence[str]
    stream_R2: np.ndarray
    say: Callable[[str], None] = print

    def run(self) -> None:
        """Serves the whole stream; what rows tell of an earlier run is not trained again."""
        if self.rows.one("run", seed=self.seed, policy=self.policy):
            return
        if self.policy != NEVER:
            self._serve()
        else:
            for first in range(0, self.setting.requests, self.setting.look):
                self._lines(START, self.start, first)
        self.rows.add("run", seed=self.seed, policy=self.policy)

    def _serve(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        registry = self._registry()
        done = {row["at"]: row for row in self.rows.of("training", seed=self.seed, policy=self.policy)}
        draft, path = START, str(registry.path_of(registry.versions()[0]))
        watcher = self._watcher(0, path)
        alarm: tuple[int, int] | None = None
        kept: list[str] = []  # the log, all of it
        asked = 0  # the first request that no attempt has had
        for first in range(0, self.setting.requests, self.setting.look):
            lines = self._lines(draft, path, first)
            kept += lines
            at = len(kept)
            if self.policy == ON_ALARM:
                alarm = watcher.look(lines)
            begins = self._due(at, asked, alarm)
            if begins is None or at >= self.setting.requests:
                continue
            row = done.get(at) or self._train(registry, at, begins, alarm, kept[begins:])
            asked = at
            if row["version"] is not None:
                draft, path = f"{self.policy} {row['version']}", str(registry.path_of(row["version"]))
                # Of a run that goes on, it may have been promoted before, and later ones, too.
                if row["version"] not in {one.stable for one in registry.history.transitions}:
                    registry.promote(row["version"], f"{self.policy}, at request {at:,}")
            watcher, alarm = self._watcher(at, path), None

    def _registry(self) -> DraftRegistry:
        """The policy's registry; one whose rows are not there is begun anew."""
        place = self.folder / "registry"
        rows = list(self.rows.of("training", seed=self.seed, policy=self.policy))
        if place.exists() and (rows or (place / "redistill").exists()):
            return DraftRegistry(place)
        shutil.rmtree(place, ignore_errors=True)
        return admission.create(place, self.target, self.start)

    def _watcher(self, first: int, path: str) -> Watcher:
        return Watcher.begin(self.folder / "served.jsonl", first, path, self.setting.block_size)

    def _lines(self, draft: str, path: str, first: int) -> list[str]:
        """Serves the requests from one look to the next; returns lines of the log."""
        lines = []
        for pool, number in self.stream_R2[first : first + self.setting.look]:
            name = self.names[pool]
            text = self.drafts.texts[name][number]
            counted = self.drafts.records(self.seed, draft, path, name)[number]
            counts = {one: getattr(counted, one) for one in COUNTS}
            answer = Generation(text.inputs, text.outputs, finish_reason="length", **counts)
            request = GenerationRequest(text.inputs, "stream", {"temperature": TEMPERATURE})
            lines.append(request_files.write_line(request, answer))
        return lines

    def _due(self, at: int, asked: int, alarm: tuple[int, int] | None) -> int | None:
        """The first request of the log that a redistillation now would read; None: none is due."""
        if self.policy != ON_ALARM:
            every = self.setting.policies[self.policy]
            return at - every if at % every == 0 else None
        if alarm is None:
            return None
        begins = max(alarm[1], asked)
        return begins if at - begins >= self.setting.waits else None

    def _train(
        self, registry: DraftRegistry, at: int, begins: int, alarm: tuple[int, int] | None, log: Sequence[str]
    ) -> Row:
        place = self.folder / "asked.jsonl"
        place.write_text("".join(f"{line}\n" for line in log), encoding="utf-8")
        self.say(f"seed {self.seed}, {self.policy}: request {at:,}, distilling on those from {begins:,} on")
        train = Trainer(self.target, self.setting, self.seed)
        plan = Plan(
            steps=self.setting.steps,
            pilot_steps=self.setting.pilot_steps,
            temperature=TEMPERATURE,
            block_size=self.setting.block_size,
            prompts=self.setting.prompts,
            old_share=self.setting.old_share,
        )
        began = time.process_time()
        # One that was killed is begun anew, so that what it costs is known.
        found = redistill(
            registry,
            None,
            [str(place)],
            [str(self.trained_with)],
            plan,
            Conditions(margin=self.setting.margin),
            train,
            restart=True,
            say=self.say,
        )
        spent = time.process_time() - began
        self.say(f"  {found.outcome}: {found.reason} ({spent:.0f} s)")
        jax.clear_caches()
        different = len({json.loads(line)["inputs"] for line in log})
        return self.rows.add(
            "training",
            seed=self.seed,
            policy=self.policy,
            at=at,
            begins=begins,
            prompts=different,
            alarm_at=None if alarm is None else alarm[0],
            since=None if alarm is None else alarm[1],
            outcome=found.outcome,
            reason=found.reason,
            version=found.version,
            steps=train.steps,
            training_seconds=round(train.seconds, 2),
            seconds=round(spent, 2),
        )
