"""`distillspec rollout`: a version takes over in stages, on evidence."""

from __future__ import annotations

import dataclasses
import sys

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import CommandParser, list_of, one_of
from distillspec_jax.errors import UsageError
from distillspec_jax.terminal import say

HELP = """Gives a version of a registry a growing share of the requests, and withdraws it if it is worse.

  distillspec rollout start v2 --registry=drafts
  distillspec rollout advance --registry=drafts --log=served.jsonl     # as often as you like, from cron
  distillspec rollout advance --registry=drafts --stable_metrics=a.txt --candidate_metrics=b.txt
  distillspec rollout status --registry=drafts
  distillspec rollout resume --registry=drafts --reason="looked at it"  # after it asked for a person
  distillspec rollout abort --registry=drafts --reason="not today"

advance reads what both drafts served since the stage began: lines with `draft_version` and with
`registry_revision` or a time, or scrapes of two groups of servers of another engine. It advances when the
candidate is no worse than the margins, in acceptance and in seconds per token, at the error rate
--false_steps; it withdraws the candidate when it is worse; otherwise it waits. Exit status:
  0  advanced, or no rollout is in progress
  1  the candidate was withdrawn
  2  bad input; nothing was changed
  3  waiting for more requests
  4  a person must decide: too long without a decision, wrongly routed requests, or a rule that changes the
     texts
"""

BACK, WAITS, PERSON = 1, 3, 4
"""Exit statuses."""
ACTIONS = ("start", "advance", "status", "resume", "abort")
_OF_START = ("stages", "margin", "slower", "false_steps", "least", "most", "lossy", "quality")
_OF_ADVANCE = ("log", "stable_metrics", "candidate_metrics", "model")


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("rollout", HELP)
    add = parser.add_argument
    add("action", type=one_of(*ACTIONS), metavar="ACTION", help=", ".join(ACTIONS))
    add("version", nargs="?", metavar="VERSION", help="for start: the version to roll out")
    add("--registry", required=True, metavar="DIR", help="the registry's folder")
    add("--reason", metavar="TEXT", help="for start, resume and abort: a reason to store in the history")
    start = parser.add_argument_group("start")
    start.add_argument(
        "--stages",
        type=list_of(float),
        metavar="SHARES",
        help="stages, as shares of the requests, before all of them (default: 0.01,0.1,0.5)",
    )
    start.add_argument(
        "--margin", type=float, metavar="SHARE", help="tolerated relative loss of acceptance (default: 0.02)"
    )
    start.add_argument(
        "--slower", type=float, metavar="SHARE", help="tolerated relative loss of speed (default: 0.1)"
    )
    start.add_argument(
        "--false_steps",
        type=float,
        metavar="SHARE",
        help="probability of a wrong step, in each direction, over the whole rollout (default: 0.05)",
    )
    start.add_argument(
        "--least", type=int, metavar="N", help="minimum prompts of the candidate in a stage (default: 100)"
    )
    start.add_argument(
        "--most",
        type=int,
        metavar="N",
        help="prompts of the candidate in a stage after which a person must decide (default: 200,000)",
    )
    start.add_argument(
        "--lossy", metavar="RULE", help="allow a rule that changes the texts (NAME or NAME:EPSILON)"
    )
    start.add_argument("--quality", metavar="FILE", help="results.jsonl of a sweep with that rule")
    advance = parser.add_argument_group("advance")
    advance.add_argument("--log", action="append", metavar="FILE", help="lines of both drafts; repeatable")
    advance.add_argument("--stable_metrics", metavar="FILE", help="scrapes of servers with the stable draft")
    advance.add_argument("--candidate_metrics", metavar="FILE", help="scrapes of those with the candidate")
    advance.add_argument(
        "--model", metavar="NAME", help="model whose counters to read, if a scrape has several models"
    )
    flags = parser.parse(argv)
    action = flags.action
    if (flags.version is not None) != (action == "start"):
        raise UsageError(f"rollout {action} {'needs a' if action == 'start' else 'takes no'} VERSION")
    for of, names in (("start", _OF_START), ("advance", _OF_ADVANCE)):
        for name in names:
            if getattr(flags, name) is not None and action != of:
                raise UsageError(f"rollout {action} takes no --{name}: it is a flag of {of}")
    if flags.reason and action in ("advance", "status"):
        raise UsageError(f"rollout {action} takes no --reason: leave it out")
    if (flags.lossy is None) != (flags.quality is None):
        raise UsageError("--lossy and --quality: a rule that changes the texts needs both")

    from distillspec_jax.operations import rollout
    from distillspec_jax.operations.draft_registry import DraftRegistry

    registry = DraftRegistry(flags.registry)
    reason = flags.reason or "no reason was given"
    if action == "advance":
        return _advance(registry, flags)
    if action == "start":
        given = {name: getattr(flags, name) for name in _OF_START[:-2] if getattr(flags, name) is not None}
        settings = rollout.Settings(**given)
        if flags.lossy is not None:
            settings = dataclasses.replace(settings, lossy=rollout.lossy(flags.lossy, flags.quality))
        rollout.start(registry, flags.version, settings, reason)
    elif action == "resume":
        rollout.resume(registry, reason)
    elif action == "abort":
        rollout.abort(registry, reason)
    say(*rollout.described(registry))
    return 0


def _advance(registry: object, flags: object) -> int:
    from distillspec_jax.operations import arms, rollout
    from distillspec_jax.operations.draft_registry import DraftRegistry

    assert isinstance(registry, DraftRegistry)
    logs: list[str] | None = flags.log  # type: ignore[attr-defined]
    pair = (flags.stable_metrics, flags.candidate_metrics)  # type: ignore[attr-defined]
    if (logs is None) == (None in pair) or (logs is not None and pair != (None, None)):
        raise UsageError("rollout advance needs --log, or --stable_metrics and --candidate_metrics")
    settings, stage = rollout.settings_of(registry), registry.history.last
    if settings is None:
        say(f"{registry.path}: no rollout is under way: {stage.stable} serves")
        return 0
    if logs is not None:
        evidence = arms.of_logs(logs, stage)
    else:
        evidence = arms.of_counters(*pair, stage, flags.model)  # type: ignore[attr-defined]
    decision = rollout.decide(stage, settings, evidence)
    rollout.act(registry, stage, settings, decision)
    say(f"{decision.kind}: {decision.reason}")
    if evidence.notes:
        say(", ".join(f"{count:,} {what}" for what, count in evidence.notes.items()))
    say(*rollout.described(registry))
    return {"roll back": BACK, "hold": WAITS, "escalate": PERSON}.get(decision.kind, 0)


if __name__ == "__main__":
    sys.exit(errors.run(main, command="rollout"))
