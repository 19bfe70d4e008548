"""`distillspec distill`: a gin-configured training job."""

from __future__ import annotations

import functools
import sys

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import CommandParser
from distillspec_jax.training.preemption import ended_by_sigterm

HELP = """Distils a draft from a target: divergence × data source.
A run that was stopped goes on where it was: start it again.

  distillspec distill --gin_file=runs/distill.gin --gin.TARGET=zoo:wiki_leads/target \\
      --gin.DRAFT=zoo:wiki_leads/draft --gin.MIXTURE_OR_TASK_NAME=wiki_leads \\
      --gin.MODEL_DIR=runs/my_distilled --gin.TRAIN_STEPS=200

At its end it samples some held-out prompts and checks that accept rate, the overlap of the two laws that the
sampler recorded, and the same overlap recomputed by the training code agree (MODEL_DIR/agreement.json).
"""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("distill", HELP, gin=True)
    parser.add_argument(
        "--check_prompts", type=int, default=32, help="held-out prompts of the final check (32; 0: none)"
    )
    flags = parser.parse(argv)

    with ended_by_sigterm() as progress:
        import jax

        from distillspec_jax import checkpoint
        from distillspec_jax.cli import bindings
        from distillspec_jax.distillation.distill import distill
        from distillspec_jax.evaluation import agreement

        job, configuration = bindings.bind(distill, flags.gin, given=("gin",))
        progress.newest = functools.partial(checkpoint.latest_step, bindings.value(distill, "model_dir"))
        directory = job(gin=configuration)
        print(directory)
        if flags.check_prompts > 0 and jax.process_count() == 1:
            found = agreement.check(directory, prompts=flags.check_prompts)
            print(found or "no target or no held-out prompts to check with", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="distill"))
