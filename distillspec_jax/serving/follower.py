"""Follows a registry: drafts that it newly names are loaded beside the old, and take over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from distillspec_jax.decoding.online import OnlineBatch
from distillspec_jax.errors import UsageError
from distillspec_jax.operations.draft_registry import DraftRegistry
from distillspec_jax.operations.transitions import ServingState
from distillspec_jax.serving.routing import Route
from distillspec_jax.serving.worker import Worker
from distillspec_jax.terminal import news


def route_of(state: ServingState) -> Route:
    """The route that a registry's state asks for."""
    return Route(state.stable, state.candidate, state.share, state.revision)


class Follower(threading.Thread):
    """Asks a registry every second, and changes what a worker serves.

    A version that cannot be loaded changes nothing: what served before goes on, and the log says why.

    Args:
      registry: to follow.
      worker: to change.
      batch: makes a warm batch of a version.
      batches: those that the worker has.
      revision: of the state that it serves already.
      on_change: called with `done` or `failed`.
      seconds: between two looks.
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
    ) -> None:
        super().__init__(name="registry", daemon=True)
        self._registry, self._worker, self._batch = registry, worker, batch
        self._batches = dict(batches)
        self._revision, self._on_change, self._seconds = revision, on_change, seconds
        self._closed = threading.Event()
        self._said = ""

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()

    def run(self) -> None:
        """The thread's work."""
        while not self._closed.wait(self._seconds):
            self.look()

    def look(self) -> None:
        """Takes over what the registry says, if it is new."""
        try:
            state = self._registry.state()
            if state.revision == self._revision:
                return
            route = route_of(state)
            wanted = {route.stable, *filter(None, [route.candidate])}
            batches = {name: self._batches.get(name) or self._batch(name) for name in sorted(wanted)}
        except UsageError as error:
            self._fail(str(error))
            return
        except Exception as error:  # no room on the device, a file that went away: never the thread's end
            self._fail(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
            return
        self._worker.serve(route, batches)
        self._batches = batches
        self._revision, self._said = state.revision, ""
        self._on_change("done")
        share = f", {route.candidate} for {route.share:.0%} of requests" if route.candidate else ""
        news(f"revision {state.revision}: {route.stable} serves{share}")

    def _fail(self, message: str) -> None:
        """Says once why the state of a registry is not served; the next look tries again."""
        if message != self._said:
            self._said = message
            self._on_change("failed")
            news(f"the registry's drafts are not served: {message}; going on as before")
