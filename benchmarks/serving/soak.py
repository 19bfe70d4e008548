"""`python -m benchmarks.serving.soak`: a server under hostile traffic, and what became of every request.

Clients ask, stream, leave in the middle, read slowly and send garbage, while a registry names another draft
every minute. Afterwards: every answer was whole and the one expected (greedy texts; sampled ones by their
seed), or an error in OpenAI's form; the counters are the sums of the log; memory did not grow.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import random
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import distillspec_jax as ds
from benchmarks.serving import clients
from distillspec_jax.cli import registry as registry_command
from distillspec_jax.data.examples import examples
from distillspec_jax.evaluation.engines import scrapes
from distillspec_jax.files import as_json
from distillspec_jax.generation.text_generator import TextGenerator

TARGET, TASK, LIMIT, BLOCK = "zoo:wiki_leads/target", "wiki_leads", 24, 5
DRAFTS = ("zoo:wiki_leads/distilled", "zoo:draft")
PROMPT_TOKENS, PROMPTS = 192, 40
GARBAGE = (
    b"",
    b"\x00\xff\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: 10\r\n\r\n{",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{]",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{}",
)


Case = tuple[str, float, int]
"""A prompt, a temperature and a seed."""


class Crowd:
    """Threads of clients, and what they saw.

    Args:
      url: of the server.
      expected: the right texts of every request.
      until: `time.monotonic()` at which they stop.
    """

    def __init__(self, url: str, expected: dict[Case, set[str]], until: float) -> None:
        self._url, self._expected, self._until = url, expected, until
        self._cases = list(expected)
        self._lock = threading.Lock()
        self.seen: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []

    def run(self, kinds: Sequence[str]) -> None:
        """Runs a thread of each kind until the time is up."""
        threads = [
            threading.Thread(target=self._work, args=(kind, number)) for number, kind in enumerate(kinds)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, kind: str, number: int) -> None:
        rng = random.Random(number)
        while time.monotonic() < self._until:
            case = rng.choice(self._cases)
            try:
                outcome = getattr(self, f"_{kind}")(case, rng)
            except Exception as error:
                outcome = f"{kind}: {type(error).__name__}: {error}"[:200]
                self.wrong.append(outcome)
            with self._lock:
                self.seen[outcome] += 1

    def _body(self, case: Case, **more: Any) -> dict[str, Any]:
        prompt, temperature, seed = case
        return {"prompt": prompt, "temperature": temperature, "seed": seed, "max_tokens": LIMIT, **more}

    def _asks(self, case: Case, rng: random.Random) -> str:
        with contextlib.closing(clients.Client(self._url)) as client:
            for _ in range(50):
                status, answer = client.ask(self._body(case))
                if status == 429:
                    time.sleep(0.05)
                    continue
                if status != 200:
                    raise AssertionError(f"{status} {answer}")
                if answer["choices"][0]["text"] not in self._expected[case]:
                    raise AssertionError(f"another text for {case}")
                return "whole answers, equal"
        return "refused with 429 fifty times"

    def _streams(self, case: Case, rng: random.Random, pause: float = 0.0) -> str:
        text, ended = "", False
        for chunk in self._chunks(case):
            time.sleep(pause)
            if chunk == "[DONE]":
                ended = True
            elif chunk is None:
                return "refused with 429"
            else:
                text += json.loads(chunk)["choices"][0]["text"]
        if not ended or text not in self._expected[case]:
            raise AssertionError(f"another stream for {case}")
        return "whole streams, equal"

    def _reads_slowly(self, case: Case, rng: random.Random) -> str:
        return self._streams(case, rng, pause=0.05)

    def _leaves(self, case: Case, rng: random.Random) -> str:
        for _ in self._chunks(case):
            if rng.random() < 0.5:
                break
        return "left in the middle"

    def _sends_garbage(self, case: Case, rng: random.Random) -> str:
        with self._raw() as raw, contextlib.suppress(ConnectionError):
            raw.sendall(rng.choice(GARBAGE))
            raw.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                raw.recv(1000)
        time.sleep(0.05)
        return "garbage sent"

    def _chunks(self, case: Case) -> Any:
        body = json.dumps(self._body(case, stream=True)).encode()
        with self._raw() as raw:
            raw.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                % len(body)
                + body
            )
            with raw.makefile("rb") as lines:
                if b" 429 " in lines.readline():
                    yield None
                    return
                for line in lines:
                    if line.startswith(b"data: "):
                        yield line[6:].strip().decode()

    def _raw(self) -> socket.socket:
        parts = urlsplit(self._url)
        return socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=60)


def expected_texts() -> dict[Case, set[str]]:
    """The right texts of the requests that are sent, by offline decoding.

    A text that is drawn depends on the draft that proposed its tokens: one of each draft. In a batch of
    prompts of other lengths sums are rounded otherwise than of one alone, and once in some thousand draws a
    rounding decides between tokens. A request whose text is not the same alone and in a batch is not sent.
    """
    rows = [row for row in examples(TASK, split="test") if len(row.prompt) < PROMPT_TOKENS][:PROMPTS]
    texts = [row.inputs_text for row in rows]
    found: dict[Case, set[str]] = collections.defaultdict(set)
    on_a_boundary = set()
    for draft in DRAFTS:
        one_by_one, together = (
            TextGenerator(ds.load(TARGET), ds.load(draft), block_size=BLOCK, batch_size=rows_together)
            for rows_together in (1, 8)
        )
        for temperature, seed in ((0.0, 0), (1.0, 1), (1.0, 2)):
            outputs = [
                generator.stream(
                    texts,
                    temperature=temperature,
                    max_new_tokens=LIMIT,
                    seed=seed,
                    numbers=[0] * len(texts),
                )
                for generator in (one_by_one, together)
            ]
            for text, alone, among in zip(texts, *outputs, strict=True):
                found[text, temperature, seed].add(alone.outputs)
                if alone.outputs != among.outputs:
                    on_a_boundary.add((text, temperature, seed))
    print(f"{len(on_a_boundary)} of {len(found)} requests have a draw that rounding decides: not sent")
    return {case: expected for case, expected in found.items() if case not in on_a_boundary}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--swap_seconds", type=float, default=60.0)
    parser.add_argument("--compilation_cache", metavar="DIR")
    parser.add_argument("--json", metavar="FILE")
    flags = parser.parse_args(argv)
    expected = expected_texts()
    with tempfile.TemporaryDirectory() as folder:
        drafts, log = f"{folder}/drafts", Path(folder) / "served.jsonl"
        command = ["--registry", drafts]
        registry_command.main(["init", *command, f"--draft={DRAFTS[0]}", f"--target={TARGET}"])
        registry_command.main(["add", *command, f"--draft={DRAFTS[1]}"])
        serve = [
            f"--model={TARGET}", f"--registry={drafts}", f"--max_new_tokens={LIMIT}", f"--block_size={BLOCK}",
            f"--log={log}", "--max_queue=16",
        ]  # fmt: skip
        if flags.compilation_cache:
            serve.append(f"--compilation_cache={flags.compilation_cache}")
        memory: list[float] = []
        swaps = 0
        with clients.server(serve) as url:
            until = time.monotonic() + 60 * flags.minutes
            crowd = Crowd(url, expected, until)
            kinds = ["asks"] * 8 + ["streams"] * 2 + ["reads_slowly"] * 2 + ["leaves"] * 2 + ["sends_garbage"]
            thread = threading.Thread(target=crowd.run, args=(kinds,))
            thread.start()
            while thread.is_alive():
                thread.join(flags.swap_seconds)
                memory.append(clients.memory_mb(clients.process_of(url)))
                if thread.is_alive():
                    swaps += 1
                    version = "v1" if swaps % 2 == 0 else "v2"
                    registry_command.main(["promote", version, *command])
            with contextlib.closing(clients.Client(url)) as client:
                while b'num_requests_running{model_name="%s"} 0.0' % TARGET.encode() not in (
                    text := client.get("/metrics")[1]
                ):
                    time.sleep(0.2)
        found = summary(crowd, text.decode(), log, memory, swaps, flags.minutes)
    print(json.dumps(found, indent=1))
    if flags.json:
        Path(flags.json).write_text(as_json(found, indent=1) + "\n", encoding="utf-8")
    return 1 if found["wrong"] or found["counters_off"] else 0


def summary(
    crowd: Crowd, metrics: str, log: Path, memory: Sequence[float], swaps: int, minutes: float
) -> dict[str, Any]:
    """Compares the counters with the log, and says what was seen."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    off = []
    for draft in sorted({line["draft_version"] for line in lines}):
        own = [line for line in lines if line["draft_version"] == draft]
        _, (scrape,) = scrapes.of_text(metrics.splitlines(), "metrics", draft)
        counted = {series.name: value for series, value in scrape.values.items() if series.position is None}
        for name in ("emitted_tokens", "target_calls", "tested", "accepted", "drafted"):
            if counted[name] != sum(line[name] for line in own):
                off.append(
                    f"{draft}: {name} is {counted[name]}, the log has {sum(line[name] for line in own)}"
                )
    return {
        "minutes": minutes,
        "requests": sum(crowd.seen.values()),
        "outputs_logged": len(lines),
        "drafts_changed": swaps,
        "seen": dict(crowd.seen),
        "wrong": crowd.wrong[:20],
        "counters_off": off,
        "memory_mb": [round(one) for one in memory],
    }


if __name__ == "__main__":
    sys.exit(main())
