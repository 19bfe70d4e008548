import itertools
import json

import pytest

_numbers = itertools.count()


@pytest.fixture
def make_task(tmp_path):
    """Registers a JSONL task under a fresh name from {"train": [(inputs, targets), ...], ...}."""
    from distillspec_jax.data import tasks

    def make(splits, **settings):
        for split, rows in splits.items():
            lines = (json.dumps({"inputs": inputs, "targets": targets}) + "\n" for inputs, targets in rows)
            (tmp_path / f"{split}.jsonl").write_text("".join(lines))
        paths = {f"{split}_path": str(tmp_path / f"{split}.jsonl") for split in splits}
        return tasks.jsonl_task(name=f"test_task_{next(_numbers)}", **paths, **settings)

    return make
