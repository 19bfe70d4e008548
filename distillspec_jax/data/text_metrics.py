"""Task quality: ROUGE, BLEU and exact match of the final number or answer. No TensorFlow here.

Each metric has two forms. Reports use the corpus form `(targets, predictions) -> {name: score}`, a seqio
metric function. Paired statistics over prompts use the per-example form; its mean is the corpus score for
ROUGE and exact match, but not for BLEU, which is not a mean over sentences. All scores are in 0..100.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import sacrebleu
from rouge_score import rouge_scorer

from distillspec_jax.errors import UsageError, nearest

_ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")
_ANSWER = re.compile(
    r"(?:####|\banswer is)[ :]*(?=(\S[^\n]*))", re.IGNORECASE
)  # ahead: one may follow on a line
_NUMBER_AFTER_HASHES = re.compile(r"####\s*([-+]?\d[\d,]*(?:\.\d+)?|[-+]?\.\d+)")


@functools.cache
def _rouge_scorer() -> rouge_scorer.RougeScorer:
    return rouge_scorer.RougeScorer(_ROUGE_TYPES, use_stemmer=True)


def _rouge_scores(target: str, prediction: str) -> dict[str, float]:
    scores = _rouge_scorer().score(target, prediction)
    return {name: 100.0 * scores[name].fmeasure for name in _ROUGE_TYPES}


def rouge(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Mean ROUGE-1/2/L F-measure with Porter stemming; an empty prediction scores 0."""
    _check_pairs(targets, predictions)
    scores = [_rouge_scores(t, p) for t, p in zip(targets, predictions, strict=True)]
    return {name: sum(score[name] for score in scores) / len(scores) for name in _ROUGE_TYPES}


def bleu(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Corpus BLEU with sacreBLEU's defaults: one reference, cased, 13a tokens, exponential smoothing."""
    _check_pairs(targets, predictions)
    return {"bleu": float(sacrebleu.corpus_bleu(list(predictions), [list(targets)]).score)}


def number_after_hashes(text: str) -> Decimal | None:
    """Returns the number after the last `####` followed by one (thousands commas allowed), None if absent."""
    found = _NUMBER_AFTER_HASHES.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


def exact_match(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Share of predictions whose number after `####` equals the target's as a number (13 == 13.0)."""
    _check_pairs(targets, predictions)
    matches = [_number_matches(t, p) for t, p in zip(targets, predictions, strict=True)]
    return {"exact_match": sum(matches) / len(matches)}


def _number_matches(target: str, prediction: str) -> float:
    expected = number_after_hashes(target)
    return 100.0 * (expected is not None and expected == number_after_hashes(prediction))


def final_answer(text: str) -> str:
    """Returns the text after the last `####` or "answer is", else the whole text, normalised for comparison.

    Case, outer spaces and a final full stop are ignored.
    """
    found = _ANSWER.findall(text)
    return (found[-1] if found else text).strip().removesuffix(".").strip().casefold()


def answer_match(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Share of predictions whose final answer equals the target's exactly (BIG-Bench-Hard's metric)."""
    _check_pairs(targets, predictions)
    matches = [_answer_matches(t, p) for t, p in zip(targets, predictions, strict=True)]
    return {"exact_match": sum(matches) / len(matches)}


def _answer_matches(target: str, prediction: str) -> float:
    return 100.0 * (final_answer(target) == final_answer(prediction))


def _sentence_bleu(target: str, prediction: str) -> float:
    return float(sacrebleu.sentence_bleu(prediction, [target], use_effective_order=True).score)


def repeats(text: str, n: int = 4) -> bool:
    """Tells whether any n consecutive words occur twice in a text, a sign of greedy decoding in a loop."""
    grams = _ngrams(text, n)
    return len(set(grams)) < len(grams)


def distinct(texts: Sequence[str], n: int) -> float:
    """Computes distinct word n-grams over all n-grams in the texts (distinct-n, arXiv 1510.03055)."""
    grams = [gram for text in texts for gram in _ngrams(text, n)]
    return len(set(grams)) / max(len(grams), 1)


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _check_pairs(targets: Sequence[str], predictions: Sequence[str]) -> None:
    if len(targets) != len(predictions) or not targets:
        raise ValueError(
            f"{len(targets)} targets but {len(predictions)} predictions; need pairs, at least one"
        )


@dataclass(frozen=True)
class Metric:
    """A metric by name.

    Attributes:
      corpus: the seqio metric function, None for the metric "none".
      example: score of one (target, prediction), None for the metric "none".
      primary: the key of `corpus`'s result that comparisons report.
    """

    corpus: Callable[[Sequence[str], Sequence[str]], dict[str, float]] | None
    example: Callable[[str, str], float] | None
    primary: str | None


METRICS: Mapping[str, Metric] = {
    "rouge": Metric(rouge, lambda target, prediction: _rouge_scores(target, prediction)["rougeL"], "rougeL"),
    "rouge2": Metric(rouge, lambda target, prediction: _rouge_scores(target, prediction)["rouge2"], "rouge2"),
    "bleu": Metric(bleu, _sentence_bleu, "bleu"),
    "number": Metric(exact_match, _number_matches, "exact_match"),
    "answer": Metric(answer_match, _answer_matches, "exact_match"),
    "none": Metric(None, None, None),
}


def find_metric(name: str) -> Metric:
    """Finds the metric called `name`.

    Raises:
      UsageError: there is none; names the nearest.
    """
    if name not in METRICS:
        raise UsageError(f"unknown metric {name!r}: {nearest(name, METRICS)}")
    return METRICS[name]


def per_example(metric_name: str, target: str, prediction: str) -> float:
    """Scores one prediction: ROUGE-L or 2, sentence BLEU (effective order), 0 / 100 for exact match.

    Raises:
      UsageError: the metric is unknown, or "none", which has no score.
    """
    example = find_metric(metric_name).example
    if example is None:
        raise UsageError(f"metric {metric_name!r} has no score per example")
    return example(target, prediction)
