"""The verdict of `benchmarks.curves`: sources against references, on test prompts that chose nothing.

Divergence, rate and step of each source are the best on validation prompts. The drafts that were kept at
these steps, one a seed, are measured once on the target's texts for test prompts, the same texts for all of
them. A difference counts if neither its interval over prompts nor that over seeds holds 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks import causes
from benchmarks.curves_page import chosen, mean_curve
from benchmarks.curves_results import ACCEPTANCE, Curve
from distillspec_jax import files
from distillspec_jax.distillation.expected_acceptance import SAMPLED
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import paired
from distillspec_jax.evaluation.paired import Interval
from distillspec_jax.models import pretrained
from distillspec_jax.showcase.recipes import RECIPES
from distillspec_jax.training import selection

REFERENCES = "fixed"
COMPARED: Mapping[str, str] = {
    "on_policy": "own samples alone",
    "fixed_own": "half own samples, half references",
    "mix": "half own samples, half the target's texts",
}
"""Sources that are compared with the references, each for itself: what they hold."""
TESTED = "test.json"
Sums = Mapping[str, Sequence[float]]
"""`acceptance`, the sum over a text's tokens, and `tokens`, their number; an entry a text."""


def measure(curves: Sequence[Curve], tasks: Iterable[str], root: Path, prompts: int) -> Iterator[str]:
    """Measures the chosen drafts that `test.json` lacks; yields a line each.

    Raises:
      UsageError: it holds measurements on another number of prompts.
    """
    path, kept = root / TESTED, tested(root)
    for sums in kept.values():
        if (there := len(sums["tokens"])) != prompts:
            raise UsageError(f"--prompts={prompts}: {path} has drafts on {there}: take {there}, or remove it")
    for task in tasks:
        drafts = [curve for source in (REFERENCES, *COMPARED) for curve in chosen(curves, task, source)]
        folders = {c.name: root / "models" / c.name / selection.BEST for c in drafts if c.name not in kept}
        for name, sums in measured(task, folders, prompts) if folders else ():
            kept[name] = sums
            files.write_json(path, kept)
            yield f"{name}: {alpha(sums):.4f} on {len(sums['tokens'])} test prompts"


def tested(root: Path) -> dict[str, Sums]:
    """Reads what was measured, by a curve's name."""
    path = root / TESTED
    return dict(files.read_json(path)) if path.exists() else {}


def measured(task: str, folders: Mapping[str, Path], prompts: int) -> Iterator[tuple[str, Sums]]:
    """Measures drafts on one set of the target's texts at temperature 1, drawn under a fixed seed."""
    target = pretrained.load(RECIPES[task].target)
    batches, vocabulary = causes.prompts(task, target.name, "test", prompts)
    texts = causes.drawn(target, batches, SAMPLED, vocabulary)
    for name, folder in folders.items():
        sums = causes.of_texts(target, pretrained.load(folder), texts, vocabulary)
        yield name, {column: sums[column].tolist() for column in ("acceptance", "tokens")}


def alpha(sums: Sums) -> float:
    """Pools acceptance over tokens."""
    return float(np.sum(sums["acceptance"]) / np.sum(sums["tokens"]))


def differences(ours: Sequence[Sums], theirs: Sequence[Sums]) -> tuple[Interval, Interval]:
    """Computes how much more one source's seeds accept than another's: over prompts and over seeds.

    Returns:
      The same difference with two 95 % intervals: a paired bootstrap over prompts of the seeds' mean, and
      Welch's t interval over seeds, whose ends are NaN where a source has one seed.
    """
    mean, other = (np.mean([sums["acceptance"] for sums in seeds], axis=0) for seeds in (ours, theirs))
    over_prompts = paired.ratio(mean - other, ours[0]["tokens"])
    low, high = np.nan, np.nan
    if min(len(ours), len(theirs)) > 1:
        values = [[alpha(sums) for sums in seeds] for seeds in (ours, theirs)]
        low, high = stats.ttest_ind(*values, equal_var=False).confidence_interval(0.95)
    return over_prompts, Interval(over_prompts.value, float(low), float(high))


def outcome(over_prompts: Interval, over_seeds: Interval) -> str:
    """Says what both intervals agree on: `above`, `below` or `undecided`."""
    both = over_prompts, over_seeds
    if all(one.low > 0 for one in both):
        return "above"
    return "below" if all(one.high < 0 for one in both) else "undecided"


def best_so_far(curve: Mapping[int, float], scale: float = 1.0) -> dict[float, float]:
    """The value of the draft that would be kept at each place, a step times `scale`."""
    reached = np.maximum.accumulate([curve[step] for step in sorted(curve)])
    return {scale * step: float(value) for step, value in zip(sorted(curve), reached, strict=True)}


def overtakes(ours: Mapping[float, float], theirs: Mapping[float, float]) -> float | None:
    """Finds from where on one curve is never below another; None: at the end it is.

    Args:
      ours, theirs: place (a step, a second) to value. Between two places a curve is a line, behind its last
        one it stays as it is: it was ended because it rose no more.
    """
    if not ours or not theirs:
        return None
    places = sorted({*ours, *theirs})
    lines = (np.interp(places, sorted(one), [one[x] for x in sorted(one)]) for one in (ours, theirs))
    below = np.flatnonzero(np.less(*lines))
    if not len(below):
        return places[0]
    return None if below[-1] == len(places) - 1 else places[below[-1] + 1]


def verdict(curves: Sequence[Curve], task: str, known: Mapping[str, Sums]) -> str:
    """Compares each source with the references, in Markdown: on test prompts, and from which budget on."""
    fixed, lines = chosen(curves, task, REFERENCES), []
    for source, what in COMPARED.items():
        own = chosen(curves, task, source)
        ours, theirs = ([known[c.name] for c in seeds if c.name in known] for seeds in (own, fixed))
        if not ours or not theirs:
            lines.append(f"`{source}` ({what}): not yet measured beside `{REFERENCES}`.")
            continue
        over_prompts, over_seeds = differences(ours, theirs)
        found = outcome(over_prompts, over_seeds)
        if source == "on_policy":
            order = {"above": "holds", "below": "does not hold", "undecided": "is undecided"}[found]
            found = f"the paper's order {order}"
        lines.append(
            f"`{source}` ({what}): {over_prompts.value:+.3f} over `{REFERENCES}` "
            f"({over_prompts.low:+.3f} to {over_prompts.high:+.3f} over prompts, "
            f"{over_seeds.low:+.3f} to {over_seeds.high:+.3f} over {len(ours)} and {len(theirs)} seeds): "
            f"{found}; {_budgets(own, fixed)}."
        )
    texts = {len(sums["tokens"]) for name, sums in known.items() if name.startswith(f"{task}-")}
    head = f"{task}, T = 1, difference of 1 − TVD on {max(texts, default=0)} test prompts (95 %):"
    return "\n".join([f"{head}\n", *(f"- {line}" for line in lines)])


def _budgets(own: Sequence[Curve], fixed: Sequence[Curve]) -> str:
    """Says from where on one source is never behind the other on validation prompts."""
    told = []
    for unit in ("steps", "seconds"):
        place = overtakes(
            *(
                best_so_far(mean_curve(of, ACCEPTANCE), of[0].seconds_a_step if unit == "seconds" else 1.0)
                for of in (own, fixed)
            )
        )
        told.append(
            f"in {unit} behind to the end" if place is None else f"never behind from {place:,.0f} {unit} on"
        )
    return "on validation prompts " + ", ".join(told)
