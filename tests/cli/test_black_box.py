"""`experiments/black_box.gin` from the command line: of the target, a provider's JSON lines alone."""

import json

import pytest

from distillspec_jax import checkpoint, model_card
from distillspec_jax.cli.main import main
from distillspec_jax.data import catalog


def command(draft_dir, path, out, name):
    return [
        "finetune",
        "--gin_file=experiments/black_box.gin",
        f"--gin.DRAFT={draft_dir}",
        f"--gin.TRAIN_FILE={path}",
        f"--gin.TASK_NAME={name}",
        f"--gin.MODEL_DIR={out}",
        "--gin.INPUTS_FIELD=request.prompt",
        "--gin.TARGETS_FIELD=response.texts",
        "--gin.TRAIN_STEPS=2",
        "--gin.BATCH_SIZE=4",
        "--gin.INPUTS_LENGTH=16",
        "--gin.TARGETS_LENGTH=8",
    ]


def test_a_draft_is_trained_on_samples_alone(draft_dir, tmp_path):
    path = tmp_path / "samples.jsonl"
    rows = [{"request": {"prompt": f"p{i}"}, "response": {"texts": ["a", "b"]}} for i in range(2)]
    rows.append({"request": {"prompt": "p2"}, "response": {"texts": "c"}})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(command(draft_dir, path, tmp_path / "out", "black_box_ok")) == 0
    found = [
        (row["inputs"], row["targets"])
        for row in catalog.read_rows(catalog.find_task("black_box_ok"), "train")
    ]
    assert found == [("p0", "a"), ("p0", "b"), ("p1", "a"), ("p1", "b"), ("p2", "c")]
    card = model_card.read_card(tmp_path / "out")
    assert card.config == model_card.read_card(draft_dir).config
    assert card.provenance["parents"] == {"initial": draft_dir}
    assert checkpoint.latest_step(tmp_path / "out") == 2


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (
            {"request": {"prompt": " "}, "response": {"texts": ["a"]}},
            "the prompt in field 'request.prompt' is empty",
        ),
        ({"request": {}, "response": {"texts": ["a"]}}, "no field 'request.prompt'"),
        ({"request": {"prompt": "p"}, "response": {"text": "a"}}, "did you mean 'text'?"),
        ({"request": {"prompt": "p"}, "response": {"texts": ["a", 3]}}, "must be text, got int"),
        ({"request": {"prompt": "p"}, "response": {"texts": []}}, "must be text, got list"),
    ],
)
def test_a_line_without_prompt_or_text_is_named(draft_dir, tmp_path, capsys, row, complaint):
    path = tmp_path / "samples.jsonl"
    whole = {"request": {"prompt": "p"}, "response": {"texts": ["a"]}}
    path.write_text(json.dumps(whole) + "\n" + json.dumps(row) + "\n")
    name = f"black_box_{tmp_path.name}"
    assert main(command(draft_dir, path, tmp_path / "out", name)) == 2
    said = capsys.readouterr().err
    assert f"{path}:2: " in said
    assert complaint in said
