"""The tasks that are made of prompts that were asked."""

from distillspec_jax.operations import asked_training, prompts
from distillspec_jax.operations.prompts import Prompt
from tests import pair


def test_other_files_of_the_same_rows_are_another_task(tmp_path):
    """Two trainings of one process may ask the same prompts; their names once clashed."""

    def files(name):
        found = [tmp_path / f"{name}-{part}.jsonl" for part in ("train", "judge")]
        for path in found:
            prompts.write(path, [Prompt(inputs="say 1", outputs="one")])
        return found

    first = asked_training.task(pair.target(), *files("first"))
    assert asked_training.task(pair.target(), *files("second")) != first
    assert asked_training.task(pair.target(), *files("first")) == first
