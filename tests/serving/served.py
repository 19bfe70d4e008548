"""A server of the tiny pair on a free port of this machine, in a thread of the test process."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

import uvicorn

from distillspec_jax.decoding import drafter_registry
from distillspec_jax.decoding.online import OnlineBatch
from distillspec_jax.generation.prompt_format import prompt_format
from distillspec_jax.serving import app
from distillspec_jax.serving.access import Access
from distillspec_jax.serving.batches import BatchMaker, BatchSettings
from distillspec_jax.serving.request_log import RequestLog
from distillspec_jax.serving.routing import Route
from distillspec_jax.serving.service import Limits, Service
from distillspec_jax.serving.worker import Worker
from tests import pair

SLOTS, PROMPT_TOKENS, NEW_TOKENS = 2, 32, 8
SETTINGS = BatchSettings(
    slots=SLOTS, prompt_tokens=PROMPT_TOKENS, new_tokens=NEW_TOKENS, rounds_per_visit=1, block_size=2
)


@dataclasses.dataclass(frozen=True)
class Served:
    """The address of a server, and what is behind it."""

    url: str
    service: Service
    maker: BatchMaker


def maker() -> BatchMaker:
    return BatchMaker(pair.target(), prompt_format(pair.target()), SETTINGS)


def batch(made: BatchMaker) -> OnlineBatch:
    """A batch with the tiny draft, which no folder holds."""
    with mock.patch.object(drafter_registry, "load", return_value=pair.draft()):
        return made.batch(["draft"])


@contextlib.contextmanager
def serving(
    made: BatchMaker,
    batches: dict[str, OnlineBatch],
    route: Route,
    *,
    outputs: int = 64,
    tokens_file: str | None = None,
    log: RequestLog | None = None,
    most_body_bytes: int = 4096,
) -> Iterator[Served]:
    """Serves until the context ends."""
    worker = Worker(batches, route, made.scorer())
    limits = Limits(PROMPT_TOKENS, NEW_TOKENS, outputs)
    service = Service(worker, prompt_format(pair.target()), None, limits, log, "tiny")

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> Any:
        service.begin()
        begun.set()
        yield

    begun = threading.Event()
    made_app = app.make(service, Access(tokens_file), most_body_bytes, lifespan)
    config = uvicorn.Config(made_app, log_level="warning", lifespan="on", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]  # they are the main thread's
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
        thread.start()
        assert begun.wait(60)
        try:
            yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}", service, made)
        finally:
            server.should_exit = True
            thread.join(30)
            worker.close()
            worker.join(30)
