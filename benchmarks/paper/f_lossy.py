"""(f) Lenient rules: how much faster, and at what quality."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.paper import models
from benchmarks.paper.experiment import COLOURS, Experiment, Found, Measurement, figure, prompts_said
from benchmarks.paper.models import DISTILLSPEC
from benchmarks.paper.rows import efficiency_ratio, pool, score_difference, select, speed_ratio
from benchmarks.paper.scales import GSM, Scale
from benchmarks.paper.verdicts import markdown, marked, times, verdict
from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.reports import summary

FUNCTIONS = ("linear", "square", "exponential")
USABLE = "exponential"


def measure(scale: Scale, rows: Sequence[ResultRow] | None) -> list[Measurement]:
    """DistillSpec's draft under the token rule, and under each lenient one at each ε."""
    rules = ("token", *(f"{function}:{epsilon:g}" for function in FUNCTIONS for epsilon in scale.epsilons))
    drafters = {DISTILLSPEC: models.algorithm(scale, GSM, DISTILLSPEC)}
    more = {"RULES": str(rules)}
    target = scale.target_of(GSM)
    return [Measurement("f_lossy", GSM, target, drafters, scale.prompts, scale.timed, bindings=more)]


def page(rows: Sequence[ResultRow]) -> Found:
    """Every rule beside the token rule: tokens a call, speed, score."""
    rules = list(dict.fromkeys(row.verifier or "token" for row in rows if row.is_drafted))
    lenient = [rule for rule in rules if ":" in rule and float(rule.partition(":")[2]) < 1]
    gains, speeds, scores, heads, exact, texts = [], [], [], [], [], 0
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
            way = []
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
                here = f"T = {t:g}, {function}, ε = {epsilon}"
                heads.append([here, times(found.efficiency), f"{found.score.mean():.1f}"])
                gains.append(efficiency_ratio(here, found, plain))
                speeds.append(speed_ratio(here, found, plain))
                scores.append(score_difference(here, found, plain))
            axes.plot(*zip(*way, strict=True), "o-", ms=4, color=COLOURS[i], label=function)
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
    said = verdict(own, what=f"ratios of the {USABLE} rule's block efficiency over lossless")
    quality = verdict(lost, expected=0, what=f"differences of its {metric}")
    lower = sum(one.side < 0 for one in lost)
    return Found(
        f"Speed: {said} Quality: {lower} of {len(lost)} of its scores lie below the lossless one "
        f"({quality.partition(': ')[2].rstrip('.')}). At ε = 1 {sum(exact)} of {texts} texts are the token "
        f"rule's, token for token. {prompts_said(rows)}.",
        markdown(head, [[*line, *more] for line, *more in columns]),
        drawn,
    )


EXPERIMENT = Experiment(
    "f",
    "Lossy: lenient acceptance",
    "The paper claims (section 4.3 and Figure 5b, by second-hand texts) on GSM8K that p^ε gives a usable "
    "curve between quality and latency, and that p/ε and p/ε² interpolate little.",
    measure,
    page,
)
