"""The benchmarks' own file; what they measure is not a test's business."""

import json
import re

import pytest

from benchmarks import assisted, steps
from benchmarks.__main__ import MEASUREMENTS, add
from benchmarks.autoregressive import Workload
from benchmarks.measurement import Measurement
from tests.test_documents import DOCUMENTS


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
    monkeypatch.setattr(steps, "peak", lambda: 1e9)
    monkeypatch.setattr(steps, "extend_seconds", lambda *call: 0.2 if call[-1] == 1 else 0.3)
    found = steps.verify_cost(8)
    assert found.value == pytest.approx(1.5)
    number = r"([\d.]+)"
    told = rf"\({number} GFLOP .* its compute bound at 1 GFLOP/s: {number} ms, ×{number}$"
    gflop, least_ms, ratio = map(float, re.search(told, found.what).groups())
    assert least_ms == pytest.approx(1e3 * gflop, abs=0.5)
    assert ratio == pytest.approx(gflop / 0.2, abs=0.01)


def test_measurements_that_documents_name_exist():
    """`make bench ARGS=ID`; after one, `…=ID` is another and `…_bs8` the same at another batch size."""
    named = []
    for path in DOCUMENTS:
        for ids, size in re.findall(r"(?:make bench ARGS|…)=\"?([\w ]+)|…(_bs\d+)`", path.read_text()):
            named += ids.split() or [re.sub(r"_bs\d+$", size, named[-1])]
    assert {"greedy_identity", "ar_vs_hf_bs4", "spec_vs_hf_assisted_bs4"} <= set(named) <= set(MEASUREMENTS)
