"""The decoding thread: only this thread touches the batches; all others send it calls."""

from __future__ import annotations

import dataclasses
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping

from distillspec_jax.decoding.online import OnlineBatch, Update
from distillspec_jax.errors import UsageError
from distillspec_jax.serving.routing import Route
from distillspec_jax.serving.sample import Ending, Piece, Sample
from distillspec_jax.serving.scoring import Scorer, TokenScore
from distillspec_jax.terminal import news

_SWITCH_SECONDS = 2e-4
_REASONS = {"eos": "stop", "length": "length", "failed": "failed", "cancelled": "cancelled"}


@dataclasses.dataclass
class _Arm:
    """A draft in service: its slots, and the outputs in them by ticket."""

    batch: OnlineBatch
    samples: dict[int, Sample] = dataclasses.field(default_factory=dict)


class Worker(threading.Thread):
    """Decodes samples, each with the draft that the route assigns.

    A new draft gets a new batch; samples started with the old draft finish with it.

    Args:
      batches: warm batches of all drafts that the route names.
      route: see `Route`.
      scorer: of log-probabilities.

    Attributes:
      on_end: called with every sample that has ended, before its last piece is delivered.
      loads: numbers of running and waiting samples after the last visit; replaced, never mutated.
    """

    def __init__(self, batches: Mapping[str, OnlineBatch], route: Route, scorer: Scorer) -> None:
        super().__init__(name="decoding", daemon=True)
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._arms = {name: _Arm(batch) for name, batch in batches.items()}
        self._route, self._scorer = route, scorer
        self.on_end: Callable[[Sample], None] = lambda _: None
        self._open, self._done = True, False
        self.loads = (0, 0)
        self._check(route)

    @property
    def route(self) -> Route:
        """The drafts in service."""
        return self._route

    def start_sample(self, sample: Sample) -> None:
        """Queues a sample; after the thread has ended, it ends as cancelled."""
        self._calls.put(lambda: self._start(sample))
        if self._done:  # nobody else may take the call
            self._drain()

    def cancel(self, sample: Sample) -> None:
        """Cancels a sample; has no effect if it has ended."""
        self._calls.put(lambda: self._cancel(sample))

    def serve(self, route: Route, batches: Mapping[str, OnlineBatch]) -> None:
        """Changes the drafts in service.

        Args:
          route: the new route.
          batches: warm batches of its drafts; optional for drafts that already have slots.
        """
        self._calls.put(lambda: self._change(route, batches))

    def close(self) -> None:
        """Ends the thread; samples in flight end as cancelled."""

        def stop() -> None:
            self._open = False

        self._calls.put(stop)

    def run(self) -> None:
        """Decodes until closed."""
        # The device idles while this thread waits for Python's lock, by default up to 5 ms at a time.
        sys.setswitchinterval(_SWITCH_SECONDS)
        try:
            while self._open:
                self._take_calls()
                for name, arm in list(self._arms.items()):
                    if arm.batch.busy:
                        self._visit(name, arm)
                    if not arm.batch.busy and name not in (self._route.stable, self._route.candidate):
                        del self._arms[name]
                self._count()
        finally:  # also if a batch could not be reset, so no client waits forever
            self._open = False
            for name, arm in self._arms.items():
                for sample in list(arm.samples.values()):
                    self._end(sample, Ending("cancelled", draft=name))
            self._done = True  # before the last look: a call that comes after it is taken by its caller
            self._drain()

    def _drain(self) -> None:
        """Executes all queued calls, in this thread or, once it has ended, in a caller's."""
        while True:
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                return
            call()

    def _visit(self, name: str, arm: _Arm) -> None:
        """Visits a batch once. An error in the batch ends all its samples, one in a text only that sample."""
        try:
            updates = arm.batch.visit()
        except Exception:
            self._fail(name, arm)
            return
        for update in updates:
            try:
                self._tell(name, arm, update)
            except Exception:
                news(f"telling an output of {name} failed:\n{traceback.format_exc()}")
                arm.batch.cancel(update.ticket)
                sample = arm.samples.pop(update.ticket, None)
                if sample is not None and sample.ending is None:
                    self._end(sample, Ending("error", draft=name))

    def _take_calls(self) -> None:
        """Executes queued calls; waits for one if there is nothing else to do."""
        idle = not any(arm.batch.busy for arm in self._arms.values())
        if idle:
            self._calls.get()()
        self._drain()

    def _start(self, sample: Sample) -> None:
        if not self._open:
            self._end(sample, Ending("cancelled"))
            return
        sample.draft, sample.revision = self._route.draft(sample.key), self._route.revision
        arm = self._arms[sample.draft]
        try:
            arm.samples[arm.batch.submit(sample.prompt)] = sample
        except UsageError as error:  # requests are validated earlier; this must not stop serving
            news(f"a prompt was refused: {error}")
            self._end(sample, Ending("error", draft=sample.draft))

    def _cancel(self, sample: Sample) -> None:
        arm = self._arms.get(sample.draft)
        for ticket, one in arm.samples.items() if arm else ():
            if one is sample and arm:
                arm.batch.cancel(ticket)

    def _change(self, route: Route, batches: Mapping[str, OnlineBatch]) -> None:
        self._arms.update({name: _Arm(batch) for name, batch in batches.items() if name not in self._arms})
        self._check(route)
        self._route = route

    def _check(self, route: Route) -> None:
        for name in (route.stable, route.candidate):
            if name is not None and name not in self._arms:
                raise KeyError(f"the draft {name!r} has no slots")

    def _tell(self, name: str, arm: _Arm, update: Update) -> None:
        sample = arm.samples.get(update.ticket)
        if sample is None:  # ended early by an error in its text
            return
        sample.began = update.began
        if sample.first_token is None and update.tokens:
            sample.first_token = time.perf_counter()
        stream, completion = sample.stream, update.completion
        before = len(stream.tokens)
        text = stream.push(update.tokens, done=completion is not None, later=not sample.streams)
        scores: tuple[TokenScore, ...] = ()
        if sample.logprobs and len(stream.tokens) > before and sample.ending is None:
            scores = tuple(self._scorer.score(sample.prompt.ids, stream.tokens, before))
        if completion is None:
            if stream.stopped:
                arm.batch.cancel(update.ticket)  # the next visit reports its ending
            if text or scores:
                sample.deliver(Piece(text, len(stream.tokens), scores))
            return
        del arm.samples[update.ticket]
        reason = "stop" if stream.stopped else _REASONS[completion.finish_reason]
        record = completion.record if completion.target_calls else None
        self._end(sample, Ending(reason, record, name), text, scores)

    def _end(
        self, sample: Sample, ending: Ending, text: str = "", scores: tuple[TokenScore, ...] = ()
    ) -> None:
        sample.ending, sample.ended = ending, time.perf_counter()
        try:
            self.on_end(sample)
        finally:
            sample.deliver(Piece(text, len(sample.stream.tokens), scores, ending))

    def _fail(self, name: str, arm: _Arm) -> None:
        """Ends all samples of a batch that raised, and resets it."""
        news(f"decoding with {name} failed:\n{traceback.format_exc()}")
        for sample in list(arm.samples.values()):
            self._end(sample, Ending("error", draft=name))
        arm.samples.clear()
        arm.batch.reset()

    def _count(self) -> None:
        batches = [arm.batch for arm in self._arms.values()]
        self.loads = (sum(one.running for one in batches), sum(one.waiting for one in batches))
