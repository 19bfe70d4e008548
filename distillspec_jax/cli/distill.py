"""`distillspec distill`: a gin-configured training job."""

from __future__ import annotations

import sys

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import CommandParser

HELP = """Distils a draft from a target: divergence × data source.
A run that was stopped goes on where it was: start it again.

  distillspec distill --gin_file=runs/distill.gin --gin.TARGET=zoo:wiki_leads/target \\
      --gin.DRAFT=zoo:wiki_leads/draft --gin.MIXTURE_OR_TASK_NAME=wiki_leads \\
      --gin.MODEL_DIR=runs/my_distilled --gin.TRAIN_STEPS=200
"""


def main(argv: list[str]) -> int:
    """Runs the command."""
    flags = CommandParser("distill", HELP, gin=True).parse(argv)

    from distillspec_jax.cli import bindings
    from distillspec_jax.distillation.distill import distill

    job, configuration = bindings.bind(distill, flags.gin, given=("gin",))
    print(job(gin=configuration))
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="distill"))
