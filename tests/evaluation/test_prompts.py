import json

import pytest

from distillspec_jax.data.examples import examples
from distillspec_jax.decoding import Completion
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import prompts
from distillspec_jax.tokenization.tokenizer import embedded_tokenizer
from tests.evaluation import tiny

TARGET = tiny.model("target", 0)


def test_a_tasks_prompts_are_those_of_training():
    found = prompts.from_task(TARGET, "wiki_leads", "test", 20)
    expected = examples("wiki_leads", split="test", limit=20)
    assert found.prompts == tuple(row.prompt for row in expected)
    assert found.references == tuple(row.targets_text for row in expected)
    assert (found.task, found.split, found.metric, found.max_new_tokens) == (
        "wiki_leads",
        "test",
        "rouge",
        128,
    )


def test_a_users_file_gets_the_models_own_prefix(tmp_path):
    path = tmp_path / "mine.jsonl"
    lines = [{"inputs": "a b", "targets": "c", "id": 7}, {"inputs": "d", "targets": "e"}, {"inputs": "f"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = prompts.from_file(TARGET, path, limit=2, metric="bleu")
    tokenizer = embedded_tokenizer()
    assert [tokenizer.decode(ids) for ids in found.prompts] == ["say: a b", "say: d"]
    assert all(ids[-1] == tokenizer.eos_id for ids in found.prompts)
    assert (found.task, found.split, found.references, found.max_new_tokens) == ("mine", None, ("c", "e"), 12)
    assert prompts.from_file(TARGET, path, limit=None).references is None
    with pytest.raises(UsageError, match=r"mine.jsonl:3: no text in 'targets'.*'bleu'"):
        prompts.from_file(TARGET, path, limit=None, metric="bleu")


def test_a_prompt_that_is_too_long_is_named(tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"inputs": "short"}) + "\n" + json.dumps({"inputs": "x y " * 99}) + "\n")
    with pytest.raises(UsageError, match=r"long.jsonl:2 has \d+ tokens, the model was built for 40"):
        prompts.from_file(TARGET, path, limit=None)


def test_a_files_prompts_may_be_cut_and_get_a_tasks_prefix(tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"inputs": "x y " * 99}) + "\n")
    given = {"split": "test", "inputs": path, "limit": None}
    found = prompts.from_task_or_file(TARGET, task=None, truncate=True, **given)
    assert [len(ids) for ids in found.prompts] == [40]
    found = prompts.from_task_or_file(TARGET, task="gsm_symbolic", truncate=True, **given)
    (ids,) = found.prompts
    assert len(ids) == 192
    assert embedded_tokenizer().decode(ids).startswith("solve: x y x")
    assert (found.task, found.split, found.max_new_tokens) == ("long", None, 288)


def test_the_fingerprint_tells_sets_apart():
    one = prompts.from_task(TARGET, "wiki_leads", "test", 3)
    assert one.fingerprint == prompts.from_task(TARGET, "wiki_leads", "test", 3).fingerprint
    assert one.fingerprint != prompts.from_task(TARGET, "wiki_leads", "test", 4).fingerprint
    assert one.fingerprint != prompts.from_task(TARGET, "wiki_leads", "validation", 3).fingerprint


def test_quality_over_the_corpus_and_by_prompt():
    tokenizer = embedded_tokenizer()
    references = ("the river flows", "a small town")
    asked = prompts.PromptSet("t", "test", ((5,), (6,)), references, "rouge", 8)
    said = [tokenizer.encode(text) for text in ("the river flows", "something else")]
    completions = [Completion((*ids, 1), "eos", 3, 0, (), ()) for ids in said]
    found = prompts.score(asked, completions, tokenizer)
    assert found.example_N == [100.0, 0.0]
    assert found.corpus[found.primary] == 50.0
    bare = prompts.PromptSet("t", None, ((5,), (6,)), None, "none", 8)
    assert prompts.score(bare, completions, tokenizer) is None


def test_an_option_in_a_line_is_refused(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"inputs": "a"}\n{"inputs": "b", "temperature": 1}\n')
    with pytest.raises(
        UsageError, match=r"mine\.jsonl:2: field 'temperature': all prompts are decoded alike"
    ):
        prompts.from_file(TARGET, tmp_path / "mine.jsonl", limit=None)
