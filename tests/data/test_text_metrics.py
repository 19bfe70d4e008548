import math
from decimal import Decimal

import pytest

from distillspec_jax.data import text_metrics
from distillspec_jax.errors import UsageError


def test_rouge_by_hand():
    # Unigrams: 3 of 4 predicted, 3 of 6 wanted: F = 2 * .75 * .5 / 1.25. Bigrams: 1 of 3, 1 of 5.
    # The longest common subsequence, "the cat mat", has 3.
    scores = text_metrics.rouge(["the cat sat on a mat"], ["the cat mat today"])
    assert scores == pytest.approx({"rouge1": 60.0, "rouge2": 25.0, "rougeL": 60.0})


def test_rouge_order_matters_to_bigrams_and_to_l_only():
    assert text_metrics.rouge(["one two"], ["two one"]) == pytest.approx(
        {"rouge1": 100, "rouge2": 0, "rougeL": 50}
    )


def test_rouge_is_the_mean_and_ignores_inflection():
    scores = text_metrics.rouge(["cats running", "x"], ["cat runs", ""])
    assert scores == pytest.approx({"rouge1": 50.0, "rouge2": 50.0, "rougeL": 50.0})


def test_bleu_by_hand():
    # 5 of 6 unigrams, 3 of 5 bigrams, 2 of 4 trigrams, 1 of 3 4-grams; no brevity penalty.
    expected = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert text_metrics.bleu(["a b c d e f"], ["a b c d x f"]) == pytest.approx({"bleu": expected})


def test_bleu_pools_over_the_corpus_and_penalises_brevity():
    targets, predictions = ["a b c d e", "f g h i j"], ["a b c d e", "f g h i"]
    # All 9, 7, 5 and 3 n-grams are right; 9 tokens for 10.
    assert text_metrics.bleu(targets, predictions) == pytest.approx({"bleu": 100 * math.exp(1 - 10 / 9)})


@pytest.mark.parametrize(
    "text, number",
    [
        ("3+4=7\n#### 7", Decimal(7)),
        ("#### 1,234.50", Decimal("1234.5")),
        ("#### -3", Decimal(-3)),
        ("####.5", Decimal("0.5")),
        ("#### 1\n#### 2", Decimal(2)),
        ("#### 12.", Decimal(12)),
        ("the answer is 7", None),
        ("#### none", None),
        ("", None),
    ],
)
def test_number_after_hashes(text, number):
    assert text_metrics.number_after_hashes(text) == number


def test_exact_match_compares_numbers_not_spelling():
    targets = ["#### 1200", "#### 3", "#### 4", "#### 5", "no number"]
    predictions = ["2*600\n#### 1,200.0", "#### 4", "", "5", "no number"]
    assert text_metrics.exact_match(targets, predictions) == {"exact_match": 20.0}


@pytest.mark.parametrize("name", ["rouge", "bleu", "number"])
def test_extremes_and_empty_predictions(name):
    metric = text_metrics.find_metric(name)
    targets = ["she has 4 * 2 eggs left\n#### 8", "so he pays 9 in all today\n#### 9"]
    assert metric.corpus(targets, targets)[metric.primary] == pytest.approx(100)
    assert metric.corpus(targets, ["", ""])[metric.primary] == 0
    assert text_metrics.per_example(name, targets[0], targets[0]) == pytest.approx(100)
    assert text_metrics.per_example(name, targets[0], "") == 0


@pytest.mark.parametrize("name", ["rouge", "number"])
def test_per_example_scores_average_to_the_corpus_score(name):
    metric = text_metrics.find_metric(name)
    targets = ["a b c #### 1", "d e f #### 2", "g h #### 3"]
    predictions = ["a c b #### 1", "d e #### 7", "#### 3 h"]
    scores = [text_metrics.per_example(name, t, p) for t, p in zip(targets, predictions, strict=True)]
    assert len(set(scores)) > 1
    assert sum(scores) / 3 == pytest.approx(metric.corpus(targets, predictions)[metric.primary])


def test_per_example_bleu_ignores_orders_that_a_short_sentence_has_none_of():
    # Two words have no trigrams: the geometric mean is over unigrams and bigrams, with 1 and 1.
    assert text_metrics.per_example("bleu", "Datei öffnen", "Datei öffnen") == pytest.approx(100)


def test_unknown_metric_names_the_nearest():
    with pytest.raises(UsageError, match=r"unknown metric 'rogue': did you mean 'rouge'\?"):
        text_metrics.find_metric("rogue")
    with pytest.raises(UsageError, match="'none' has no score"):
        text_metrics.per_example("none", "a", "a")


@pytest.mark.parametrize("function", [text_metrics.rouge, text_metrics.bleu, text_metrics.exact_match])
def test_unpaired_or_no_texts_are_refused(function):
    with pytest.raises(ValueError, match="2 targets but 1 predictions"):
        function(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="at least one"):
        function([], [])


@pytest.mark.parametrize(
    ("prediction", "score"),
    [
        ("(A)", 100),
        ("Let us see. So the answer is (a).", 100),
        ("The answer is (B). No, the answer is: (A).", 100),
        ("steps\n#### (A)", 100),
        ("The answer is (B).", 0),
        ("(A) or (B)", 0),
        ("", 0),
    ],
)
def test_answer_is_what_stands_last_and_nothing_else(prediction, score):
    assert text_metrics.answer_match(["(A)"], [prediction]) == {"exact_match": score}
    assert text_metrics.per_example("answer", "(A)", prediction) == score


def test_rouge2_quotes_bigrams():
    assert text_metrics.find_metric("rouge2").primary == "rouge2"
    assert text_metrics.per_example("rouge2", "the cat sat on a mat", "the cat mat today") == pytest.approx(
        25.0
    )


def test_repetition_by_hand():
    assert text_metrics.repeats("a b c d x a b c d")
    assert not text_metrics.repeats("a b c d x b c d a")
    assert not text_metrics.repeats("a a a a")  # one 4-gram alone
    assert text_metrics.repeats("a a a a a")
    # Bigrams: ab, bc, then ab again, and ax: three of four are different.
    assert text_metrics.distinct(["a b c", "a b", "a x"], 2) == pytest.approx(3 / 4)
    assert text_metrics.distinct(["a"], 2) == 0
