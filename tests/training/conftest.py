import itertools
import json

import pytest

from tests.compilation import compiled_once  # noqa: F401 (a fixture)

_numbers = itertools.count()


@pytest.fixture
def make_task(tmp_path):
    """Registers a JSONL task of so many rows a split, `{"train": 3}`, and returns its name."""
    from distillspec_jax.data import tasks

    def make(splits, **settings):
        paths = {}
        for split, rows in splits.items():
            path = tmp_path / f"{split}.jsonl"
            lines = ({"inputs": f"say {i}", "targets": f"{i} is said"} for i in range(rows))
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
            paths[f"{split}_path"] = str(path)
        lengths = {"inputs_length": 16, "targets_length": 8}
        return tasks.jsonl_task(name=f"job_task_{next(_numbers)}", **paths, **lengths | settings)

    return make
