"""What a training cost: by the processor or by the clock."""

import json

import jax
import pytest

from distillspec_jax.operations import costs


@pytest.mark.parametrize(("backend", "cost"), [("cpu", 3.0), ("tpu", 60.0)])
def test_a_busy_machine_makes_a_training_no_dearer_on_a_cpu(tmp_path, monkeypatch, backend, cost):
    """Five steps that took twelve seconds each, since something else had the processor."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    lines = [
        {"step": 1, "split": "train", "loss": 1.0},  # it was compiled, and tells no time
        {"step": 3, "split": "train", "step_s": 12.0, "processor_s": 0.6},
        {"step": 5, "split": "train", "step_s": 12.0, "processor_s": 0.6},
        {"step": 5, "split": "eval", "loss": 1.0},
    ]
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert costs.of_training(tmp_path) == cost
    assert costs.duration(tmp_path) == 60.0
    log.write_text(json.dumps({"step": 5, "split": "train", "step_s": 12.0}) + "\n")  # an older log
    assert costs.of_training(tmp_path) == 60.0
