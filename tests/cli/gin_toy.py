"""Functions for gin to configure in the tests beside this file."""

import dataclasses
from typing import Any


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
