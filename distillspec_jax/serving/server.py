"""Runs a server from settings to shutdown: loads models, compiles programs, serves requests."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence

import uvicorn
from starlette.applications import Starlette

from distillspec_jax.decoding.online import OnlineBatch
from distillspec_jax.errors import UsageError
from distillspec_jax.generation.pairing import fitting_block_size
from distillspec_jax.generation.prompt_format import PromptFormat, prompt_format
from distillspec_jax.models import pretrained
from distillspec_jax.operations.draft_registry import DraftRegistry
from distillspec_jax.partitioning import make_partitioner
from distillspec_jax.serving import app
from distillspec_jax.serving.access import Access
from distillspec_jax.serving.batches import BatchMaker, BatchSettings
from distillspec_jax.serving.follower import Follower, route_of
from distillspec_jax.serving.request_log import RequestLog
from distillspec_jax.serving.routing import Route
from distillspec_jax.serving.service import Limits, Service
from distillspec_jax.serving.worker import Worker

_NO_DRAFT = "none"
_PROMPT_TOKENS = 512
"""The maximum prompt length of a model that does not define one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Settings of a server: models, access and limits.

    Attributes:
      model: the target, a directory or `zoo:NAME`.
      drafter: draft models, or names of drafters without a model; several propose blocks in parallel.
      registry: follow the drafts of this registry instead.
      batches: see `BatchSettings`; prompt_tokens and new_tokens of 0 mean the model's own lengths, a
        block_size of None means 5, or less if outputs are shorter.
      task, prefix: see `prompt_format`. If the target has a chat template, it always serves
        `/v1/chat/completions`.
      served_name: the model's name for clients; default: its own.
      max_queue: maximum number of outputs that wait for a slot; more are refused with 429.
      max_body_bytes: maximum size of a request.
      tokens_file: file of bearer tokens; None: every request is accepted.
      log, log_texts: see `RequestLog`.
      dtype: of models whose name gives none.
      num_partitions: use all devices, with the target split over this many; default: one device.
      grace_seconds: time for running requests to finish when the server stops.
    """

    model: str
    drafter: Sequence[str] = ()
    registry: str | None = None
    batches: BatchSettings
    task: str | None = None
    prefix: str | None = None
    served_name: str | None = None
    max_queue: int = 64
    max_body_bytes: int = 1 << 20
    tokens_file: str | None = None
    log: str | None = None
    log_texts: bool = False
    dtype: str | None = None
    num_partitions: int | None = None
    grace_seconds: int = 30


def run(
    settings: ServerSettings,
    host: str = "127.0.0.1",
    port: int = 8000,
    on_ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Serves until stopped (SIGINT, SIGTERM); must be called from the main thread.

    Args:
      host, port: address to listen at; port 0 picks a free one.
      on_ready: called with the address once requests are accepted.

    Raises:
      UsageError: a setting, model, draft or address is invalid.
    """
    listening = _listening(host, port)
    with contextlib.closing(listening), contextlib.ExitStack() as stack:
        access = Access(settings.tokens_file)
        wanted = settings.batches
        rule = wanted.rule if wanted.epsilon is None else f"{wanted.rule}:{wanted.epsilon:g}"
        log = (
            stack.enter_context(RequestLog(settings.log, settings.log_texts, rule)) if settings.log else None
        )
        service, follower = _service(settings, log)
        address = f"http://{_shown(listening)}"

        @contextlib.asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            service.begin()
            if follower is not None:
                follower.start()
            on_ready(address)
            yield
            service.accepting = False

        made = app.make(service, access, settings.max_body_bytes, lifespan)
        config = uvicorn.Config(
            made,
            lifespan="on",
            log_level="error",  # a line per malformed request would let anyone fill the log
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=settings.grace_seconds,
        )
        # uvicorn shuts down gracefully and then raises the signal again for the previous handler.
        signal.signal(signal.SIGTERM, lambda *_: None)
        uvicorn.Server(config).run(sockets=[listening])
        if follower is not None:
            follower.close()
        service.worker.close()
        service.worker.join(timeout=settings.grace_seconds)


def _service(settings: ServerSettings, log: RequestLog | None) -> tuple[Service, Follower | None]:
    registry = None if settings.registry is None else DraftRegistry(settings.registry)
    state = None if registry is None else registry.state()
    partitioner = None if settings.num_partitions is None else make_partitioner(settings.num_partitions)
    target = pretrained.load(settings.model, partitioner=partitioner, dtype=settings.dtype)
    form = prompt_format(target, task=settings.task, prefix=settings.prefix)
    batches = _with_lengths(settings.batches, form)
    chat = dataclasses.replace(prompt_format(target, chat=True), prefix="") if target.card.chat else None
    maker = BatchMaker(target, form, batches, partitioner)

    def version(name: str) -> OnlineBatch:
        assert registry is not None
        registry.check(name)
        return maker.batch([str(registry.path_of(name))])

    made: dict[str, OnlineBatch] = {}
    if state is None:
        route = Route("+".join(settings.drafter) or _NO_DRAFT)
        made[route.stable] = maker.batch(settings.drafter)
    else:
        route = route_of(state)
        made |= {name: version(name) for name in (route.stable, route.candidate) if name is not None}
    worker = Worker(made, route, maker.scorer())
    limits = Limits(batches.prompt_tokens, batches.new_tokens, batches.slots + settings.max_queue)
    service = Service(worker, form, chat, limits, log, settings.served_name or target.name)
    if registry is None or state is None:
        return service, None
    changed = service.metrics.changed_drafts
    return service, Follower(registry, worker, version, made, state.revision, changed)


def _with_lengths(settings: BatchSettings, form: PromptFormat) -> BatchSettings:
    """Fills in the model's own lengths where none are set, and a block size that fits the outputs.

    Raises:
      UsageError: the block is longer than any output.
    """
    longest = settings.new_tokens or form.max_new_tokens
    return dataclasses.replace(
        settings,
        prompt_tokens=settings.prompt_tokens or form.max_tokens or _PROMPT_TOKENS,
        new_tokens=longest,
        block_size=fitting_block_size(settings.block_size, longest),
    )


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(2048)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot listen at {host}:{port}: {why}; choose another --host or --port") from error
    return found


def _shown(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
