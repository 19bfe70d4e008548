"""`distillspec generate --resume`: lines that an earlier run left behind, and where none belong."""

import json
from pathlib import Path

import pytest

from distillspec_jax.cli.main import main

LINES = [
    json.dumps({"id": i, "inputs": text}) + "\n" for i, text in enumerate(["Hello.", "He was.", "a", "b"])
]


@pytest.fixture
def generate(target_dir, tmp_path):
    """Writes the first lines to a file and completes them; the status."""

    def run(output: Path, lines: int, *flags: str) -> int:
        prompts = tmp_path / f"prompts{lines}.jsonl"
        prompts.write_text("".join(LINES[:lines]))
        named = [f"--model={target_dir}", f"--input={prompts}", f"--output={output}", "--temperature=1"]
        return main(["generate", *named, "--batch_size=4", *flags])

    return run


@pytest.fixture
def whole(generate, tmp_path) -> str:
    """What an uninterrupted run gives."""
    assert generate(tmp_path / "whole.jsonl", 4) == 0
    return (tmp_path / "whole.jsonl").read_text()


def test_a_run_that_was_cut_off_goes_on(generate, whole, tmp_path):
    path, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    lines = whole.splitlines(keepends=True)
    partial.write_text("".join(lines[:2]) + lines[2][:20])
    assert generate(path, 4, "--resume") == 0
    assert path.read_text() == whole
    assert not [file.name for file in tmp_path.iterdir() if "partial" in file.name]


def test_a_whole_output_is_of_the_very_requests(generate, whole, tmp_path, capsys):
    """More might be of another distribution: a whole file has no note of it."""
    path = tmp_path / "out.jsonl"
    path.write_text(whole)
    noted = tmp_path / "out.jsonl.partial.settings"
    noted.write_text('{"seed": 0}')  # killed before it could remove the note
    assert generate(path, 4, "--resume") == 0
    assert not noted.exists()
    assert capsys.readouterr().err.endswith(f"{path} is whole: nothing is left to do\n")
    assert generate(path, 3, "--resume") == 2
    assert f"{path}:4 is of another input" in capsys.readouterr().err
    path.write_text("".join(whole.splitlines(keepends=True)[:3]))
    assert generate(path, 4, "--resume") == 2
    assert f"{path} is whole with 3 of 4 outputs: ask for the others" in capsys.readouterr().err
    assert len(path.read_text().splitlines()) == 3


def test_lines_made_with_another_seed_are_not_mixed(generate, whole, tmp_path, capsys):
    path, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    partial.write_text(whole.splitlines(keepends=True)[0])
    Path(f"{partial}.settings").write_text('{"seed": 1}')
    assert generate(path, 4, "--resume") == 2
    assert f"{partial} was made with seed 1 and not 0: resume with the same" in capsys.readouterr().err
    partial.write_text("")  # nothing was made yet
    assert generate(path, 4, "--resume") == 0
    assert path.read_text() == whole


def test_prompts_are_never_written_over(generate, tmp_path, capsys):
    link = tmp_path / "link.jsonl"
    link.symlink_to("prompts2.jsonl")
    assert generate(link, 2) == 2
    error = f"cannot save to {link}: this run reads it ({tmp_path}/prompts2.jsonl); choose another file\n"
    assert capsys.readouterr().err.endswith(error)
    assert link.is_symlink()
    assert link.read_text() == "".join(LINES[:2])
