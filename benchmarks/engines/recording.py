"""An engine's server, started by the lines of `distillspec deploy`, asked, and scraped before and after."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from distillspec_jax.errors import UsageError
from distillspec_jax.interop.engines import registry

ANSWERS, SCRAPES, VERSION, TOKENS = "answers.jsonl", "scrapes.txt", "version.txt", "tokens.json"
"""Files of a recording: answers in the order of the requests, all of /metrics before and after, what the
engine says that it is, and the prompts with the ids of their answers."""


@dataclasses.dataclass(frozen=True)
class Serving:
    """How an engine is recorded.

    Attributes:
      engine: `deploy`'s name of it.
      flags: words that its server gets beyond `deploy`'s.
      version: the route that tells its version, and the field.
      route, body: of a request for a greedy text, from ids of a prompt and a limit of tokens.
      tokens: ids in an answer.
      others: routes and bodies of further requests, in other forms: for what they hold, not for their texts.
      trimmed: an answer without what no reader needs, to be kept as a fixture.
      room: see `replay.replayed`.
    """

    engine: str
    flags: Sequence[str]
    version: tuple[str, str]
    route: str
    body: Callable[[Sequence[int], int], dict[str, Any]]
    tokens: Callable[[Mapping[str, Any]], list[int]]
    others: Sequence[tuple[str, dict[str, Any]]]
    trimmed: Callable[[dict[str, Any]], dict[str, Any]]
    room: bool


def deployed(
    serving: Serving, target: str, draft: str, block_size: int, folder: Path, **options: Any
) -> list[str]:
    """Runs the conversions that `deploy` prints, if their outputs are not there; returns its last line.

    Raises:
      UsageError: the engine would refuse the pair.
      CalledProcessError: a conversion failed.
    """
    recipe = registry.recipe(
        serving.engine, target, draft, block_size=block_size, exported=str(folder / "exported"), **options
    )
    *conversions, serve = map(shlex.split, recipe.commands)
    for line in conversions:
        output = next(word.removeprefix("--output=") for word in line if word.startswith("--output="))
        if not Path(output).exists():
            subprocess.run([sys.executable, "-m", "distillspec_jax.cli.main", *line[1:]], check=True)
    return serve


@contextlib.contextmanager
def server(
    serving: Serving, binary: str, line: Sequence[str], log: Path, patience: float = 900.0
) -> Iterator[str]:
    """Starts `deploy`'s line with a binary in the place of its first word, until it is ready; yields its URL.

    Args:
      log: a file for what the server says.
      patience: seconds until it must be ready.

    Raises:
      UsageError: there is no such program.
      RuntimeError: it ended, or was not ready in time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [*shlex.split(binary), *line[1:], *serving.flags, "--host", "127.0.0.1", "--port", str(port)]
    print(shlex.join(command), file=sys.stderr)
    with log.open("w") as said:
        try:
            process = subprocess.Popen(
                command,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # it may have processes of its own
            )
        except OSError as error:
            raise UsageError(f"--server={binary}: {error.strerror}") from error
    try:
        until = time.monotonic() + patience
        while not _is_ready(url):
            if process.poll() is not None:
                raise RuntimeError(f"{binary} ended with status {process.returncode}: see {log}")
            if time.monotonic() > until:
                raise RuntimeError(f"{binary}: not ready after {patience:.0f} seconds: see {log}")
            time.sleep(1)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _fetched(url: str, body: dict[str, Any] | None = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=900) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{url}: {error.code}: {error.read().decode()[:500]}") from error


@dataclasses.dataclass(frozen=True)
class Texts:
    """What was asked and answered, in ids.

    Attributes:
      prompts, answers: in the order of the requests.
      limit: of tokens, for which was asked.
    """

    prompts: list[list[int]]
    answers: list[list[int]]
    limit: int

    @classmethod
    def read(cls, folder: Path) -> Texts:
        """Reads those of a recording.

        Raises:
          UsageError: there is none.
        """
        path = folder / TOKENS
        if not path.is_file():
            raise UsageError(f"{folder} has no recording: {TOKENS} is not there; record one first")
        return cls(**json.loads(path.read_text()))


def record(
    serving: Serving, url: str, prompts: Sequence[Sequence[int]], limit: int, clients: int, folder: Path
) -> None:
    """Asks for every prompt, and writes the recording."""
    scrape = [_scrape(url)]

    def ask(request: tuple[str, dict[str, Any]]) -> dict[str, Any]:
        route, body = request
        answer: dict[str, Any] = json.loads(_fetched(url + route, body))
        return answer

    requests = [(serving.route, serving.body(prompt, limit)) for prompt in prompts]
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(ask, [*requests, *serving.others]))
    scrape.append(_scrape(url))
    (folder / ANSWERS).write_text("".join(json.dumps(serving.trimmed(one)) + "\n" for one in answers))
    (folder / SCRAPES).write_text("".join(scrape))
    (folder / VERSION).write_text(f"{serving.engine} {version(serving, url)}\n")
    texts = Texts(
        [list(prompt) for prompt in prompts], list(map(serving.tokens, answers[: len(prompts)])), limit
    )
    (folder / TOKENS).write_text(json.dumps(dataclasses.asdict(texts)) + "\n")


def _scrape(url: str) -> str:
    return f"# scraped_at {time.time():.0f}\n{_fetched(f'{url}/metrics')}"


def version(serving: Serving, url: str) -> str:
    """What a running server says that it is."""
    route, field = serving.version
    return str(json.loads(_fetched(url + route))[field])
