"""`distillspec watch`: acceptance in service, and an alarm when it falls."""

from __future__ import annotations

import sys

from distillspec_jax import bounds
from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import CommandParser
from distillspec_jax.errors import UsageError
from distillspec_jax.terminal import say

HELP = """Monitors acceptance in service: reads lines of `distillspec generate`, logged responses of vLLM,
SGLang, llama.cpp and TensorRT-LLM, or their counters (scrapes of /metrics, or a range query of Prometheus).
With --profile or --at_least it judges every stream, in one line and by its exit status:
  0  fine
  1  drift: acceptance has dropped, overall or in a segment (--by)
  2  bad input
  3  not enough requests, or not enough prompts in the profile, to notice a drop of 10 %
While acceptance is as good as in the profile, the probability of an alarm is at most --false_alarms, however
long the stream is and however often you look (docs/operate.md).

  distillspec watch served.jsonl --profile=runs/distilled --temperature=1
  distillspec watch served.jsonl --profile=fine.jsonl --state=watch.json --prometheus=watch.prom
  distillspec watch served.jsonl --profile=fine.jsonl --by=language --html=watch.html
  distillspec watch scrapes.txt --profile=runs/distilled --temperature=1
  distillspec watch now=a.jsonl next=b.jsonl --window=1000     # two drafts, each serving part of the traffic
"""

DRIFT, NOT_ENOUGH = 1, 3
"""Exit statuses."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("watch", HELP)
    add = parser.add_argument
    add(
        "files",
        nargs="+",
        metavar="[LABEL=]FILE",
        help="log or scrapes to read; the file may still be growing",
    )
    add("--window", type=int, metavar="N", help="requests per line of the table (default: all in one line)")
    add(
        "--profile",
        metavar="PATH",
        help="reference: a draft's folder or its profile.json, results.jsonl of a sweep, or lines from a "
        "time when acceptance was fine",
    )
    add("--at_least", type=float, metavar="RATE", help="alarm when acceptance is below this rate")
    add(
        "--margin",
        type=float,
        metavar="SHARE",
        help="tolerated relative drop below the profile (default: 0.05)",
    )
    add(
        "--false_alarms",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="probability of any false alarm over the whole stream (default: 0.05)",
    )
    add(
        "--by",
        action="append",
        default=[],
        metavar="FIELD",
        help="judge each value of this field; repeatable",
    )
    add(
        "--measure",
        metavar="NAME",
        help="ratio to watch (default: the first that both profile and stream report)",
    )
    add(
        "--temperature",
        type=float,
        metavar="T",
        help="temperature to use from the profile, if it has several, and of the lines",
    )
    add("--drafter", metavar="NAME", help="drafter to use from the profile, if it is a sweep of several")
    add(
        "--model",
        metavar="NAME",
        help="model whose counters to read, if a scrape has several models (for serve: drafts)",
    )
    add("--draft", metavar="VERSION", help="draft whose answers to count, in a log of `serve` with several")
    add(
        "--block_size",
        type=int,
        metavar="N",
        help="draft tokens per round, if it is fixed and the engine does not report it",
    )
    add("--state", metavar="FILE", help="store what was read here, and continue from it next time")
    add(
        "--prometheus",
        metavar="FILE",
        help="also write metrics as text for node-exporter's textfile collector",
    )
    add("--html", metavar="FILE", help="also write a page")
    flags = parser.parse(argv)
    if flags.window is not None and flags.window < 1:
        raise UsageError(f"--window={flags.window}: must be at least 1")
    bounds.check_most("--window", flags.window, bounds.COUNT)
    if flags.block_size is not None and not 1 <= flags.block_size <= bounds.BLOCK_SIZE:
        raise UsageError(f"--block_size={flags.block_size}: must be from 1 to {bounds.BLOCK_SIZE}")
    if flags.profile is not None and flags.at_least is not None:
        raise UsageError("--profile and --at_least: give the one or the other to judge by")
    if flags.profile is None and flags.at_least is None:
        for name in ("by", "state", "prometheus", "html", "measure"):
            if getattr(flags, name):
                raise UsageError(f"--{name} needs --profile or --at_least, to judge by")
    if flags.at_least is not None:
        for name in ("margin", "drafter"):
            if getattr(flags, name) is not None:
                raise UsageError(f"--{name} belongs to --profile; --at_least is the level itself")
    for name, low, high in (("at_least", 0, 1), ("margin", 0, 0.9), ("false_alarms", 1e-6, 0.5)):
        value = getattr(flags, name)
        if value is not None and not low <= value <= high:
            raise UsageError(f"--{name}={value}: must lie in [{low:g}, {high:g}]")
    if flags.temperature is not None and not 0 <= flags.temperature < 1e30:
        raise UsageError(f"--temperature={flags.temperature}: must be at least 0")

    import dataclasses
    import os
    from pathlib import Path

    from distillspec_jax import outputs
    from distillspec_jax.evaluation import reference, served_lines, verdicts, watch_state, watching
    from distillspec_jax.reports import tables, watch_metrics, watch_page

    sources: dict[str, str] = {}
    for argument in flags.files:
        label, equals, path = argument.partition("=")
        if not equals or Path(argument).is_file():
            label, path = argument, argument
        if label in sources:
            raise UsageError(f"{argument}: the label {label!r} is taken; write LABEL=FILE")
        sources[label] = path
    sampling = {} if flags.temperature is None else {"temperature": flags.temperature}
    watch = watching.Watch(
        at_least=flags.at_least,
        margin=watching.Watch.margin if flags.margin is None else flags.margin,
        false_alarms=flags.false_alarms,
        by=tuple(dict.fromkeys(flags.by)),
        measure=None if flags.measure is None else reference.known_measure(flags.measure),
        sampling=sampling,
        model=flags.model,
        draft=flags.draft,
        block_size=flags.block_size,
    )
    if flags.profile is not None:
        outputs.reads(flags.profile)
        against = reference.read(flags.profile, flags.temperature, flags.drafter, flags.block_size)
        against = against or watching.of_lines(flags.profile, watch)
        watching.check_fields(watch.by, against)
        watch = dataclasses.replace(watch, against=against, sampling={**against.sampling, **sampling})
    for path, ours in ((flags.prometheus, watch_metrics.is_ours), (flags.html, watch_page.is_ours)):
        if path is not None:
            outputs.check(path, ours)
            if not outputs.is_special(path):  # before one of them is written, and the other cannot be
                outputs.check_writable(Path(path).parent if os.path.lexists(path) else path)

    found, judged = {}, []
    with watch_state.kept(flags.state, watching.settings(watch)) as state:
        for label, path in sources.items():
            stream = state.stream(label)
            units = watch.read(stream, path)
            if not units and not stream.texts and not stream.beginnings[-1].size:
                raise UsageError(f"{path} has no whole line")
            if units and (flags.state is None or flags.window):
                found[label] = list(served_lines.windows(units, flags.window))
            if watch.judges:
                judged.append(verdicts.verdict(watch, stream))
        tables.print_served(found)
        tables.print_segments(judged)
        for one in judged:
            say(one.reason)
            if one.notes:
                say(f"{one.label}: " + ", ".join(f"{count:,} {what}" for what, count in one.notes.items()))
        if flags.prometheus is not None:
            watch_metrics.write(flags.prometheus, judged)
        if flags.html is not None:
            watch_page.write(flags.html, judged, watch)
    outcomes = {one.outcome for one in judged}
    return DRIFT if "drift" in outcomes else NOT_ENOUGH if "not enough" in outcomes else 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="watch"))
