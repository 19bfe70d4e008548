"""Training and decoding whose results are known, in the place of both."""

import dataclasses
import json

import numpy as np

from distillspec_jax.acceptance import Record
from distillspec_jax.operations.held_out import HeldOut
from tests import pair


class Killed(BaseException):
    """As a signal would end it."""


class Trainer:
    """Trains by copying a model that is known; notes what it was asked for.

    Attributes:
      result: what comes of it.
      asked: `(folder, steps)` of every call; `tasks`: the names of their tasks.
      dies_at: the call that never ends.
      best: whether the best evaluation is kept in a folder of its own, as with a DEPLOYMENT.
    """

    def __init__(self, result, dies_at=None, best=False):
        self.result, self.dies_at, self.best = result, dies_at, best
        self.asked, self.tasks = [], []

    def __call__(self, draft, folder, task, steps):
        if self.dies_at == len(self.asked):
            raise Killed
        self.asked.append((folder.name, steps))
        self.tasks.append(task)
        if not folder.is_dir():
            provenance = {"parents": {"draft": draft}, "command": "distillspec redistill"}
            card = dataclasses.replace(self.result.card, provenance=provenance)
            for place in (folder, folder / "best") if self.best else (folder,):
                pair.write(place, dataclasses.replace(self.result, card=card))
            (folder / "metrics.jsonl").write_text(
                json.dumps({"step": steps, "split": "train", "step_s": 0.5, "processor_s": 0.25}) + "\n"
            )
        return folder / "best" if self.best else folder


def count(monkeypatch):
    """Known counts in the place of decoding: the target as its own draft has twice the block efficiency."""

    def decode(self, draft):
        kernels = [model.params["encoder"]["encoder_norm"]["scale"] for model in (draft, pair.target())]
        accepted = 6 if np.array_equal(*kernels) else 1
        count = len(self.new) + len(self.old)
        one = Record(emitted_tokens=4 + accepted, target_calls=4, tested=6, accepted=accepted, drafted=12)
        return [one] * count, 0.01

    monkeypatch.setattr(HeldOut, "_decode", decode)
