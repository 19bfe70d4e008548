"""`distillspec pilot`: whether training a draft on a user's prompts would pay, before it is begun."""

from __future__ import annotations

import sys

from distillspec_jax.cli import asked_flags, errors
from distillspec_jax.cli.flags import CommandParser
from distillspec_jax.terminal import news, say
from distillspec_jax.training.preemption import ended_by_sigterm

HELP = """Estimates from a short training run whether training a draft on your prompts would pay, and writes
one page for the decision. To resume a stopped run, run the same command. After a finished run the command
only rewrites the page: in another --language, or with another --least_gain or --pay_back_requests.

  distillspec pilot --target=zoo:wiki_leads/target --draft=zoo:draft --data=mine.jsonl
  distillspec pilot --target=runs/target --draft=runs/draft --data=mine.jsonl --field=prompt --language=ja

mine.jsonl holds one prompt per line, {"inputs": "..."}; some 500 are enough, about 150 are the minimum. A
fifth of them, chosen by a hash of their text as in `redistill`, is held out; the draft is measured on these
before and after. OUTPUT/pilot.html is the page, OUTPUT/pilot.json has the numbers. Exit status:
  0  go: even the cautious estimate gains and pays
  1  no-go: not even the hopeful estimate does
  2  bad input
  3  not enough data: the two estimates disagree; the page says what would decide
  75 stopped: the same command resumes
"""

NO_GO, NOT_ENOUGH = 1, 3
"""Exit statuses."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("pilot", HELP, gin=True)
    add = parser.add_argument
    add("--target", required=True, metavar="MODEL", help="a checkpoint directory or zoo:NAME")
    add(
        "--draft",
        required=True,
        metavar="MODEL",
        help="the current draft, or the candidate: a checkpoint directory or zoo:NAME",
    )
    add("--data", required=True, metavar="FILE", help="your prompts, JSON lines")
    add("--field", default="inputs", help="the field that holds the prompt (default: inputs)")
    add("--output", default="pilot", metavar="DIR", help="the pilot's folder (default: pilot)")
    add(
        "--language",
        choices=("en", "ja"),
        default="en",
        help="language of the page and the output (default: en)",
    )
    add(
        "--minutes",
        type=float,
        default=15.0,
        metavar="N",
        help="time for the whole pilot; it reduces the steps to fit, to 10 at least (default: 15)",
    )
    asked_flags.add(
        parser,
        pilot_steps="maximum steps of the pilot (default: 100, or a third of --steps if that is less)",
        prompts="maximum number of held-out prompts to measure on",
        temperature="default: that of the lines, if they state one, else 1",
    )
    add(
        "--least_prompts",
        type=int,
        default=30,
        metavar="N",
        help="minimum number of held-out prompts (default: 30)",
    )
    flags = parser.parse(argv)
    if flags.pilot_steps is None:
        flags.pilot_steps = min(100, max(2, flags.steps // 3))
    asked_flags.check(flags)

    with ended_by_sigterm():
        from pathlib import Path

        from distillspec_jax.cli import compilation
        from distillspec_jax.operations import pilot
        from distillspec_jax.operations.gate import Conditions
        from distillspec_jax.reports import pilot_page

        conditions = Conditions(
            least_gain=flags.least_gain,
            pay_back_requests=flags.pay_back_requests,
            least_prompts=flags.least_prompts,
        )
        plan = pilot.PilotPlan(minutes=flags.minutes, field=flags.field, **asked_flags.plan(flags))
        compilation.keep(flags.compilation_cache)
        found = pilot.pilot(
            flags.target,
            flags.draft,
            flags.data,
            flags.output,
            plan,
            conditions,
            asked_flags.trainer(flags, flags.target),
            restart=flags.restart,
            say=news,
        )
        page = Path(flags.output) / pilot.PAGE
        pilot_page.write(page, found, flags.language)
        say(*pilot_page.lines(found, flags.language), page)
    return {"go": 0, "no-go": NO_GO, "not enough": NOT_ENOUGH}[found.outcome]


if __name__ == "__main__":
    sys.exit(errors.run(main, command="pilot"))
