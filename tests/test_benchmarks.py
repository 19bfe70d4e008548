"""The benchmarks' own file; what they measure is not a test's business."""

import json

from benchmarks.__main__ import add
from benchmarks.measurement import Measurement


def test_a_measurement_takes_the_place_of_its_id_and_leaves_others(tmp_path):
    path = tmp_path / "bench" / "bench.json"
    for id, value in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        add(path, Measurement(id, value, value, value, "what"))
    assert [(line["id"], line["value"]) for line in json.loads(path.read_text())] == [("a", 3.0), ("b", 2.0)]
