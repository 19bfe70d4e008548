"""A draft's acceptance profile: its numbers, its file, and its way into an export."""

import dataclasses
import json

import pytest

from distillspec_jax import acceptance_profile
from distillspec_jax.acceptance import Record
from distillspec_jax.acceptance_profile import Profile, ProfileCell
from distillspec_jax.cli.main import main
from distillspec_jax.distillation.deployment import Deployment
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import paired, profiling
from distillspec_jax.generation.prompt_format import prompt_format
from distillspec_jax.generation.text_generator import TextGenerator
from distillspec_jax.interop import readme
from distillspec_jax.models import pretrained
from tests import pair

TEXTS = [f"say {i:02}" for i in range(6)]


def record(tested_at: list[int], accepted_at: list[int], rounds: int) -> Record:
    return Record(
        emitted_tokens=sum(accepted_at) + rounds,
        target_calls=rounds,
        tested=sum(tested_at),
        accepted=sum(accepted_at),
        drafted=2 * rounds,
        tested_at=tested_at,
        accepted_at=accepted_at,
    )


RECORDS = [record([10, 6], [6, 3], 10), record([8, 8], [8, 2], 8), record([5, 0], [0, 0], 5)] * 3


def profile(cells: list[ProfileCell] | None = None, **changes) -> Profile:
    cells = cells or [profiling.cell(RECORDS, Deployment(t)) for t in (0.0, 1.0)]
    return dataclasses.replace(
        Profile(
            draft="runs/d",
            target="t",
            step=3,
            task="mine",
            split="validation",
            prompts=len(RECORDS),
            prompts_digest="ab",
            block_size=2,
            max_new_tokens=8,
            cells=cells,
        ),
        **changes,
    )


def test_the_numbers_of_a_cell_are_those_of_its_counts():
    found = profiling.cell(RECORDS, Deployment(0.7, top_k=5))
    assert (found.temperature, found.top_k, found.top_p) == (0.7, 5, 1.0)
    assert found.acceptance == pytest.approx(19 / 37)
    assert found.acceptance_joint == pytest.approx([14 / 23, 5 / 23])
    assert found.acceptance_conditional == pytest.approx([14 / 23, 5 / 14])
    assert found.block_efficiency == pytest.approx((19 + 23) / 23)
    assert found.acceptance_spread == pytest.approx([0.0, 9 / 16, 10 / 16])
    assert found.acceptance_ci95 == paired.ratio([9, 10, 0] * 3, [16, 16, 5] * 3).ends
    assert found.per_prompt.records[1] == dataclasses.replace(RECORDS[1], tested_at=None, accepted_at=None)


def test_greedy_counts_are_those_of_texts_decoded_alone():
    """The profile decodes ids of a batch; here each prompt is a text, on its way through the tokenizer."""
    target, draft = pair.target(), pair.draft()
    form = prompt_format(target)
    (found,) = profiling.measure(
        target, draft, [form.ids(text, "x") for text in TEXTS], 8, [Deployment(0.0)], block_size=3, seed=1
    )
    generator = TextGenerator(target, draft, block_size=3, batch_size=len(TEXTS))
    one_by_one = list(generator.stream(TEXTS, max_new_tokens=8, temperature=0.0, seed=5))
    assert found.per_prompt.accepted == [one.accepted for one in one_by_one]
    assert found.per_prompt.tested == [one.tested for one in one_by_one]
    assert found.per_prompt.emitted_tokens == [one.emitted_tokens for one in one_by_one]


def test_a_profile_comes_back_from_its_file(tmp_path):
    acceptance_profile.write(tmp_path, profile())
    assert acceptance_profile.read(tmp_path / "profile.json") == profile()
    path = tmp_path / "profile.json"
    newer = json.loads(path.read_text()) | {"news": 1}
    path.write_text(json.dumps(newer))
    assert acceptance_profile.read(path).unknown == {"news": 1}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("profile_version", 2, "profile version 2, this release reads 1"),
        ("cells", [], "it has no cells"),
        ("prompts", 8, "field per_prompt.emitted_tokens: must have 8 entries"),
        (
            "cells.0.per_prompt.accepted.0",
            99,
            "cells[0], prompt 0: 19 tokens emitted, but 99 of 16 tested drafts accepted",
        ),
        ("cells.1.temperature", "hot", "cells[1]: not an acceptance profile: field temperature"),
        ("cells.0", 3, "cells[0]: not an acceptance profile: expected a JSON object"),
        ("task", None, "field task: expected"),
    ],
)
def test_a_damaged_profile_is_refused_by_its_field(tmp_path, field, value, message):
    acceptance_profile.write(tmp_path, profile())
    path = tmp_path / "profile.json"
    whole = json.loads(path.read_text())
    *way, last = (int(key) if key.isdecimal() else key for key in field.split("."))
    inner = whole
    for key in way:
        inner = inner[key]
    inner[last] = value
    path.write_text(json.dumps(whole))
    with pytest.raises(UsageError) as raised:
        acceptance_profile.read(path)
    assert message in str(raised.value)


def test_an_export_takes_the_profile_along_unless_it_is_of_another_step(tmp_path):
    directory = tmp_path / "run"
    pair.write(directory, pair.draft())
    model = pretrained.load(str(directory))
    assert readme.profile_of(model) is None
    step = max(int(path.name) for path in (directory / "checkpoints").iterdir())
    acceptance_profile.write(directory, profile(step=step))
    assert readme.profile_of(model) == (directory / "profile.json").read_bytes()
    text = readme.text(model, model.num_parameters)
    assert "Sampled on 9 held-out prompts of mine (digest ab), 2 drafts a round" in text
    low, high = paired.ratio([9, 10, 0] * 3, [16, 16, 5] * 3).ends
    row = f"| 0 | 0.514 ({low:.3f} – {high:.3f}) | 0.00, 0.56, 0.62 | 1.826 ("
    assert row in text
    assert text.count("| 0.609 | 0.357 |") == 2
    acceptance_profile.write(directory, profile(step=step + 1))
    assert readme.profile_of(model) is None
    assert "by position" not in readme.text(model, model.num_parameters)


def test_watch_compares_with_the_profile_of_a_folder(tmp_path, capsys):
    directory = tmp_path / "run"
    directory.mkdir()
    cells = [profiling.cell(RECORDS * 20, Deployment(t)) for t in (0.0, 1.0)]
    acceptance_profile.write(directory, profile(cells, prompts=len(RECORDS) * 20))
    line = {"emitted_tokens": 20, "target_calls": 10, "tested": 16, "accepted": 9}
    served = tmp_path / "s.jsonl"
    served.write_text((json.dumps(line) + "\n") * 50)
    assert main(["watch", str(served), f"--profile={directory}"]) == 2
    assert "has several: choose by --temperature" in capsys.readouterr().err
    assert main(["watch", str(served), f"--profile={directory}", "--temperature=1", "--by=task"]) in (0, 3)
    assert "acceptance 0.562 in 50 requests" in capsys.readouterr().out
    hot = served.with_name("hot.jsonl")
    hot.write_text((json.dumps(line | {"temperature": 0.7}) + "\n") * 50)
    assert main(["watch", str(hot), f"--profile={directory}", "--temperature=1"]) == 3
    assert "50 answers of another sampling distribution" in capsys.readouterr().out
