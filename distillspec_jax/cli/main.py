"""The console script: finds the command and hands over.

Each command is a module of this package with `main(argv) -> int`, imported only when it is called, so that
`--help` answers at once. `python -m distillspec_jax.cli.X` runs a command's module directly.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys

from distillspec_jax.cli import allocation, errors
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.version import __version__

COMMANDS = {
    "demo": "end-to-end run on embedded data: distil a draft, measure before and after, write a report",
    "finetune": "supervised training of a target or a draft",
    "distill": "distil a draft from a target, with any divergence and data source",
    "prompts": "let an instruct model write prompts, if you have none",
    "collect": "generate a target's texts, optionally with top-k log-probabilities, to distil from",
    "dryrun": "what a training step costs on a mesh, without weights: parameters, FLOPs, bytes per device",
    "generate": "JSONL in, JSONL out, with any drafter, block size and sampling parameters",
    "evaluate": "held-out loss, perplexity and task quality of models",
    "serve": "an HTTP server with OpenAI's completions API, for pairs that no other engine supports",
    "sweep": "measure block size × temperature, paired with autoregressive decoding; writes results.jsonl",
    "merge": "combine the shards of a run of collect, generate, sweep or evaluate",
    "report": "tables, plots and one HTML page from any number of results.jsonl files",
    "advise": "measure costs and acceptance here; recommend a block size, or none if drafting does not pay",
    "check": "verify that the counts of results and outputs agree; exits 1 if some do not",
    "power": "how many prompts a comparison needs, from the spread of a pilot's results",
    "watch": "monitor acceptance in service against a reference; exits 1 on a drop, 3 if it cannot tell",
    "pilot": "estimate whether training a draft on your prompts would pay; writes a one-page report",
    "redistill": "distil the draft in service again on recent prompts, behind a gate",
    "registry": "versions of a draft: which one serves, its lineage, promote and roll back",
    "rollout": "roll out a version in stages, and withdraw it if it is worse; exits 1, 3, 4",
    "convert": "T5X, Hugging Face and GGUF checkpoints in, Hugging Face folders and GGUF files out",
    "deploy": "how to serve a pair with vLLM, llama.cpp, SGLang, transformers or OpenVINO, or why not",
    "draft": "make a draft from some of its target's layers; estimate its cost and gain",
    "zoo": "list the shipped models",
}

SHARED = ("collect", "evaluate", "generate", "sweep")
"""Commands that several hosts share without knowing of each other, see `shards`."""

JOINING = ("distill", "finetune")
"""Commands that several hosts run together, over one mesh. All others run on the host that calls them."""

USAGE = """usage: distillspec COMMAND [flags]

{commands}

`distillspec COMMAND --help` shows a command's flags. Exit status: 0 done, 2 bad input, 1 and 3 from
`watch` (acceptance too low; cannot be judged), 1 from `check` (counts that disagree), 1 and 3 from
`redistill` (refused; cannot be judged), 1 and 3 from `pilot` (no-go; not enough data), 1, 3 and 4 from
`rollout` (withdrawn; waiting; a person must decide), 75 from `finetune`, `distill`, `redistill`, `pilot`,
`demo` and `zoo --build` (preempted; run the same command to resume), from `collect`, `generate`, `sweep`,
`evaluate` and `merge` (stopped by SIGTERM), and from any command whose store does not answer or whose output
another process is writing.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs `distillspec COMMAND ...`; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else errors.USAGE
    if arguments[0] in ("-V", "--version"):
        print(f"distillspec_jax {__version__}")
        return 0
    command, *rest = arguments
    if argv is None:  # this is the program, not a call from Python
        allocation.keep_buffers(command, rest)
    return errors.run(lambda flags: _dispatch(command, flags), rest, command=command)


def usage() -> str:
    """The text of `distillspec --help`."""
    width = max(map(len, COMMANDS))
    return USAGE.format(commands="\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()))


def _dispatch(command: str, flags: list[str]) -> int:
    if command not in COMMANDS:
        raise UsageError(f"unknown command {command!r}: {nearest(command, COMMANDS)}")
    wants_help = any(flag in ("-h", "--help") for flag in flags)
    if os.environ.get("DISTILLSPEC_MULTIHOST") and not wants_help:
        _meet_hosts(command, flags)
    with contextlib.ExitStack() as stack:
        if command in (*SHARED, "merge") and not wants_help:
            from distillspec_jax.training.preemption import ended_by_sigterm

            # A container's first process gets no signal that it does not handle.
            stack.enter_context(ended_by_sigterm())
        module = importlib.import_module(f"distillspec_jax.cli.{command}")
        status: int = module.main(flags)
    return status


def _meet_hosts(command: str, flags: list[str]) -> None:
    """Joins the other hosts of a job if the command is one that they run together."""
    from distillspec_jax import shards

    if not shards.several_hosts():
        return
    if command in JOINING:
        from distillspec_jax.cli import distributed

        distributed.join()
    elif command in SHARED and not any(flag.lstrip("-").startswith(("shard", "gin.SHARD")) for flag in flags):
        raise UsageError(
            f"{command}: DISTILLSPEC_MULTIHOST is set, and every host would do all of it: add "
            "--shard=auto for a share a host, and `distillspec merge` at the end"
        )


if __name__ == "__main__":
    sys.exit(main())
