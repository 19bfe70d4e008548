"""`distillspec demo`: distils a draft on embedded data, and measures it before and after."""

from __future__ import annotations

import sys
from pathlib import Path

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import CommandParser
from distillspec_jax.terminal import news, say

HELP = """Takes the zoo's target and its supervised draft, distils the draft on one task for a few minutes,
and measures block efficiency and speed-up before and after, with a control trained without a target.
Writes report.html, results.jsonl and summary.json.

  distillspec demo
  distillspec demo --task=gsm_symbolic --minutes=10 --output_dir=runs/gsm
  distillspec demo --family=smollm2       # SmolLM2-135M-Instruct and its shipped draft: nothing is trained
"""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("demo", HELP)
    parser.add_argument("--task", help="an embedded task (default: wiki_leads; with smollm2: open_prompts)")
    parser.add_argument(
        "--family", default="t5", help="which of the zoo's pairs: t5 (default), decoder or smollm2"
    )
    parser.add_argument("--output_dir", default=None, help="default: runs/demo, or runs/demo-[FAMILY-]TASK")
    parser.add_argument(
        "--minutes",
        type=float,
        help="minutes to distil (default: the recipe's number of steps; with smollm2: none)",
    )
    parser.add_argument(
        "--prompts", type=int, help="held-out prompts to measure on (default: 64; with smollm2: 16)"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    flags = parser.parse(argv)

    from distillspec_jax.evaluation import results
    from distillspec_jax.evaluation.sweep import RESULTS, SweepProgress
    from distillspec_jax.reports import tables
    from distillspec_jax.showcase import demo, smollm2

    def show(progress: SweepProgress) -> None:
        if progress.row is None:
            news(f"  [{progress.done}/{progress.total}] {progress.doing}")

    of_llm = flags.family == smollm2.FAMILY
    task = flags.task or (smollm2.TASK if of_llm else "wiki_leads")
    prompts = flags.prompts if flags.prompts is not None else smollm2.PROMPTS if of_llm else 64
    names = [name for name in (flags.family, task) if name not in ("t5", "wiki_leads", smollm2.TASK)]
    root = Path(flags.output_dir or "-".join(["runs/demo", *names]))
    summary = demo.demo(
        task,
        root,
        family=flags.family,
        minutes=flags.minutes,
        prompts=prompts,
        seed=flags.seed,
        progress=show,
    )
    tables.print_table(results.read([root / RESULTS]))
    for sentence in summary["verdicts"]:
        say(sentence)
    say("", f"report: {root / 'report.html'}", f"numbers: {root / 'summary.json'}, {root / RESULTS}")
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="demo"))
