"""The drift study's service on a stream of known counts: the package's own alarm, gate and registry."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest

from benchmarks.drift import accounting, service
from benchmarks.drift.greedy import Text
from benchmarks.drift.rows import Rows
from benchmarks.drift.service import Drafts, Service
from benchmarks.drift.setting import ON_ALARM, Phase, Setting
from distillspec_jax import acceptance_profile
from distillspec_jax.acceptance import Record
from distillspec_jax.acceptance_profile import Counts, Profile, ProfileCell
from distillspec_jax.evaluation import profiling
from distillspec_jax.operations import prompts
from distillspec_jax.operations.draft_registry import DraftRegistry
from distillspec_jax.operations.prompts import Prompt
from tests import pair
from tests.operations import trainers
from tests.operations.trainers import Killed

TURN, LOOK, WAITS, PROMPTS = 600, 50, 300, 400
SETTING = Setting(
    phases=(Phase("home", "home", TURN), Phase("away", "away", 900)),
    pools={"start": 60, "home": PROMPTS, "away": PROMPTS},
    lengths={"inputs": 16, "targets": 8},
    block_size=3,
    look=LOOK,
    waits=WAITS,
    intervals=(500,),
    steps=8,
    pilot_steps=2,
    prompts=40,
)
# Eight tokens a text: two calls where drafts are accepted, six where they are not.
GOOD, BAD = (2, 6, 6), (6, 8, 2)


@dataclasses.dataclass
class Trainer(trainers.Trainer):
    """The study's trainer, in whose place a known model is copied."""

    target: str
    setting: Setting
    seed: int
    steps: int = 0
    seconds: float = 1.5
    trained: ClassVar[list[str]] = []
    dies: ClassVar[bool] = False

    def __post_init__(self):
        super().__init__(pair.target())

    def __call__(self, draft, folder, task, steps):
        if Trainer.dies and folder.name == "full":
            raise Killed
        Trainer.trained.append(folder.name)
        self.steps += steps
        return super().__call__(draft, folder, task, steps)


def write_profile(folder, **options):
    """Writes a profile of prompts like those at home."""
    calls, tested, accepted = GOOD
    one = Record(emitted_tokens=8, target_calls=calls, tested=tested, accepted=accepted, drafted=tested)
    cell = ProfileCell(
        temperature=0.0,
        acceptance=accepted / tested,
        acceptance_joint=[],
        acceptance_conditional=[],
        block_efficiency=8 / calls,
        per_prompt=Counts.of([one] * 50),
    )
    shape = {"prompts": 50, "prompts_digest": "x", "block_size": 3, "max_new_tokens": 8}
    acceptance_profile.write(folder, Profile(draft="d", target="t", task="asked", cells=[cell], **shape))


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Makes the service of a policy; all calls share the folder and the rows."""
    trainers.count(monkeypatch)
    monkeypatch.setattr(profiling, "profile", write_profile)
    monkeypatch.setattr(service, "Trainer", Trainer)
    monkeypatch.setattr(service.jax, "clear_caches", lambda: None)  # other tests' programs
    monkeypatch.setattr(Trainer, "trained", [])
    lengths = {"feature_lengths": dict(SETTING.lengths)}
    target, draft = (
        pair.write(
            tmp_path / name, dataclasses.replace(model, card=dataclasses.replace(model.card, **lengths))
        )
        for name, model in (("target", pair.target()), ("draft", pair.draft()))
    )
    write_profile(tmp_path / "draft")
    prompts.write(tmp_path / "old.jsonl", [Prompt(inputs=f"old {i:03}", outputs="o") for i in range(200)])
    texts = {
        pool: [Text(f"{pool} {i:03}", f"{i}", (1,) * 8) for i in range(PROMPTS)] for pool in ("home", "away")
    }
    rows = Rows(tmp_path / "results.jsonl")
    for pool in texts:
        rows.add("texts", pool=pool, emitted=[8] * PROMPTS, held_out=[0] * PROMPTS)
    for draft_name, away in (("start", BAD), ("on alarm v2", GOOD), ("every 500 v2", GOOD)):
        for pool, counts in (("home", GOOD), ("away", away)):
            columns = {
                name: [count] * PROMPTS
                for name, count in zip(("target_calls", "tested", "accepted"), counts, strict=True)
            }
            rows.add("counts", seed=0, draft=draft_name, pool=pool, **columns)
    rng = np.random.default_rng(0)
    pool_R = np.repeat([0, 1], [TURN, SETTING.requests - TURN])
    stream_R2 = np.stack([pool_R, rng.integers(PROMPTS, size=len(pool_R))], axis=1)
    rows.add("stream", seed=0, names=["home", "away"], pool=pool_R.tolist(), number=stream_R2[:, 1].tolist())

    def made(policy):
        again = Rows.read(rows.path)  # as another process would
        return Service(
            SETTING,
            again,
            Drafts(again, None, texts),
            tmp_path / policy.replace(" ", "_"),
            target,
            draft,
            tmp_path / "old.jsonl",
            0,
            policy,
            ["home", "away"],
            stream_R2,
            say=lambda _: None,
        )

    return made


def test_an_alarm_leads_to_a_draft_that_serves(study):
    """What was killed is done anew, so that its cost is whole; what has ended is not."""
    Trainer.dies = True
    with pytest.raises(Killed):
        study(ON_ALARM).run()
    Trainer.dies = False
    study(ON_ALARM).run()
    done = study(ON_ALARM)
    done.run()
    assert Trainer.trained == ["pilot", "pilot", "full"]
    assert [row["steps"] for row in done.rows.of("training")] == [10]
    (row,) = done.rows.of("training")
    assert TURN < row["alarm_at"] < TURN + 100
    assert abs(row["since"] - TURN) <= 5  # the luckiest gambler began with the drop
    # The first look at which enough requests had come since the drop.
    assert WAITS <= row["at"] - row["begins"] < WAITS + LOOK
    assert (row["outcome"], row["version"], row["begins"]) == ("passed", "v2", row["since"])
    account = accounting.account(done.rows, 0, ON_ALARM)
    assert account.calls_R.tolist() == [2] * TURN + [6] * (row["at"] - TURN) + [2] * (1500 - row["at"])
    registry = DraftRegistry(done.folder / "registry")
    assert [one.stable for one in registry.history.transitions] == ["v1", "v2"]


def test_fixed_intervals_do_not_ask_whether_anything_has_changed(study):
    found = study("every 500")
    found.run()
    assert [(row["at"], row["begins"], row["alarm_at"]) for row in found.rows.of("training")] == [
        (500, 0, None),
        (1000, 500, None),
    ]
