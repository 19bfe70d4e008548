"""(f) Lenient rules: how much faster, and at what quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.paper import models
from benchmarks.paper.experiment import COLOURS, Experiment, Found, Measurement, figure, prompts_said
from benchmarks.paper.models import DISTILLSPEC
from benchmarks.paper.rows import Pool, efficiency_ratio, pool, score_difference, select, speed_ratio
from benchmarks.paper.scales import GSM, Scale
from benchmarks.paper.verdicts import markdown, marked, times, verdict
from distillspec_jax.evaluation import paired
from distillspec_jax.evaluation.paired import UNKNOWN, Interval
from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.reports import summary

FUNCTIONS = ("linear", "square", "exponential")
USABLE = "exponential"


def measure(scale: Scale, rows: Sequence[ResultRow] | None) -> list[Measurement]:
    """DistillSpec's draft under the token rule, and under each lenient one at each ε."""
    rules = ("token", *(f"{function}:{epsilon:g}" for function in FUNCTIONS for epsilon in scale.epsilons))
    drafters = {DISTILLSPEC: models.algorithm(scale, GSM, DISTILLSPEC)}
    more = {"RULES": str(rules), "TEMPERATURES": str(tuple(scale.lenient_warmth))}
    target = scale.target_of(GSM)
    return [Measurement("f_lossy", GSM, target, drafters, scale.prompts, scale.timed, bindings=more)]


def largest_step(way: Sequence[Pool]) -> Interval:
    """The share of a curve's whole rise in block efficiency that one step between neighbouring ε makes.

    1: a single jump; as small as 1 over the number of steps: even ones. NaN with fewer than two steps.

    Args:
      way: drafts at falling ε, the lossless rule first.
    """
    if len(way) < 3:
        return UNKNOWN
    columns = [one.counts(name) for one in way for name in ("emitted", "target_calls")]

    def share(s: np.ndarray) -> np.ndarray:
        steps = np.abs(np.diff(np.log(s[..., 0::2] / s[..., 1::2]), axis=-1))
        return paired.divide(steps.max(-1), steps.sum(-1))

    return paired.interval(columns, share)


def page(rows: Sequence[ResultRow]) -> Found:
    """Every rule beside the token rule: tokens a call, speed, score."""
    rules = list(dict.fromkeys(row.verifier or "token" for row in rows if row.is_drafted))
    lenient = [rule for rule in rules if ":" in rule and float(rule.partition(":")[2]) < 1]
    gains, speeds, scores, heads, exact, texts = [], [], [], [], [], 0
    spans: list[list[str]] = []
    steps: dict[str, list[Interval]] = {function: [] for function in FUNCTIONS}
    metric = next((row.primary_metric for row in rows if row.primary_metric), "score")
    warmth = summary.temperatures(rows)
    drawn = figure(8.0, 3.2)
    axes_of = drawn.subplots(1, max(1, len(warmth)), squeeze=False).flat
    for t, axes in zip(warmth, axes_of, strict=False):
        of_cell = select(rows, temperature=t)
        plain = pool(of_cell, DISTILLSPEC, verifier="token")
        if plain is None:
            continue
        for i, function in enumerate(FUNCTIONS):
            way, curve = [], [plain]
            for rule in rules:
                found = pool(of_cell, DISTILLSPEC, verifier=rule)
                name, _, epsilon = rule.partition(":")
                if name != function or found is None:
                    continue
                way.append((found.efficiency.value, float(found.score.mean())))
                if rule not in lenient:
                    exact.append(found.rows[0].same_outputs(plain.rows[0]))
                    texts += plain.prompts
                    continue
                curve.append(found)
                here = f"T = {t:g}, {function}, ε = {epsilon}"
                heads.append([here, times(found.efficiency), f"{found.score.mean():.1f}"])
                gains.append(efficiency_ratio(here, found, plain))
                speeds.append(speed_ratio(here, found, plain))
                scores.append(score_difference(here, found, plain))
            axes.plot(*zip(*way, strict=True), "o-", ms=4, color=COLOURS[i], label=function)
            whole = efficiency_ratio("", curve[-1], plain).interval
            worst = float(min(one.score.mean() for one in curve) - plain.score.mean())
            steps[function].append(largest_step(curve))
            spans.append(
                [f"T = {t:g}, {function}", times(whole), f"{worst:+.1f}", times(steps[function][-1])]
            )
        axes.axhline(float(plain.score.mean()), color="0.5", lw=0.8, label="token rule")
        axes.set(title=f"T = {t:g}", xlabel="tokens a call", ylabel=metric)
        axes.legend(fontsize=7)
    columns = zip(heads, marked(gains), marked(speeds), marked(scores, 1), strict=True)
    head = [
        "",
        "tokens a call",
        metric,
        "tokens over lossless",
        "speed over lossless",
        f"{metric} − lossless",
    ]
    own = [one for one in gains if USABLE in one.name]
    lost = [one for one in scores if USABLE in one.name]
    said = verdict(own, what=f"ratios of the {USABLE} rule's block efficiency over lossless", among=gains)
    quality = verdict(lost, expected=0, what=f"differences of its {metric}", among=scores)
    lower = sum(one.side < 0 for one in lost)
    of_spans = ["", "most lenient over lossless, tokens a call", f"largest loss of {metric}"]
    of_spans.append("largest step, share of the rise")
    return Found(
        f"Speed: {said} Quality: {lower} of {len(lost)} of its scores lie below the lossless one "
        f"({quality.partition(': ')[2].rstrip('.')}). At ε = 1 {sum(exact)} of {texts} texts are the token "
        f"rule's, token for token. {interpolation_said(steps)} {prompts_said(rows)}.",
        "\n\n".join((markdown(head, [[*line, *more] for line, *more in columns]), markdown(of_spans, spans))),
        drawn,
    )


def interpolation_said(steps: Mapping[str, Sequence[Interval]]) -> str:
    """Whether the curves of the other functions jump where the usable one's rises step by step."""
    found = {name: [one for one in some if one.ends is not None] for name, some in steps.items()}
    if not all(found.values()):
        return "How well p/ε and p/ε² interpolate cannot be told from so few ε."
    usable, count = found.pop(USABLE), sum(map(len, found.values()))
    above = sum(one.low > own.high for some in found.values() for one, own in zip(some, usable, strict=False))
    shown = ", ".join(
        f"{name} {min(one.value for one in some):.2f} to {max(one.value for one in some):.2f}"
        for name, some in {**found, USABLE: usable}.items()
    )
    return (
        f"Largest step between neighbouring ε, as a share of the whole rise: {shown}; that of p/ε or p/ε² is "
        f"surely larger (intervals apart) in {above} of {count} curves."
    )


EXPERIMENT = Experiment(
    "f",
    "Lossy: lenient acceptance",
    "The paper claims (section 4.3 and Figure 5b, by second-hand texts) on GSM8K that p^ε gives a usable "
    "curve between quality and latency, and that p/ε and p/ε² interpolate little.",
    measure,
    page,
)
