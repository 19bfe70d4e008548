"""The benchmarks' own file; what they measure is not a test's business."""

import json

from benchmarks import assisted
from benchmarks.__main__ import MEASUREMENTS, add
from benchmarks.autoregressive import Workload
from benchmarks.measurement import Measurement


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
