"""`distillspec redistill`: the stable draft of a registry, distilled again on what is asked now."""

from __future__ import annotations

import dataclasses
import functools
import sys
from typing import TYPE_CHECKING

from distillspec_jax import bounds
from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import COMPILATION_CACHE_HELP, CommandParser
from distillspec_jax.errors import UsageError
from distillspec_jax.terminal import news, say
from distillspec_jax.training.preemption import ended_by_sigterm

if TYPE_CHECKING:
    from pathlib import Path

HELP = """Distils the stable draft of a registry again, on prompts of request logs mixed with earlier ones; it
becomes a version if it passes the gate. To go on with a run that was stopped, run the same command.

  distillspec redistill --registry=drafts --log=served.jsonl --old=trained_with.jsonl   # the first time
  distillspec redistill --registry=drafts --log=served.jsonl                            # later on
  distillspec redistill --registry=drafts --log=served.jsonl --gin.DIVERGENCE=tvd       # by another recipe

A fifth of all prompts, chosen by a hash of their text, is never trained on. A pilot of some steps tells
whether the whole training is likely to pay. The gate, on held-out prompts that both drafts decode: a gain
in block efficiency on the new ones, no loss beyond a margin on the old ones, and a saving that pays for the
training within --pay_back_requests. Exit status:
  0  passed: the version is in the registry, and serves nothing yet unless you said --stage
  1  refused, by the pilot or by the gate; the line says why
  2  bad input
  3  too few held-out prompts to tell
  75 stopped: the same command goes on
"""

REFUSED, NOT_ENOUGH = 1, 3
"""Exit statuses."""
_OWN = ("TARGET", "DRAFT", "MODEL_DIR", "MIXTURE_OR_TASK_NAME", "TRAIN_STEPS", "CHAT")
"""Macros that this command sets."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("redistill", HELP, gin=True)
    add = parser.add_argument
    add("--registry", required=True, metavar="DIR", help="the registry's folder")
    add("--log", required=True, action="append", metavar="FILE", help="served lines; repeatable")
    add(
        "--old",
        action="append",
        default=[],
        metavar="FILE",
        help="prompts that the stable draft was trained with, for the registry to remember; repeatable",
    )
    add("--target", metavar="MODEL", help="the registry's target, if it lies somewhere else now")
    add("--steps", type=int, default=300, metavar="N", help="of the training (default: 300)")
    add("--pilot_steps", type=int, default=40, metavar="N", help="of the pilot; 0: none (default: 40)")
    add(
        "--old_share",
        type=float,
        default=0.3,
        metavar="SHARE",
        help="of old prompts among those that are trained on (default: 0.3)",
    )
    add(
        "--prompts", type=int, default=200, metavar="N", help="held-out ones, new and old each (default: 200)"
    )
    add(
        "--temperature",
        type=float,
        metavar="T",
        help="of the service, to judge at (default: that of the logs, if they state one; else 1)",
    )
    add("--block_size", type=int, default=5, metavar="N", help="drafts a round, likewise (default: 5)")
    add("--chat", action="store_true", help="wrap prompts in the target's chat template")
    add(
        "--least_gain",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="relative, in block efficiency on new prompts: the lower end of the interval (default: 0.01)",
    )
    add(
        "--margin",
        type=float,
        default=0.03,
        metavar="SHARE",
        help="relative loss on old prompts to bear, likewise (default: 0.03)",
    )
    add(
        "--pay_back_requests",
        type=int,
        default=100_000,
        metavar="N",
        help="within which the saving must pay for the training (default: 100,000)",
    )
    add("--least_prompts", type=int, default=30, metavar="N", help="new and old each (default: 30)")
    add("--keep", metavar="DIR", help="keep a candidate that was refused in this new folder")
    add("--stage", action="store_true", help="begin the rollout of a version that passes the gate")
    add("--restart", action="store_true", help="give up what an earlier call has begun")
    add("--compilation_cache", metavar="DIR", help=COMPILATION_CACHE_HELP)
    flags = parser.parse(argv)
    for name, _ in flags.gin.bindings:
        if name in _OWN:
            raise UsageError(f"--gin.{name} is set by this command: leave it out")
    for name in ("steps", "pilot_steps", "prompts"):
        bounds.check_most(f"--{name}", getattr(flags, name), bounds.COUNT)
    if flags.prompts < 1:
        raise UsageError(f"--prompts={flags.prompts}: must be at least 1")
    if not 1 <= flags.block_size <= bounds.BLOCK_SIZE:
        raise UsageError(f"--block_size={flags.block_size}: must be from 1 to {bounds.BLOCK_SIZE}")
    if flags.temperature is not None and not 0 <= flags.temperature < 1e30:
        raise UsageError(f"--temperature={flags.temperature}: must be at least 0")

    with ended_by_sigterm():
        from distillspec_jax.cli import compilation
        from distillspec_jax.operations import redistill_folder, redistillation
        from distillspec_jax.operations.draft_registry import DraftRegistry
        from distillspec_jax.operations.gate import Conditions

        conditions = Conditions(
            **{field.name: getattr(flags, field.name) for field in dataclasses.fields(Conditions)}
        )
        registry = DraftRegistry(flags.registry)
        target = flags.target or registry.history.target
        if flags.compilation_cache:
            compilation.keep(flags.compilation_cache)
        found = redistillation.redistill(
            registry,
            target,
            flags.log,
            flags.old,
            redistill_folder.Plan(
                steps=flags.steps,
                pilot_steps=flags.pilot_steps,
                old_share=flags.old_share,
                temperature=flags.temperature,
                block_size=flags.block_size,
                prompts=flags.prompts,
                chat=flags.chat,
                stage=flags.stage,
                recipe=[*flags.gin.files, *(f"{name}={value}" for name, value in flags.gin.bindings)],
            ),
            conditions,
            functools.partial(_train, flags, target),
            keep=flags.keep,
            restart=flags.restart,
            say=news,
        )
    version = found.version or "no new version"
    say(f"{flags.registry}: {found.outcome}: {version}: {found.reason}")
    return {"passed": 0, "refused": REFUSED, "not enough": NOT_ENOUGH}[found.outcome]


def _train(flags: object, target: str, draft: str, directory: Path, task: str, steps: int) -> Path:
    """Trains as `distill` does by the same recipe."""
    from distillspec_jax.cli import bindings
    from distillspec_jax.cli.gin_flags import GinFlags
    from distillspec_jax.distillation.distill import distill

    gin: GinFlags = flags.gin  # type: ignore[attr-defined]
    chat: bool = flags.chat  # type: ignore[attr-defined]
    values = map(repr, (target, draft, str(directory), task, steps, chat))
    given = GinFlags(
        ("runs/distill.gin", *gin.files),
        (*gin.bindings, *zip(_OWN, values, strict=True)),
        gin.search_paths,
    )
    job, configuration = bindings.bind(distill, given, given=("gin",))
    return job(gin=configuration)


if __name__ == "__main__":
    sys.exit(errors.run(main, command="redistill"))
