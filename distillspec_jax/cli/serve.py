"""`distillspec serve`: an HTTP server with OpenAI's completions, for pairs that no other engine takes."""

from __future__ import annotations

import sys

from distillspec_jax import bounds
from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import (
    COMPILATION_CACHE_HELP,
    DRAFTER_HELP,
    DTYPE_HELP,
    RULE_HELP,
    CommandParser,
)
from distillspec_jax.decoding import named_drafters
from distillspec_jax.errors import UsageError
from distillspec_jax.terminal import news

HELP = """Serves a target and its draft over HTTP: OpenAI's /v1/completions and /v1/chat/completions (streams,
n, seed, stop, logprobs, temperature, top_p, and top_k), /v1/models, /health, /ready, /metrics. Requests join
the running batch as they arrive. Needs pip install -e '.[serve]'.

  distillspec serve --model=zoo:wiki_leads/target --drafter=zoo:wiki_leads/distilled --log=served.jsonl
  curl -s localhost:8000/v1/completions -d '{"prompt": "Rivers of Europe", "temperature": 0}'

With --registry=DIR the server takes its drafts from a registry and polls it: a version that is promoted or
rolled out takes over while the server runs. docs/serve.md has the details.
"""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("serve", HELP, gin_sets_flags=True, may_be_empty=("prefix",))
    add = parser.add_argument
    add("--model", required=True, metavar="MODEL", help="the target: a checkpoint directory or zoo:NAME")
    add("--drafter", action="append", default=[], metavar="MODEL", help=f"{DRAFTER_HELP}; repeatable")
    add("--registry", metavar="DIR", help="serve the drafts of this registry, and follow its changes")
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, only this machine)")
    add("--port", type=int, default=8000, help="port; 0 is any free port (default: 8000)")
    add("--batch_size", type=int, default=8, help="outputs decoded together, per draft (default: 8)")
    add("--max_prompt_tokens", type=int, help="longest prompt (default: the model's, or 512)")
    add("--max_new_tokens", type=int, help="longest output with EOS (default: the model's target length)")
    add("--max_queue", type=int, default=64, help="outputs that may wait; beyond it: 429 (default: 64)")
    add("--max_body_bytes", type=int, default=1 << 20, help="largest request (default: 1048576)")
    add(
        "--block_size",
        metavar="N",
        help="drafted tokens per round, or auto (default: 5, or less if outputs are shorter)",
    )
    add("--rule", default="token", help=RULE_HELP)
    add("--epsilon", type=float, help="epsilon of the lenient rules, in (0, 1]; 1 (default) is lossless")
    add("--candidates", type=int, default=1, help="blocks drafted in parallel per prompt (default: 1)")
    add(
        "--rounds_per_visit",
        type=int,
        default=4,
        help="rounds between host visits, where requests join and text is sent (default: 4)",
    )
    add("--task", help="use this task's prefix and lengths")
    add("--prefix", help="use this prefix instead")
    add("--served_name", metavar="NAME", help="model name for clients (default: the value of --model)")
    add("--tokens_file", metavar="FILE", help="bearer tokens, one per line; without it the server is open")
    add("--log", metavar="FILE", help="append a line per output, in the format of generate; watch reads it")
    add(
        "--log_texts",
        action="store_true",
        help="log texts, too (of chats, those with one message): redistill needs the prompts",
    )
    add(
        "--grace_seconds",
        type=int,
        default=30,
        help="time for running requests when the server stops (default: 30)",
    )
    add("--dtype", help=DTYPE_HELP)
    add(
        "--num_partitions",
        type=int,
        metavar="N",
        help="use all devices, with the target split over N of them (default: one device)",
    )
    add("--assume_same_vocabulary", action="store_true", help="accept a pair with an unknown tokenizer")
    add("--compilation_cache", metavar="DIR", help=COMPILATION_CACHE_HELP)
    flags = parser.parse(argv)
    drafters = named_drafters.chosen(flags.drafter)
    if flags.registry is not None and flags.drafter:
        raise UsageError("--drafter and --registry: give the one or the other")
    if flags.log_texts and flags.log is None:
        raise UsageError("--log_texts needs --log")
    for name, least in (
        ("batch_size", 1), ("max_prompt_tokens", 1), ("max_new_tokens", 1), ("max_queue", 0),
        ("max_body_bytes", 1024), ("rounds_per_visit", 1), ("grace_seconds", 0),
    ):  # fmt: skip
        value = getattr(flags, name)
        if value is not None and value < least:
            raise UsageError(f"--{name}={value}: must be at least {least}")
        bounds.check_most(f"--{name}", value, bounds.ROWS if name == "batch_size" else bounds.COUNT)
    if not 0 <= flags.port < 1 << 16:
        raise UsageError(f"--port={flags.port}: must be from 0 to 65535")

    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(f"serve needs {error.name}: pip install 'distillspec_jax[serve]'") from error

    from distillspec_jax.cli import compilation
    from distillspec_jax.serving import server
    from distillspec_jax.serving.batches import BatchSettings

    compilation.keep(flags.compilation_cache)
    settings = server.ServerSettings(
        model=flags.model,
        drafter=drafters,
        registry=flags.registry,
        batches=BatchSettings(
            slots=flags.batch_size,
            prompt_tokens=flags.max_prompt_tokens or 0,
            new_tokens=flags.max_new_tokens or 0,
            rounds_per_visit=flags.rounds_per_visit,
            block_size=_number_or_auto(flags.block_size),
            rule=flags.rule,
            epsilon=flags.epsilon,
            candidates=flags.candidates,
            assume_same_vocabulary=flags.assume_same_vocabulary,
            dtype=flags.dtype,
        ),
        task=flags.task,
        prefix=flags.prefix,
        served_name=flags.served_name,
        max_queue=flags.max_queue,
        max_body_bytes=flags.max_body_bytes,
        tokens_file=flags.tokens_file,
        log=flags.log,
        log_texts=flags.log_texts,
        dtype=flags.dtype,
        num_partitions=flags.num_partitions,
        grace_seconds=flags.grace_seconds,
    )
    name = flags.served_name or flags.model
    server.run(settings, flags.host, flags.port, lambda address: news(f"serving {name} at {address}"))
    return 0


def _number_or_auto(value: str | None) -> int | str | None:
    if value is None or value == "auto":
        return value
    if not (value.isdecimal() and len(value) < 10 and 1 <= int(value) <= bounds.BLOCK_SIZE):
        raise UsageError(f"--block_size={value}: must be from 1 to {bounds.BLOCK_SIZE}, or auto")
    return int(value)


if __name__ == "__main__":
    sys.exit(errors.run(main, command="serve"))
