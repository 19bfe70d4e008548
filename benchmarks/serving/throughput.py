"""`python -m benchmarks.serving.throughput`: tokens per second of `serve`, beside offline decoding.

The same prompts, the same pair, eight slots: `TextGenerator.stream` in this process, then eight clients that
ask one after another, in turns; the median of the turns' ratios counts. At temperature 0 the texts are
compared, and at temperature 1 each with the same seed. The processor's time is told apart: of offline
decoding, the server's decoding threads, its thread that speaks HTTP, and the clients.
"""

from __future__ import annotations

import argparse
import itertools
import json
import queue
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import distillspec_jax as ds
from benchmarks.serving import clients
from distillspec_jax.data.examples import examples
from distillspec_jax.generation.text_generator import TextGenerator
from distillspec_jax.models import zoo_manifest

SLOTS = 8
MOST_PROMPT_TOKENS = 192
"""Longer prompts are left out: some tasks cut them, and a server refuses them."""


def offline(
    generator: TextGenerator, texts: Sequence[str], temperature: float, limit: int
) -> tuple[float, list[str], int]:
    """Seconds, texts and tokens of offline decoding; each prompt has number 0, as in a request of its own."""
    began = time.perf_counter()
    found = list(
        generator.stream(
            texts, temperature=temperature, max_new_tokens=limit, seed=5, numbers=[0] * len(texts)
        )
    )
    return (
        time.perf_counter() - began,
        [one.outputs for one in found],
        sum(one.emitted_tokens for one in found),
    )


def served(url: str, texts: Sequence[str], temperature: float, limit: int) -> tuple[float, list[str], int]:
    """Seconds, texts and tokens of as many clients as there are slots."""
    answers: dict[int, dict[str, Any]] = {}
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(texts)):
        waiting.put(number)

    def work() -> None:
        client = clients.Client(url)
        while True:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                client.close()
                return
            status, answer = client.ask(
                {"prompt": texts[number], "temperature": temperature, "max_tokens": limit, "seed": 5}
            )
            assert status == 200, answer
            answers[number] = answer

    threads = [threading.Thread(target=work) for _ in range(SLOTS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    found = [answers[number] for number in range(len(texts))]
    tokens = sum(answer["usage"]["completion_tokens"] for answer in found)
    return seconds, [answer["choices"][0]["text"] for answer in found], tokens


def spent_so_far(server: Path) -> tuple[float, float, float]:
    """Processor seconds of this process, and of a server's HTTP and decoding threads."""
    return (time.process_time(), *clients.processor_seconds(server))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.throughput", description=__doc__)
    parser.add_argument("--target", default="zoo:wiki_leads/target")
    parser.add_argument("--draft", default="zoo:wiki_leads/distilled")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--max_new_tokens", type=int, default=96)
    parser.add_argument("--block_size", type=int, default=5)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--temperature", type=float, action="append", help="repeatable (default: 0 and 1)")
    parser.add_argument("--serve_flag", action="append", default=[], help="a flag of serve, as it is")
    parser.add_argument("--json", metavar="FILE")
    flags = parser.parse_args(argv)
    task = zoo_manifest.task_of(flags.target) or "wiki_leads"
    rows_of_task = [row for row in examples(task, split="test") if len(row.prompt) < MOST_PROMPT_TOKENS]
    texts = [row.inputs_text for row in rows_of_task][: flags.prompts]
    limit = flags.max_new_tokens
    generator = TextGenerator(
        ds.load(flags.target), ds.load(flags.draft), block_size=flags.block_size, batch_size=SLOTS
    )
    serve = [
        f"--model={flags.target}", f"--drafter={flags.draft}", f"--block_size={flags.block_size}",
        f"--batch_size={SLOTS}", f"--max_prompt_tokens={MOST_PROMPT_TOKENS}",
        f"--max_new_tokens={limit}", *flags.serve_flag,
    ]  # fmt: skip
    rows = []
    with clients.server(serve) as url:
        process = clients.process_of(url)
        for temperature in flags.temperature or (0.0, 1.0):
            turns, spent = [], []
            for turn in range(flags.turns + 1):
                at = [spent_so_far(process)]
                here = offline(generator, texts, temperature, limit)
                at.append(spent_so_far(process))
                there = served(url, texts, temperature, limit)
                at.append(spent_so_far(process))
                if turn:  # the first warms up
                    turns.append((here, there))
                    alone, both = (
                        [b - a for a, b in zip(*pair, strict=True)] for pair in itertools.pairwise(at)
                    )
                    spent.append(
                        {"offline": alone[0], "clients": both[0], "http": both[1], "decoding": both[2]}
                    )
            equal = sum(a == b for here, there in turns for a, b in zip(here[1], there[1], strict=True))
            ratios = [there[2] / there[0] / (here[2] / here[0]) for here, there in turns]
            rows.append(
                {
                    "temperature": temperature,
                    "prompts": len(texts),
                    "equal_texts": equal / len(turns) / len(texts),
                    "offline_tokens_per_s": statistics.median(here[2] / here[0] for here, _ in turns),
                    "served_tokens_per_s": statistics.median(there[2] / there[0] for _, there in turns),
                    "ratio": statistics.median(ratios),
                    "ratios": ratios,
                    "processor_ms_per_token": {
                        name: 1e3 * statistics.median(one[name] for one in spent) / turns[0][0][2]
                        for name in spent[0]
                    },
                }
            )
            print(json.dumps(rows[-1]))
    if flags.json:
        Path(flags.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
