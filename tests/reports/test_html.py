"""The page holds the numbers and needs nothing else."""

import base64
import dataclasses
import hashlib
import html as html_module
import json
import re
import warnings
from html.parser import HTMLParser

import pytest

from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import results
from distillspec_jax.generation.trace import Round
from distillspec_jax.reports import figures, html, plots, summary, tables
from distillspec_jax.reports.html import TracedPrompt, report
from distillspec_jax.terminal import shown
from tests.evaluation import simulated

ROWS = simulated.rows()
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Text, attributes and nesting of a page."""

    def __init__(self, source):
        super().__init__()
        self.open, self.text, self.attributes, self.tags, self.lost = [], "", [], [], []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.lost.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.text += data


@pytest.fixture
def undrawn(monkeypatch):
    """Pages of tables alone, written in a moment."""
    monkeypatch.setattr(html, "MOST_DRAWN", 0)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    for row in ROWS:
        results.append(folder / "results.jsonl", row)
    lines = [{"step": step, "split": "train", "loss": 2.0 / step} for step in range(1, 30)]
    lines += [{"step": step, "split": "eval", "acceptance_expected_T1": 0.5} for step in (10, 20)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def page(files):
    example = TracedPrompt(
        "distilled", "<b>rest</b>", [Round(("The ", "ri"), "ver", 5), Round((), " & sea", 5)]
    )
    report(
        results.read([files / "results.jsonl"]),
        files / "out" / "report.html",
        training={"distilled": files / "metrics.jsonl"},
        examples=[example],
        title="A <title>",
    )
    return (files / "out" / "report.html").read_text()


def test_the_page_loads_nothing(page):
    body, script = page.split("<script>")
    assert not re.search(r"https?:|//\w|@import|src=|<link|<script|<iframe", body)
    assert not re.search(r"https?:|//\w|import|fetch|XMLHttp|WebSocket|eval|src|innerHTML", script)
    for name, value in Page(page).attributes:
        if name in ("href", "xlink:href", "clip-path"):
            assert re.fullmatch(r"#.+|url\(#.+\)", value), (name, value)


def test_only_the_page_s_own_script_runs(page):
    """A browser compares a script with the hash in the policy: no label can bring one."""
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert html_module.unescape(policy).split("; ")[::2] == [
        "default-src 'none'",
        f"script-src 'sha256-{digest}'",
    ]


def test_every_cell_sorts_by_its_own_number(page):
    """The script reads `data-value`: as text 10 stood before 9, and an interval was part of the number."""
    found = re.findall(r"<td(?: data-value=\"([^\"]+)\")?>([^<]*)", page)
    assert len(found) > 100
    for value, text in found:
        if text.strip() == "–":
            assert value in ("", "0"), text  # the baseline's block size
        else:
            assert float(value) == pytest.approx(float(text), abs=0.051), text


def test_the_page_is_well_formed(page):
    found = Page(page)
    assert (found.lost, found.open) == ([], [])
    ids = [value for name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    used = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', page)
    assert {part for pair in used for part in pair if part} <= set(ids), (
        "a drawing refers to what is not there"
    )


def test_the_page_holds_the_numbers(page):
    text = " ".join(Page(page).text.split())
    assert "A <title>" in text
    for row in ROWS:
        for field in ("acceptance_tested", "block_efficiency", "speedup"):
            assert tables.with_interval(row, field) in text
    for temperature in (0.0, 1.0):
        said = summary.finding(ROWS, temperature)
        assert all(" ".join(sentence.split()) in text for sentence in said.sentences)
        assert f"×{said.ratio.value:.2f}" in text
    assert "40 prompts in each of 12 cells" in text
    for part in ("abc1234", "cpu: 1 × cpu, 2 CPU cores", "distillspec demo", "best of 2 runs"):
        assert part in text


def test_every_plot_is_there_and_says_what_it_shows(page):
    labels = [value for name, value in Page(page).attributes if name == "aria-label"]
    for temperature in (0, 1):
        for what in (
            "Block efficiency by block size",
            "Measured speed-up",
            "Block efficiency predicted and measured",
            "prompt by prompt",
            "Accepted drafts a round",
            "by draft position",
            "Latency of requests",
        ):
            assert any(what in label and f"temperature {temperature}" in label for label in labels), what
    assert {"training loss by training step", "held-out acceptance, T = 1 by training step"} <= set(labels)
    drawn = [label for label in labels if not label.startswith("table, ")]
    assert len(drawn) == Page(page).tags.count("svg") == 16


def test_the_card_holds_the_first_sentence_and_folds_the_rest(page):
    first, *rest = summary.finding(ROWS, 1.0).sentences
    card = next(part for part in page.split('<div class="card">') if html_module.escape(first) in part)
    shown_at_once, folded = card.split("<details>", 1)
    assert first in html_module.unescape(shown_at_once)
    assert rest
    assert not any(sentence in html_module.unescape(shown_at_once) for sentence in rest)
    assert all(sentence in html_module.unescape(folded) for sentence in rest)


def test_colours_come_from_the_page(page):
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", drawn)) <= {
        "none",
        *(f"var(--{name})" for name in ("text", "muted", "rule", "series-0", "series-1", "series-2")),
    }
    assert "prefers-color-scheme: dark" in page
    assert "DejaVu" not in page


def test_an_example_marks_accepted_tokens_and_escapes_text(page):
    assert '<span class="kept">The </span><span class="kept">ri</span><span class="added">ver</span>' in page
    assert "&lt;b&gt;rest&lt;/b&gt;" in page
    assert "distilled: 2.00 tokens per target call" in Page(page).text


def test_plots_hold_the_measured_values():
    svg = plots.block_efficiency(ROWS, 1.0, 5)
    assert all(f">{label}<" in svg for label in (*simulated.ACCEPTANCE, "if independent"))
    rows = [dataclasses.replace(row, speedup=None, speedup_ci95=None) for row in ROWS]
    assert plots.speedup(rows, 1.0, 5) is None
    assert plots.training({"a": [{"step": 1, "split": "train"}]}, "train", "loss", "loss") is None


def test_differing_outputs_are_not_hidden():
    rows = [
        dataclasses.replace(row, matches_autoregressive=38)
        if (row.drafter, row.block_size) == ("control", 3) and row.temperature == 0
        else row
        for row in ROWS
    ]
    assert html._matches(rows) == (
        "At T = 0 outputs differ from those without a draft in 1 of 12 cells, most in control at γ = 3: "
        "38 of 40 prompts are equal."
    )
    rows = [dataclasses.replace(row, matches_autoregressive=None) for row in rows]
    assert html._matches(rows) is None, "of an unmerged shard"


def test_prompts_that_failed_are_neither_equal_nor_differing():
    """Two that failed at one token counted as equal, one that failed with the draft alone as differing."""

    def failing(row, *failed, differing=()):
        found = row.per_prompt
        digest = [f"other {i}" if i in differing else one for i, one in enumerate(found.output_digest)]
        why = ["failed" if i in failed else one for i, one in enumerate(found.finish_reason)]
        per_prompt = dataclasses.replace(found, output_digest=digest, finish_reason=why)
        same = row.prompts - len(differing)
        return dataclasses.replace(row, per_prompt=per_prompt, matches_autoregressive=same)

    baseline, row = [row for row in ROWS if row.temperature == 0 and row.block_size in (0, 3)][:2]
    baseline = failing(baseline, 0, 1)
    equal = (
        "At T = 0 every drafted output equals the output without a draft, token for token: 37 prompts in "
        "one cell. Up to 3 of 40 prompts a cell failed to decode, with or without the draft, and are not "
        "compared."
    )
    assert html._matches([baseline, failing(row, 0, 1, 2, differing=(2,))]) == equal
    assert html._matches([failing(row, 0, 1, 2)]) == equal, "without the baseline, those of the draft"
    told = html._matches([baseline, failing(row, 0, 1, 2, differing=(2, 5))])
    assert ": 36 of 37 prompts are equal. Up to 3 of 40" in told


def test_several_files_and_untimed_rows_make_sections(files, tmp_path, monkeypatch):
    nothing = {"timing": None, "speedup": None, "speedup_ci95": None, "quality": {}, "primary_metric": None}
    for row in simulated.rows(task="gsm_symbolic", prompts=6, block_sizes=(3, 5)):
        if row.temperature == 1:
            results.append(tmp_path / "other.jsonl", dataclasses.replace(row, **nothing))
    rows = results.read([files / "results.jsonl", tmp_path / "other.jsonl"])
    monkeypatch.setattr(html, "MOST_DRAWN", 0)
    text = report(rows, tmp_path / "r.html").read_text()
    assert text.count("<section>") == text.count("Figures of these rows are left out") == 2
    assert "Speculative decoding: wiki_leads, gsm_symbolic" in text
    untimed = Page(text[text.rindex("<section>") :])
    assert "speed-up" not in untimed.text.split("Command")[0], "a column without a number"
    bare = [row for row in ROWS if row.drafter == "none"]
    alone = report(bare, tmp_path / "b.html").read_text()
    assert "no drafter was measured" in alone
    assert "None" not in alone.split("<footer>")[0]


def test_drawings_stop_where_the_page_would_become_too_large(tmp_path, monkeypatch):
    plot = figures.Plot("T = 0", f"<svg>{'.' * 1_500_000}</svg>")
    monkeypatch.setattr(figures, "figures", lambda *_: [figures.Figure("large", "", [plot])])
    rows = [row for task in ("one", "two", "three") for row in simulated.rows(task=task, prompts=6)]
    page = report(rows, tmp_path / "r.html").read_text()
    assert (page.count("<svg>"), page.count("Figures of these rows are left out")) == (1, 2)
    assert len(page) < 3_000_000


def test_lines_that_cannot_be_read_are_counted_and_named(tmp_path, undrawn):
    broken = [f"old.jsonl:{n}: <no> JSON" for n in range(1, 23)]
    page = Page(report(ROWS, tmp_path / "r.html", broken=broken).read_text())
    assert "22 lines of the results could not be read and are left out." in page.text
    assert "old.jsonl:20: <no> JSON" in page.text
    assert "And 2 more." in page.text
    one = Page(report(ROWS, tmp_path / "r.html", broken=broken[:1]).read_text())
    assert "1 line of the results could not be read and is left out." in one.text


def test_a_bad_training_file_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"loss": 2}\n')
    with pytest.raises(UsageError, match=r"metrics.jsonl:2: .*no field 'step'"):
        report(ROWS, tmp_path / "r.html", training={"x": tmp_path / "metrics.jsonl"})
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": "low"}\n')
    with pytest.raises(UsageError, match=r"metrics.jsonl:1: field loss: expected .*, got 'low'"):
        report(ROWS, tmp_path / "r.html", training={"x": tmp_path / "metrics.jsonl"})
    assert not (tmp_path / "r.html").exists()


def test_a_log_of_0_1_that_is_being_written_is_read(tmp_path, undrawn):
    """It has NaN, which is no JSON, and its last line is not whole."""
    lines = [
        '{"step": 1, "split": "train", "loss": NaN}',
        '{"step": 2, "split": "train", "loss": 1.5}',
        '{"st',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    page = report(ROWS, tmp_path / "r.html", training={"x": tmp_path / "metrics.jsonl"}).read_text()
    assert "training loss by training step" in page


def test_a_row_without_a_score_or_a_speed_up_of_bytes_has_a_dash(tmp_path, undrawn):
    """Rows of one group may have been scored by others: a page of them was a traceback."""
    bare = dataclasses.replace(ROWS[2], quality={}, primary_metric=None, mbsu=None)
    page = report([*ROWS, bare], tmp_path / "r.html").read_text()
    assert "<td>–</td>" in page
    tables.print_table([*ROWS, bare])


@pytest.mark.parametrize("label", ["$\\frac$", "_hidden", "a\x1b[2J\udcffb"])
def test_a_plot_writes_a_label_as_it_is(label):
    """As mathematics the first ended in a traceback; legends leave out what begins with a line below."""
    rows = [dataclasses.replace(row, drafter=label) if row.drafter == "distilled" else row for row in ROWS]
    for plot in (plots.block_efficiency(rows, 0.0, 5), plots.by_position(rows, 0.0, 5)):
        assert shown(label) in html_module.unescape(plot)


def test_a_long_label_leaves_room_for_the_plot():
    """Matplotlib gave up the layout, with a warning on the terminal."""
    label = "a" + "é" * 6000 + "z"
    rows = [dataclasses.replace(row, drafter=label) if row.drafter == "distilled" else row for row in ROWS]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot = html_module.unescape(plots.block_efficiency(rows, 0.0, 5))
    assert f"a{'é' * 19}…{'é' * 19}z" in plot
