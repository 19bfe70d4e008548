"""The page holds the numbers and needs nothing else."""

import dataclasses
import html as html_module
import html.parser
import json
import re
import warnings

import pytest

from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import results
from distillspec_jax.generation.trace import Round
from distillspec_jax.reports import plots, summary, tables
from distillspec_jax.reports.html import TracedPrompt, report
from distillspec_jax.terminal import shown
from tests.evaluation import simulated

ROWS = simulated.rows()
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
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
    assert not re.search(r"https?:|//\w|@import|src=|<link|<script|<iframe", page)
    for name, value in Page(page).attributes:
        if name in ("href", "xlink:href", "clip-path"):
            assert re.fullmatch(r"#.+|url\(#.+\)", value), (name, value)


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
        assert " ".join(said.sentence.split()) in text
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
            "prompt by prompt",
            "by draft position",
        ):
            assert any(what in label and f"temperature {temperature}" in label for label in labels), what
    assert {"training loss by training step", "held-out acceptance, T = 1 by training step"} <= set(labels)
    assert len(labels) == Page(page).tags.count("svg") == 10


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
    svg = plots.block_efficiency(ROWS, 1.0)
    assert all(f">{label}<" in svg for label in (*simulated.ACCEPTANCE, "if independent"))
    rows = [dataclasses.replace(row, speedup=None, speedup_ci95=None) for row in ROWS]
    assert plots.speedup(rows, 1.0) is None
    assert plots.training({"a": [{"step": 1, "split": "train"}]}, "train", "loss", "loss") is None


def test_differing_outputs_are_not_hidden(tmp_path):
    rows = [
        dataclasses.replace(row, matches_autoregressive=38)
        if (row.drafter, row.block_size) == ("control", 3) and row.temperature == 0
        else row
        for row in ROWS
    ]
    text = report(rows, tmp_path / "r.html").read_text()
    assert "differ from those without a draft in 1 of 12 cells, most in control at γ = 3: 38 of 40" in text


def test_several_files_and_untimed_rows_make_sections(files, tmp_path):
    nothing = {"timing": None, "speedup": None, "speedup_ci95": None, "quality": {}, "primary_metric": None}
    for row in simulated.rows(task="gsm_symbolic", prompts=6):
        results.append(tmp_path / "other.jsonl", dataclasses.replace(row, **nothing))
    rows = results.read([files / "results.jsonl", tmp_path / "other.jsonl"])
    text = report(rows, tmp_path / "r.html").read_text()
    assert text.count("<section>") == 2
    assert "Speculative decoding: wiki_leads, gsm_symbolic" in text
    assert len(re.findall("Measured speed-up by block size", text)) == 2
    bare = [row for row in ROWS if row.drafter == "none"]
    assert "no drafter was measured" in report(bare, tmp_path / "b.html").read_text()


def test_a_bad_training_file_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"loss": 2}\n')
    with pytest.raises(UsageError, match=r"metrics.jsonl:2: .*no field 'step'"):
        report(ROWS, tmp_path / "r.html", training={"x": tmp_path / "metrics.jsonl"})
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": "low"}\n')
    with pytest.raises(UsageError, match=r"metrics.jsonl:1: field loss: expected .*, got 'low'"):
        report(ROWS, tmp_path / "r.html", training={"x": tmp_path / "metrics.jsonl"})
    assert not (tmp_path / "r.html").exists()


def test_a_log_of_0_1_that_is_being_written_is_read(tmp_path):
    """It has NaN, which is no JSON, and its last line is not whole."""
    lines = [
        '{"step": 1, "split": "train", "loss": NaN}',
        '{"step": 2, "split": "train", "loss": 1.5}',
        '{"st',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    page = report(ROWS, tmp_path / "r.html", training={"x": tmp_path / "metrics.jsonl"}).read_text()
    assert "training loss by training step" in page


def test_a_row_without_a_score_or_a_speed_up_of_bytes_has_a_dash(tmp_path):
    """Rows of one group may have been scored by others: a page of them was a traceback."""
    bare = dataclasses.replace(ROWS[2], quality={}, primary_metric=None, mbsu=None)
    page = report([*ROWS, bare], tmp_path / "r.html").read_text()
    assert "<td>–</td>" in page
    tables.print_table([*ROWS, bare])


@pytest.mark.parametrize("label", ["$\\frac$", "_hidden", "a\x1b[2J\udcffb"])
def test_a_plot_writes_a_label_as_it_is(label):
    """As mathematics the first ended in a traceback; legends leave out what begins with a line below."""
    rows = [dataclasses.replace(row, drafter=label) if row.drafter == "distilled" else row for row in ROWS]
    for plot in (plots.block_efficiency(rows, 0.0), plots.by_position(rows, 0.0)):
        assert shown(label) in html_module.unescape(plot)


def test_a_long_label_leaves_room_for_the_plot():
    """Matplotlib gave up the layout, with a warning on the terminal."""
    label = "a" + "é" * 6000 + "z"
    rows = [dataclasses.replace(row, drafter=label) if row.drafter == "distilled" else row for row in ROWS]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot = html_module.unescape(plots.block_efficiency(rows, 0.0))
    assert f"a{'é' * 19}…{'é' * 19}z" in plot
