"""The page of a pilot says the same in both languages, and needs nothing else."""

import math
import re
import string

import pytest

from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation.paired import Interval
from distillspec_jax.evaluation.prospect import Finding, Prospect
from distillspec_jax.reports import pilot_page
from distillspec_jax.reports.pilot_texts import LANGUAGES, TEXTS

NUMBER = re.compile(r"[-+]?\d(?:[\d,]*\d)?(?:\.\d+)?")


def finding(outcome="go", why=None, needed=None, data="folder/mine.jsonl"):
    return Finding(
        outcome=outcome,
        why=why,
        prospect=Prospect(
            seen=Interval(1.041, 1.02, 1.063),
            gain=Interval(1.0711, 1.02, 1.109),
            training_seconds=1234.4,
            seconds_a_request=0.21,
            saved=Interval(0.0139, 0.0041, 1.5),
            requests=Interval(88_805.2, 823.1, math.inf),
        ),
        acceptance=(Interval(0.601, 0.58, 0.62), Interval(0.62, 0.6, 0.64)),
        block_efficiency=(Interval(2.1, 2.0, 2.2), Interval(2.2, 2.1, 2.3)),
        target="runs/target",
        draft="runs/draft",
        data=data,
        prompts=(500, 405, 95),
        pilot_steps=100,
        steps=300,
        temperature=1.0,
        block_size=5,
        device="cpu",
        least_gain=0.01,
        pay_back_requests=100_000,
        needed=needed,
    )


EVERY = [
    ("go", None, None),
    ("no-go", "gain", None),
    ("no-go", "cost", None),
    ("not enough", "gain", None),
    ("not enough", "gain", 260),
    ("not enough", "cost", None),
]


def test_every_text_has_the_same_values_in_both_languages():
    for key, texts in TEXTS.items():
        assert len(texts) == len(LANGUAGES)
        english, japanese = (
            {name for _, name, _, _ in string.Formatter().parse(text) if name} for text in texts
        )
        assert english == japanese, key


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_numbers_do_not_depend_on_the_language(case):
    """A number was formatted by a language, or left out of one."""
    told = ["\n".join(pilot_page.lines(finding(*case), language)) for language in LANGUAGES]
    english, japanese = (sorted(NUMBER.findall(text)) for text in told)
    # "1 回" and "1 件" are Japanese for "a call" and "a request".
    missing = [one for one in set(english) if english.count(one) > japanese.count(one)]
    assert missing == []
    assert {one for one in japanese if one not in english} <= {"1"}


def test_what_is_told():
    told = "\n".join(pilot_page.lines(finding(), "en"))
    for line in (
        "Acceptance today: 0.60 (0.58 – 0.62)",
        "Change by the whole training: +7.1 % (+2.0 % – +10.9 %)",
        "Cost: 1,234 s",
        "Saved a request: 13.9 ms (4.1 ms – 1.5 s)",
        "Break-even requests: 88,806 (824 – ∞)",
    ):
        assert line in told
    needed = "\n".join(pilot_page.lines(finding("not enough", "gain", 260), "en"))
    assert (
        "Collect about 1,369 different prompts in all, of which 260 are held out" in needed
    )  # 260 · 500 / 95


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_needs_nothing_else(tmp_path, language):
    path = tmp_path / "pilot.html"
    pilot_page.write(path, finding(data="a/<b>&.jsonl"), language)
    page = path.read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|src=|href=|url\(|https?:", page)
    assert "&lt;b&gt;&amp;.jsonl" in page
    assert "<b>&" not in page
    assert len(page.encode()) < 20_000
    places = [float(one) for one in re.findall(r"(?:left|width): (-?\d+\.\d\d)%", page)]
    assert len(places) == 2 * 4  # of two bars: what is asked for, the interval, its width, the value
    assert all(0 <= one <= 100 for one in places)
    pilot_page.write(path, finding(), language)  # its own page
    path.write_text("a file of others")
    with pytest.raises(UsageError, match="no earlier output"):
        pilot_page.write(path, finding(), language)
