"""Functions for gin to configure in the tests beside this file, and what `bind` says of mistakes in it."""

import dataclasses
from typing import Any

import pytest

from distillspec_jax.cli import bindings
from distillspec_jax.cli.flags import CommandParser
from distillspec_jax.cli.gin_flags import GinFlags
from distillspec_jax.errors import UsageError

CONFIG = """
    from __gin__ import dynamic_registration
    from tests.cli import gin_toy

    MODEL = @gin_toy.Model()
    MODEL_DIR = %gin.REQUIRED
    TRAIN_STEPS = 5

    gin_toy.train:
      model = %MODEL
      model_dir = %MODEL_DIR
      steps = %TRAIN_STEPS
"""


@dataclasses.dataclass(frozen=True)
class Model:
    width: int = 4
    depth: int = 2


def train(model: Any, model_dir: str, steps: int = 10, name: str | None = None) -> tuple[Any, ...]:
    return model, model_dir, steps, name


def schedule(peak: float, warmup: int = 0) -> tuple[float, int]:
    return peak, warmup


def read_missing_file(path: str) -> str:
    with open(path) as file:
        return file.read()


def parse(*argv: str) -> GinFlags:
    flags: GinFlags = CommandParser("finetune", "Trains.", gin=True).parse(argv).gin
    return flags


def complaint(*argv: str, job=train) -> str:
    with pytest.raises(UsageError) as caught:
        bindings.bind(job, parse(*argv))
    assert "\n" not in str(caught.value)
    return str(caught.value)
