"""`distillspec deploy`: how another engine serves a pair, or why it must not."""

from __future__ import annotations

import sys

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import CommandParser, one_of
from distillspec_jax.terminal import say

HELP = """Checks what an inference engine would refuse in a pair, or serve with texts other than the target's,
and prints the shell script that serves it: the conversions, the engine's command (or lines of Python), and
caveats. It runs nothing and reads no weights. docs/engines.md compares the engines.

  distillspec deploy --engine=vllm --target=runs/target --draft=runs/distilled
  distillspec deploy --engine=llama.cpp --target=runs/target --draft=runs/distilled --type=q8_0

Models are checkpoint directories, zoo:NAME, Hugging Face folders or GGUF files.
"""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("deploy", HELP)
    add = parser.add_argument
    engines = ("vllm", "llama.cpp", "sglang", "transformers", "openvino")
    add("--engine", required=True, type=one_of(*engines), help=f"one of {', '.join(engines)}")
    add("--target", required=True, metavar="MODEL", help="the target")
    add("--draft", required=True, metavar="MODEL", help="the draft")
    add("--block_size", type=int, default=5, metavar="N", help="drafted tokens per round (default: 5)")
    add("--temperature", type=float, default=0.0, help="temperature of the requests; 0 is greedy (default)")
    add(
        "--tensor_parallel",
        type=int,
        default=1,
        metavar="N",
        help="tensor-parallel devices, for vllm and sglang (default: 1)",
    )
    add(
        "--exported",
        default="exported",
        metavar="DIR",
        help="folder for converted models (default: exported)",
    )
    add(
        "--type", type=one_of("f32", "f16", "q8_0"), default="f32", help="type of GGUF weights (default: f32)"
    )
    flags = parser.parse(argv)

    from distillspec_jax.data import catalog
    from distillspec_jax.interop.engines import registry
    from distillspec_jax.models import zoo_manifest

    task = zoo_manifest.task_of(flags.target)
    recipe = registry.recipe(
        flags.engine,
        flags.target,
        flags.draft,
        block_size=flags.block_size,
        temperature=flags.temperature,
        tensor_parallel=flags.tensor_parallel,
        exported=flags.exported,
        gguf_type=flags.type,
        prefix=None if task is None else catalog.find_task(task).prefix,
    )
    engine = registry.ENGINES[flags.engine]
    say(f"# {engine.name}, read at {engine.version}", *(f"# {note}" for note in recipe.notes))
    say(*recipe.commands)
    if recipe.python:
        say("python - <<'END'", *recipe.python.splitlines(), "END")
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="deploy"))
