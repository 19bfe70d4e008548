"""`distillspec redistill`: the stable draft of a registry, distilled again on what is asked now."""

from __future__ import annotations

import dataclasses
import sys

from distillspec_jax.cli import asked_flags, errors
from distillspec_jax.cli.flags import CommandParser
from distillspec_jax.terminal import news, say
from distillspec_jax.training.preemption import ended_by_sigterm

HELP = """Distils the stable draft of a registry again, on prompts from request logs mixed with earlier
prompts. The new draft becomes a version if it passes the gate. To resume a stopped run, run the same command.

  distillspec redistill --registry=drafts --log=served.jsonl --old=trained_with.jsonl   # the first time
  distillspec redistill --registry=drafts --log=served.jsonl                            # later on
  distillspec redistill --registry=drafts --log=served.jsonl --gin.DIVERGENCE=tvd       # by another recipe

A fifth of all prompts, chosen by a hash of their text, is held out. A short pilot estimates whether the full
training is likely to pay. At the gate both drafts decode the held-out prompts. It requires a gain in block
efficiency on new prompts, no loss beyond a margin on old ones, and a saving that pays for the training
within --pay_back_requests. If the result is inconclusive, it decodes more held-out prompts, up to four times
--prompts. Exit status:
  0  passed: the version is in the registry, but serves no requests without --stage
  1  refused, by the pilot or by the gate; the line says why
  2  bad input
  3  too few held-out prompts to decide
  75 stopped: the same command resumes
"""

REFUSED, NOT_ENOUGH = 1, 3
"""Exit statuses."""


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
        help="prompts that the stable draft was trained on, to store in the registry; repeatable",
    )
    add("--target", metavar="MODEL", help="the registry's target, if it has moved")
    add(
        "--old_share",
        type=float,
        default=0.3,
        metavar="SHARE",
        help="share of old prompts in the training data (default: 0.3)",
    )
    add(
        "--margin",
        type=float,
        default=0.03,
        metavar="SHARE",
        help="tolerated relative loss of block efficiency on old prompts (default: 0.03)",
    )
    add(
        "--least_prompts",
        type=int,
        default=30,
        metavar="N",
        help="held-out prompts that the gate needs, of each kind, new and old (default: 30)",
    )
    add("--keep", metavar="DIR", help="keep a refused candidate in this new folder")
    add("--stage", action="store_true", help="start the rollout of a version that passes the gate")
    asked_flags.add(
        parser,
        pilot_steps="steps of the pilot; 0: no pilot (default: 40, or --steps if fewer)",
        prompts="held-out prompts of each kind, new and old",
        temperature="default: that of the logs, if they state one, else 1",
    )
    flags = parser.parse(argv)
    if flags.pilot_steps is None:
        flags.pilot_steps = min(40, flags.steps)
    asked_flags.check(flags)

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
        compilation.keep(flags.compilation_cache)
        found = redistillation.redistill(
            registry,
            target,
            flags.log,
            flags.old,
            redistill_folder.Plan(old_share=flags.old_share, stage=flags.stage, **asked_flags.plan(flags)),
            conditions,
            asked_flags.trainer(flags, target),
            keep=flags.keep,
            restart=flags.restart,
            say=news,
        )
    version = found.version or "no new version"
    say(f"{flags.registry}: {found.outcome}: {version}: {found.reason}")
    return {"passed": 0, "refused": REFUSED, "not enough": NOT_ENOUGH}[found.outcome]


if __name__ == "__main__":
    sys.exit(errors.run(main, command="redistill"))
