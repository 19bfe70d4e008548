"""The benchmarks' own file; what they measure is not a test's business."""

import json
import re

import pytest

from benchmarks import assisted, steps
from benchmarks.__main__ import MEASUREMENTS, add
from benchmarks.autoregressive import Workload
from benchmarks.measurement import Measurement
from tests.test_documents import ROOT


def test_a_measurement_takes_the_place_of_its_id_and_leaves_others(tmp_path):
    path = tmp_path / "bench" / "bench.json"
    for id, value in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        add(path, Measurement(id, value, value, value, "what"))
    assert [(line["id"], line["value"]) for line in json.loads(path.read_text())] == [("a", 3.0), ("b", 2.0)]


def test_transformers_is_compared_with_at_every_batch_size():
    for rows in (1, 4, 8, 16):
        assert MEASUREMENTS[f"ar_vs_hf_bs{rows}"].args == (Workload(rows=rows),)
        assert MEASUREMENTS[f"spec_vs_hf_assisted_bs{rows}"].args == (rows,)
        assert assisted.TURNS[rows]


def test_the_cost_of_verifying_stands_beside_its_compute_bound(monkeypatch):
    monkeypatch.setattr(steps, "product_peak", lambda: 1e9)
    monkeypatch.setattr(steps, "extend_seconds", lambda *call: 0.2 if call[-1] == 1 else 0.3)
    found = steps.verify_cost(8)
    assert found.value == pytest.approx(1.5)
    number = r"([\d.]+)"
    told = rf"\({number} GFLOP .* its compute bound at 1 GFLOP/s: {number} ms, ×{number}$"
    gflop, least_ms, ratio = map(float, re.search(told, found.what).groups())
    assert least_ms == pytest.approx(1e3 * gflop, abs=0.5)
    assert ratio == pytest.approx(gflop / 0.2, abs=0.01)


def test_measurements_that_the_benchmarks_page_names_exist():
    """In a row the last cell; `(ID, ID)` in the text; `…_bs8` is the one before at another batch size."""
    text = (ROOT / "docs" / "results" / "benchmarks.md").read_text()
    places = [
        *re.findall(r"^\|.*\| (`.*`) \|$", text, re.MULTILINE),
        *re.findall(r"\((`\w+`(?:, `\w+`)*)\)", text),
    ]
    named: list[str] = []
    for name in re.findall(r"`(…_bs\d+|\w+)`", " ".join(places)):
        named.append(re.sub(r"_bs\d+$", name[1:], named[-1]) if name.startswith("…") else name)
    expected = {
        "greedy_identity",
        "ar_vs_hf_bs16",
        "spec_vs_hf_assisted_bs8",
        "spec_vs_ar_bs8",
        "loss_memory",
    }
    assert expected <= set(named) <= set(MEASUREMENTS)
