"""Follows a registry: loads newly named drafts next to the old ones, then switches to them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from distillspec_jax.decoding.online import OnlineBatch
from distillspec_jax.errors import UsageError
from distillspec_jax.operations.draft_registry import DraftRegistry
from distillspec_jax.operations.transitions import ServingState
from distillspec_jax.serving.routing import Route
from distillspec_jax.serving.worker import Worker
from distillspec_jax.terminal import news

_LONGEST = 60.0
"""The most seconds between two attempts to load a version."""


def route_of(state: ServingState) -> Route:
    """Returns the route for a registry's state."""
    return Route(state.stable, state.candidate, state.share, state.revision)


class Follower(threading.Thread):
    """Polls a registry every second and updates the drafts that a worker serves.

    A version that cannot be loaded changes nothing: the old drafts keep serving, and the log says why. It is
    tried again after 2, 4, 8, ... and at most 60 seconds, and at once when the registry has changed.

    Args:
      registry: to follow.
      worker: to update.
      batch: makes a warm batch of a version.
      batches: the worker's current batches.
      revision: of the state that it already serves.
      on_change: called with `done` or `failed`.
      seconds: between two polls.
      clock: in seconds.
    """

    def __init__(
        self,
        registry: DraftRegistry,
        worker: Worker,
        batch: Callable[[str], OnlineBatch],
        batches: Mapping[str, OnlineBatch],
        revision: int,
        on_change: Callable[[str], None],
        seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name="registry", daemon=True)
        self._registry, self._worker, self._batch = registry, worker, batch
        self._batches = dict(batches)
        self._revision, self._on_change, self._seconds = revision, on_change, seconds
        self._closed = threading.Event()
        self._clock, self._said = clock, ""
        self._failures, self._failed, self._retry_at = 0, revision, 0.0

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()

    def run(self) -> None:
        """Polls until closed."""
        while not self._closed.wait(self._seconds):
            self.look()

    def look(self) -> None:
        """Applies the registry's state, if it is new."""
        try:
            state = self._registry.state()
            if state.revision == self._revision:
                return
            if state.revision != self._failed:
                self._failures, self._failed = 0, state.revision
            elif self._failures and self._clock() < self._retry_at:
                return  # loading and checking take the decoding thread's time
            route = route_of(state)
            wanted = {route.stable, *filter(None, [route.candidate])}
            self._failures += 1  # until it is loaded
            batches = {name: self._batches.get(name) or self._batch(name) for name in sorted(wanted)}
        except UsageError as error:
            self._fail(str(error))
            return
        except Exception as error:  # a full device or a missing file must not end the thread
            self._fail(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
            return
        self._worker.serve(route, batches)
        self._batches = batches
        self._revision, self._said, self._failures = state.revision, "", 0
        self._on_change("done")
        share = f", {route.candidate} for {route.share:.0%} of requests" if route.candidate else ""
        news(f"revision {state.revision}: {route.stable} serves{share}")

    def _fail(self, message: str) -> None:
        """Logs once why the registry's state is not served; a later poll tries again."""
        self._retry_at = self._clock() + min(_LONGEST, 2.0 ** min(self._failures, 6))
        if message != self._said:
            self._said = message
            self._on_change("failed")
            news(f"the registry's drafts are not served: {message}; going on as before")
