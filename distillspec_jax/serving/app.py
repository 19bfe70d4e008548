"""The HTTP routes: OpenAI's two, the list of models, health, readiness and metrics."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from distillspec_jax import files
from distillspec_jax.errors import UsageError
from distillspec_jax.serving import answers, requests
from distillspec_jax.serving.access import Access
from distillspec_jax.serving.answers import Choice
from distillspec_jax.serving.requests import Asked, ModelNotFound
from distillspec_jax.serving.sample import Piece
from distillspec_jax.serving.service import Busy, Job, Service

_BODY_SECONDS = 30.0
"""Time limit for a client to send its request."""

_KINDS = {401: "authentication_error", 404: "invalid_request_error", 429: "rate_limit_error"}
_FAILURES = {
    "failed": (500, "the model's logits were not finite"),
    "error": (500, "the server failed at this request; its log says how"),
    "cancelled": (503, "the server is stopping"),
}

Handler = Callable[[Request], Awaitable[Response]]


def make(service: Service, access: Access, most_body_bytes: int, lifespan: Any = None) -> Starlette:
    """Makes the application.

    Args:
      service: the served model.
      access: access control of `/v1`.
      most_body_bytes: maximum size of a request.
      lifespan: see Starlette.
    """

    def guarded(handler: Handler) -> Handler:
        async def handle(request: Request) -> Response:
            if not access.lets_in(request.headers.get("authorization")):
                return _refusal(service, 401, "no token, or an unknown one: send Authorization: Bearer TOKEN")
            return await handler(request)

        return handle

    def completions(chat: bool) -> Handler:
        async def handle(request: Request) -> Response:
            return await _complete(service, request, chat, most_body_bytes)

        return guarded(handle)

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model(service)]})

    async def one_model(request: Request) -> Response:
        name = request.path_params["name"]
        if name != service.model_name:
            return _refusal(service, 404, f"model {name!r} is not served here", "model_not_found")
        return JSONResponse(_model(service))

    async def health(_: Request) -> Response:
        return PlainTextResponse(
            "ok\n" if service.alive else "the decoding thread has ended\n", 200 if service.alive else 500
        )

    async def ready(_: Request) -> Response:
        return PlainTextResponse("ready\n" if service.ready else "not yet\n", 200 if service.ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _refusal(service, error.status_code, error.detail)

    return Starlette(
        routes=[
            Route("/v1/completions", completions(chat=False), methods=["POST"]),
            Route("/v1/chat/completions", completions(chat=True), methods=["POST"]),
            Route("/v1/models", guarded(models)),
            Route("/v1/models/{name:path}", guarded(one_model)),
            Route("/health", health),
            Route("/ready", ready),
            Route("/metrics", metrics),
        ],
        exception_handlers={HTTPException: refused},
        lifespan=lifespan,
    )


def _model(service: Service) -> dict[str, Any]:
    return {
        "id": service.model_name,
        "object": "model",
        "created": service.started,
        "owned_by": "distillspec_jax",
    }


def _refusal(
    service: Service, status: int, message: str, code: str | None = None, retry_after: float | None = None
) -> Response:
    service.metrics.refused(status)
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    headers = {} if retry_after is None else {"retry-after": str(max(1, math.ceil(retry_after)))}
    return JSONResponse(answers.error(message, kind, code), status, headers)


async def _complete(service: Service, request: Request, chat: bool, most_body_bytes: int) -> Response:
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            content = await _body(request, most_body_bytes)
    except TimeoutError:
        return _refusal(service, 408, f"the request did not come within {_BODY_SECONDS:.0f} seconds")
    except ClientDisconnect:
        return Response(status_code=499)  # the client is gone
    if content is None:
        return _refusal(service, 413, f"the request has more than {most_body_bytes:,} bytes")
    if not service.ready:
        return _refusal(service, 503, "the server is not ready", retry_after=5)
    try:
        asked = requests.read(_parsed(content), chat, service.model_name)
        pieces: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        job = await service.submit(asked, pieces)
    except ModelNotFound as error:
        return _refusal(service, 404, str(error), "model_not_found")
    except Busy as error:
        return _refusal(service, 429, str(error), retry_after=error.seconds)
    except UsageError as error:
        return _refusal(service, 400, str(error))
    if asked.stream:
        stream = _events(service, job, asked, pieces)
        return StreamingResponse(
            stream, media_type="text/event-stream", headers={"cache-control": "no-store"}
        )
    return await _whole(service, request, job, pieces)


async def _body(request: Request, most: int) -> bytes | None:
    """Reads the body; None if it is too large."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > most:
            return None
    return bytes(content)


def _parsed(content: bytes) -> Any:
    try:
        return files.parse_json(content.decode("utf-8"), "the request")
    except UnicodeDecodeError as error:
        raise UsageError(f"the request is no UTF-8 (byte {error.start})") from error


async def _whole(
    service: Service, request: Request, job: Job, pieces: asyncio.Queue[tuple[int, Piece]]
) -> Response:
    """Waits for all outputs, or until the client disconnects."""
    gathered = asyncio.ensure_future(_gather(job, pieces))
    left = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({gathered, left}, return_when=asyncio.FIRST_COMPLETED)
        if not gathered.done():
            return Response(status_code=499)  # the client is gone
        choices = gathered.result()
    finally:
        for task in (gathered, left):
            task.cancel()
        service.release(job)
    for one in choices:
        if one.ending is not None and one.ending.reason in _FAILURES:
            status, message = _FAILURES[one.ending.reason]
            return _refusal(service, status, message)
    return JSONResponse(job.answers.whole(choices), headers={"x-request-id": job.answers.identity})


async def _gather(job: Job, pieces: asyncio.Queue[tuple[int, Piece]]) -> Sequence[Choice]:
    choices = [Choice() for _ in job.samples]
    left = len(choices)
    while left:
        number, piece = await pieces.get()
        choices[number].add(piece)
        left -= piece.ending is not None
    return choices


async def _left(request: Request) -> None:
    """Returns when the client has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(
    service: Service, job: Job, asked: Asked, pieces: asyncio.Queue[tuple[int, Piece]]
) -> AsyncIterator[bytes]:
    """Yields server-sent events; a client's disconnect ends the generator, which cancels its outputs."""
    choices = [Choice() for _ in job.samples]
    left = len(choices)
    try:
        while left:
            number, piece = await pieces.get()
            choices[number].add(piece)
            if piece.ending is not None and piece.ending.reason in _FAILURES:
                _, message = _FAILURES[piece.ending.reason]
                yield _event(answers.error(message, "server_error"))
                return
            left -= piece.ending is not None
            for chunk in job.answers.chunks(number, piece):
                yield _event(chunk)
        if last := job.answers.last(choices):
            yield _event(last)
        yield answers.DONE
    finally:
        service.release(job)


def _event(found: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
