"""`distillspec distill`: a gin-configured training job."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from distillspec_jax import bounds, outputs
from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import COMPILATION_CACHE_HELP, CommandParser
from distillspec_jax.terminal import news, say
from distillspec_jax.training.preemption import ended_by_sigterm

HELP = """Distils a draft from a target, with a choice of divergence and data source.
To resume a stopped run, run the same command.

  distillspec distill --gin_file=runs/distill.gin --gin.TARGET=zoo:wiki_leads/target \\
      --gin.DRAFT=zoo:wiki_leads/draft --gin.MIXTURE_OR_TASK_NAME=wiki_leads \\
      --gin.MODEL_DIR=runs/my_distilled --gin.TRAIN_STEPS=200

At the end it decodes some held-out prompts and checks that three numbers agree: the acceptance rate, the
overlap of the two distributions as the sampler recorded it, and the same overlap recomputed by the training
code (MODEL_DIR/agreement.json, or MODEL_DIR/best/agreement.json with DEPLOYMENT). It also writes the draft's
acceptance profile on the same prompts, profile.json, as a reference for `distillspec watch`. It writes
neither without a target (TARGET_SET alone), on several hosts, or where one device cannot hold both networks.
"""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("distill", HELP, gin=True)
    parser.add_argument(
        "--check_prompts",
        type=int,
        default=32,
        help="held-out prompts for the final check and the profile; 0 for neither (default: 32)",
    )
    parser.add_argument("--compilation_cache", metavar="DIR", help=COMPILATION_CACHE_HELP)
    flags = parser.parse(argv)
    bounds.check_most("--check_prompts", flags.check_prompts, bounds.COUNT)

    with ended_by_sigterm() as progress:
        import jax

        from distillspec_jax.cli import bindings, compilation
        from distillspec_jax.distillation.distill import distill
        from distillspec_jax.training import job as job_lib

        compilation.keep(flags.compilation_cache)
        job, configuration = bindings.bind(distill, flags.gin, given=("gin",))
        progress.newest = functools.partial(job_lib.newest_step, bindings.value(distill, "model_dir"))
        directory = job(gin=configuration)
        say(directory)
        if flags.check_prompts > 0 and jax.process_index() == 0:
            news(final_check(directory, flags.check_prompts))
            outputs.publish(directory)
    return 0


def final_check(directory: str | Path, prompts: int) -> str:
    """One line with the numbers of `agreement.check`, or why there are none; writes the profile, too."""
    import jax

    from distillspec_jax.evaluation import agreement, profiling
    from distillspec_jax.evaluation.distilled_pair import DistilledPair

    if jax.process_count() > 1:
        return f"no final check: {jax.process_count()} hosts trained together, and it runs on one"
    if not DistilledPair.fits(directory):
        return "no final check and no profile: target and draft do not fit on one device"
    pair = DistilledPair.load(directory)
    if pair is not None:
        news(f"checking acceptance on up to {prompts:,} held-out prompts")
    found = None if pair is None else agreement.check(pair, prompts=prompts)
    if pair is None or found is None:
        return "no final check and no profile: they need TARGET and held-out prompts, a validation split"
    profiling.of_pair(pair, prompts=prompts)
    return str(found)


if __name__ == "__main__":
    sys.exit(errors.run(main, command="distill"))
