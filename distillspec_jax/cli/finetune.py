"""`distillspec finetune`: a gin-configured training job."""

from __future__ import annotations

import functools
import sys

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import COMPILATION_CACHE_HELP, CommandParser
from distillspec_jax.terminal import say
from distillspec_jax.training.preemption import ended_by_sigterm

HELP = """Supervised training of a target or a draft.
To resume a stopped run, run the same command.

  distillspec finetune --gin_file=models/zoo_draft.gin --gin_file=runs/finetune.gin \\
      --gin.MIXTURE_OR_TASK_NAME=wiki_leads --gin.MODEL_DIR=runs/my_draft --gin.TRAIN_STEPS=500
"""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("finetune", HELP, gin=True)
    parser.add_argument("--compilation_cache", metavar="DIR", help=COMPILATION_CACHE_HELP)
    flags = parser.parse(argv)

    with ended_by_sigterm() as progress:
        from distillspec_jax.cli import bindings, compilation
        from distillspec_jax.training import job as job_lib
        from distillspec_jax.training.finetune import finetune

        compilation.keep(flags.compilation_cache)
        job, configuration = bindings.bind(finetune, flags.gin, given=("gin",))
        progress.newest = functools.partial(job_lib.newest_step, bindings.value(finetune, "model_dir"))
        say(job(gin=configuration))
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="finetune"))
