"""The console script: finds the command and hands over.

Each command is a module of this package with `main(argv) -> int`, imported only when it is called, so that
`--help` answers at once. `python -m distillspec_jax.cli.X` runs a command's module directly.
"""

from __future__ import annotations

import importlib
import os
import sys

from distillspec_jax.cli import allocation, errors
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.version import __version__

COMMANDS = {
    "demo": "the whole story on embedded data: distil a draft, measure before and after, write a report",
    "finetune": "supervised training of a target or a draft",
    "distill": "distil a draft from a target: divergence × data source",
    "prompts": "prompts that an instruct model writes itself, where you have none",
    "collect": "write a target's texts, and if asked its top-k log-probabilities, to distil from",
    "dryrun": "what a train step would cost on a mesh: parameters, FLOPs, bytes per device; without weights",
    "generate": "JSONL in, JSONL out, with any drafter, block size and sampling parameters",
    "evaluate": "held-out loss, perplexity and task quality of models",
    "serve": "an HTTP server with OpenAI's completions, for pairs that no other engine takes",
    "sweep": "block size × temperature, paired against the autoregressive baseline; writes results.jsonl",
    "merge": "put the shards of a run of collect, generate, sweep or evaluate together",
    "report": "tables, plots and one HTML page from any number of results.jsonl",
    "advise": "measure costs and acceptance here; the best block size, or none if drafting does not pay",
    "check": "verify that the counts of results and outputs agree; exits 1 if some do not",
    "power": "how many prompts show a difference, by the spread of a pilot's results",
    "watch": "acceptance in service against a reference; exits 1 on a drop, 3 if it cannot tell",
    "pilot": "whether training a draft on your prompts would pay, before you invest; a page to decide by",
    "redistill": "the draft in service, distilled again on what is asked now; behind a gate",
    "registry": "versions of a draft: what serves, what it was made of, promote and roll back",
    "rollout": "a version takes over in stages, and goes back if it is worse; exits 1, 3, 4",
    "convert": "T5X, Hugging Face and GGUF checkpoints in, Hugging Face folders and GGUF files out",
    "deploy": "how vLLM, llama.cpp, SGLang, transformers or OpenVINO serves a pair, or why it must not",
    "draft": "make a draft from some of its target's layers; what it would cost and gain",
    "zoo": "list the shipped models",
}

SHARED = ("collect", "evaluate", "generate", "sweep")
"""Commands that several hosts share without knowing of each other, see `shards`."""

USAGE = """usage: distillspec COMMAND [flags]

{commands}

`distillspec COMMAND --help` shows a command's flags. Exit status: 0 done, 2 bad input, 1 and 3 from
`watch` (acceptance too low; cannot be judged), 1 from `check` (counts that disagree), 1 and 3 from
`redistill` (refused; cannot be judged), 1 and 3 from `pilot` (no-go; not enough data), 1, 3 and 4 from
`rollout` (went back; waits; a person must decide), 75 from `finetune`, `distill`, `redistill`, `pilot` and
`demo` (preempted; run the same command to resume).
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
        allocation.keep_buffers(command)
    return errors.run(lambda flags: _dispatch(command, flags), rest, command=command)


def usage() -> str:
    """The text of `distillspec --help`."""
    width = max(map(len, COMMANDS))
    return USAGE.format(commands="\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()))


def _dispatch(command: str, flags: list[str]) -> int:
    if command not in COMMANDS:
        raise UsageError(f"unknown command {command!r}: {nearest(command, COMMANDS)}")
    wants_help = any(flag in ("-h", "--help") for flag in flags)
    if os.environ.get("DISTILLSPEC_MULTIHOST") and command in SHARED and not wants_help:
        if not any(flag.lstrip("-").startswith(("shard", "gin.SHARD")) for flag in flags):
            raise UsageError(
                f"{command}: DISTILLSPEC_MULTIHOST is set, and every host would do all of it: add "
                "--shard=auto for a share a host, and `distillspec merge` at the end"
            )
    elif os.environ.get("DISTILLSPEC_MULTIHOST") and not wants_help:
        from distillspec_jax.cli import distributed

        distributed.join()
    module = importlib.import_module(f"distillspec_jax.cli.{command}")
    status: int = module.main(flags)
    return status


if __name__ == "__main__":
    sys.exit(main())
