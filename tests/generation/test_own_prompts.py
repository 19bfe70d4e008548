"""Files of prompts that a model wrote itself: interrupted and finished ones."""

from distillspec_jax import files
from distillspec_jax.cli.main import main
from distillspec_jax.generation import own_prompts
from distillspec_jax.showcase import smollm2_prompts

ROWS = [{"inputs": "one\u2028line\u2029for JSON", "number": 0}, {"inputs": "and\x85another", "number": 4}]
LINES = "".join(files.as_json(row) + "\n" for row in ROWS)


def test_a_prompt_with_line_separators_of_unicode_is_one_line(tmp_path):
    """A run that was stopped after one could not be resumed."""
    assert "\u2028" in LINES  # as it is, and not as an escape
    (tmp_path / "x.jsonl.partial").write_text(LINES + '{"inputs": "cut', encoding="utf-8")
    assert own_prompts._resumed(str(tmp_path / "x.jsonl"), {}) == ROWS
    assert (tmp_path / "x.jsonl.partial").read_text(encoding="utf-8") == LINES
    assert smollm2_prompts._read(tmp_path / "x.jsonl.partial") == [row["inputs"] for row in ROWS]


def test_a_finished_run_is_known_by_its_prompts_and_needs_no_model(tmp_path, capsys):
    path = tmp_path / "x.jsonl"
    assert not own_prompts.is_finished(str(path), 2)
    for content, finished in ((LINES, True), (LINES * 2, False), (LINES[:-1], False), ("a\nb\n", False)):
        path.write_text(content, encoding="utf-8")
        assert own_prompts.is_finished(str(path), 2) == finished
    path.write_text(LINES, encoding="utf-8")
    for limit, status in ((2, 0), (3, 2)):
        assert main(["prompts", "--model=nowhere", f"--output={path}", f"--limit={limit}"]) == status
        said = capsys.readouterr()
        assert (f"{path} is finished with 2 prompts" in said.err) == (status == 0)
        assert said.out == ("" if status else f"{path}\n")
