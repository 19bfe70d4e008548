"""Tables fit the terminal: no line is too long, and no word is cut in two."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console

from distillspec_jax.acceptance import REQUIRED, Record
from distillspec_jax.evaluation import sample_size
from distillspec_jax.evaluation.advice import Advice, SizeAdvice
from distillspec_jax.evaluation.audit import Audit
from distillspec_jax.evaluation.draft_shapes import DraftShape
from distillspec_jax.evaluation.held_out import HeldOut
from distillspec_jax.evaluation.served_lines import Served
from distillspec_jax.models import zoo_manifest
from distillspec_jax.reports import fitted, records, tables
from distillspec_jax.reports.fitted import Column
from distillspec_jax.reports.zoo_listing import print_zoo
from tests.evaluation import simulated

ROWS = simulated.rows(block_sizes=(1, 5))
LONG = "runs/2026-11/a_folder/with-a-long-name/of_a_draft"
LAYERS = "layers 0,10,19,29"


def printed(width: int, printer, *what) -> str:
    stream = io.StringIO()
    printer(*what, Console(file=stream, width=width, highlight=False))
    return stream.getvalue()


def advice() -> Advice:
    sizes = [
        SizeAdvice(n, 11.25 * n, 8.5 * n, 2.75 * n, 2.5, 1.75, None if n == 7 else 0.5) for n in (1, 3, 5, 7)
    ]
    pair = ("zoo:wiki_leads/target", "zoo:wiki_leads/distilled")
    return Advice(*pair, 8, 0.0, "cpu, 1 device(s)", 8.5, (120.5, 140.25), 0.6, 32, 3200, tuple(sizes))


def drafts() -> list[DraftShape]:
    mbsu = tuple((size, 1.25 + size) for size in (1, 2, 3, 10, 16))
    return [DraftShape(name, 134_515_008, 0.25, mbsu) for name in (LAYERS, "layers 0,29")]


def held_out() -> dict[str, HeldOut]:
    rng = np.random.default_rng(0)
    tokens, corpus = np.full(9, 100), {"rouge1": 22.0, "rouge2": 4.5, "rougeL": 19.5}
    return {
        name: HeldOut(rng.uniform(300, 400, 9), tokens, [], np.zeros(0), corpus)
        for name in ("zoo:target", LONG)
    }


def served() -> dict[str, list[tuple[str, Served]]]:
    counts_NC = np.random.default_rng(0).integers(5, 9, (50, 4))
    records = [
        Record(texts=1_000, **dict(zip(REQUIRED, map(int, counts_C), strict=True))) for counts_C in counts_NC
    ]
    return {LONG: [("1–50,000", Served(records)), ("50,001–50,003", Served(records[:3]))]}


CASES = {
    "advise": (tables.print_advice, (advice(),)),
    "draft": (tables.print_drafts, ("zoo:wiki_leads/target", drafts())),
    "evaluate": (tables.print_held_out, ("wiki_leads, test split", held_out())),
    "watch": (tables.print_served, (served(),)),
    "sweep": (tables.print_table, (ROWS,)),
    "check": (
        records.print_audit,
        ("results.jsonl", Audit(ROWS[:4], Record.total(served()[LONG][0][1].records), [], [])),
    ),
    "power": (records.print_requirements, ("a change", sample_size.requirements(ROWS[1:3], 0.05))),
    "zoo": (print_zoo, (zoo_manifest.manifest(),)),
    "findings": (tables.print_findings, (ROWS,)),
}


@pytest.mark.parametrize("width", [80, 60, 40, 20])
@pytest.mark.parametrize("case", CASES)
def test_no_line_is_too_long_and_no_word_is_cut(case, width):
    """Every word of the wide form stands in the narrow one, whole; only a word alone in its line is wider."""
    printer, what = CASES[case]
    whole, narrow = printed(1000, printer, *what), printed(width, printer, *what)
    assert "…" not in narrow
    lost = {w.strip(",;:=─") for w in whole.split()} - {w.strip(",;:=─") for w in narrow.split()}
    assert lost <= {"", "draft", "drafter", "model", "served"}, "headings that a list can do without"
    assert all(len(line) <= width or len(line.split()) == 1 for line in narrow.splitlines())


def test_the_layers_of_a_draft_stay_together_on_a_terminal_of_eighty_columns():
    table = printed(80, tables.print_drafts, "zoo:wiki_leads/target", drafts())
    assert f" {LAYERS} " in table


def test_the_numbers_of_a_row_stand_in_one_line_of_eighty_columns():
    lines = printed(80, tables.print_table, ROWS).splitlines()
    for row in ROWS:
        name = "no draft" if row.drafter == "none" else row.drafter
        measured = ("acceptance_tested", "block_efficiency", "speedup")
        wanted = [name, *(tables.with_interval(row, measure) for measure in measured)]
        assert any(all(part in line for part in wanted) for line in lines), wanted


def test_headings_wrap_before_cells_and_a_list_comes_last():
    columns, lines = [Column("block efficiency"), Column("name", True, True)], [["1.25 (1–2)", "mine"]]
    assert fitted.widths(columns, lines, 23) == [16, 4]
    assert fitted.widths(columns, lines, 17) == [10, 4]
    assert fitted.widths(columns, lines, 16) is None, "a word is wider than its column"


def test_a_list_names_every_number():
    columns = [
        Column("T", is_key=True),
        Column("γ", is_key=True),
        Column("drafter", True, True),
        Column("acceptance"),
    ]
    lines = [["0", "–", "no draft", "–"], ["0", "5", "mine", "0.61"]]
    stream = io.StringIO()
    fitted.print_table(Console(file=stream, width=16), columns, lines, title="Two lines")
    assert stream.getvalue().splitlines() == [
        "Two lines",
        "T = 0, no draft",
        "  acceptance: –",
        "T = 0, γ = 5,",
        "mine",
        "  acceptance:",
        "  0.61",
        "",
    ]


HOSTILE = "[/b]:smile:\x1b[31m$\\frac$\udcff"
"""Markup that ends what nobody began, a name of an emoji, an escape, bad mathematics, half a character."""


@pytest.mark.parametrize("width", [200, 20])
def test_a_name_is_printed_as_it_is(width):
    """As markup, the first of these ended in a traceback, and the second in a face."""
    rows = [dataclasses.replace(row, drafter=HOSTILE, task=HOSTILE, target=HOSTILE) for row in ROWS]
    found = dict.fromkeys([HOSTILE], served()[LONG])
    for printer, what in (
        (tables.print_table, (rows,)),
        (tables.print_findings, (rows,)),
        (tables.print_served, (found,)),
        (tables.print_drafts, (HOSTILE, drafts())),
    ):
        said = printed(width, printer, *what)
        assert "[/b]:smile:\\x1b[31m$\\frac$\\udcff" in said
        assert "\x1b" not in said


def test_a_heading_is_no_markup():
    said = printed(80, lambda lines, console: fitted.print_table(console, [Column("[/b]")], lines), [["1"]])
    assert said.split()[0] == "[/b]"
