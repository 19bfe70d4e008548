import json
from pathlib import Path

import gin
import pytest

from distillspec_jax.data import catalog, features, tasks, text_metrics, train_vocabulary
from distillspec_jax.data.tensorflow_setup import seqio, tf
from distillspec_jax.errors import UsageError
from distillspec_jax.tokenization.tokenizer import Tokenizer, embedded_tokenizer

GIN = Path(__file__).parents[2] / "gin_configs" / "tasks"


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("name", catalog.EMBEDDED_TASKS)
def test_embedded_tasks_are_seqio_tasks(name):
    spec, task = catalog.find_task(name), seqio.get_mixture_or_task(name)
    assert set(task.splits) == {"train", "validation", "test"}
    assert task.metric_fns == [text_metrics.find_metric(spec.metric).corpus]
    row = next(task.get_dataset({"inputs": 1024, "targets": 1024}, "test", shuffle=False).as_numpy_iterator())
    raw = next(catalog.read_rows(spec, "test"))
    tokenizer = embedded_tokenizer()
    assert row["inputs"].tolist() == [*tokenizer.encode(spec.prefix + raw["inputs"]), 1]
    assert row["targets"].tolist() == [*tokenizer.encode(raw["targets"]), 1]


def test_vocabulary_agrees_with_the_tokenizer_in_and_out_of_the_graph():
    vocabulary = tasks.TokenizerVocabulary(embedded_tokenizer())
    text = "½ of \u2581\n\t 12\0"
    ids = embedded_tokenizer().encode(text)
    assert vocabulary.encode(text) == ids
    assert vocabulary.encode_tf(tf.constant(text)).numpy().tolist() == ids
    assert vocabulary.decode([*ids, 1, 5]) == text
    assert vocabulary.decode_tf(tf.constant([*ids, 1, 5])).numpy().decode() == text
    assert vocabulary == tasks.TokenizerVocabulary(Tokenizer.from_bytes(embedded_tokenizer().model_bytes))


def test_registering_again_changes_nothing():
    before = seqio.get_mixture_or_task("wiki_leads"), seqio.get_mixture_or_task("embedded_mixture")
    tasks.register_known()
    assert (seqio.get_mixture_or_task("wiki_leads"), seqio.get_mixture_or_task("embedded_mixture")) == before
    assert {*catalog.EMBEDDED_TASKS, "embedded_mixture"} <= set(features.task_names())


def test_a_jsonl_task_by_gin_alone(tmp_path):
    train = write(tmp_path / "train.jsonl", {"q": "one", "a": "eins"}, {"q": "two", "a": "zwei"})
    test = write(tmp_path / "test.jsonl", {"q": "three", "a": "drei", "note": 3})
    gin.clear_config()
    try:
        gin.parse_config_files_and_bindings(
            [str(GIN / "jsonl.gin")],
            [
                "TASK_NAME = 'test_gin_numbers'",
                f"TRAIN_FILE = {train!r}",
                f"TEST_FILE = {test!r}",
                "INPUTS_FIELD = 'q'",
                "TARGETS_FIELD = 'a'",
                "PREFIX = 'German: '",
                "INPUTS_LENGTH = 16",
                "METRIC = 'bleu'",
            ],
        )
        name = gin.query_parameter("MIXTURE_OR_TASK_NAME/gin.macro.value").scoped_configurable_fn()
        lengths = gin.query_parameter("TASK_FEATURE_LENGTHS/gin.macro.value")
    finally:
        gin.clear_config()
    assert name == "test_gin_numbers"
    assert set(lengths) == {"inputs", "targets"}
    spec = catalog.find_task(name)
    assert (spec.feature_lengths, spec.primary_metric) == ({"inputs": 16, "targets": 128}, "bleu")
    (example,) = features.examples(name, split="test")
    assert (example.inputs_text, example.targets_text) == ("three", "drei")
    assert example.prompt == (*embedded_tokenizer().encode("German: three"), 1)
    (batch,) = features.eval_batches(name, split="train", lengths=spec.feature_lengths, batch_size=2)
    assert [embedded_tokenizer().decode(row) for row in batch["decoder_target_tokens"]] == ["eins", "zwei"]


def test_one_text_is_prompt_and_target(tmp_path):
    path = write(tmp_path / "train.jsonl", {"title": "Ox", "text": "It is  big."}, {"title": "", "text": "X"})
    fields = dict.fromkeys(("inputs_field", "targets_field"), "{title}: {text}")
    tokenizer, found = embedded_tokenizer(), {}
    for words in (0, 3):
        name = tasks.jsonl_task(f"test_text_{words}", path, prompt_words=words, **fields)
        found[words] = features.examples(name, split="train")
        (batch,) = features.eval_batches(
            name, split="train", lengths={"inputs": 16, "targets": 16}, batch_size=2
        )
        for i, example in enumerate(found[words]):
            prompt, ids = batch["encoder_input_tokens"][i], batch["decoder_target_tokens"][i]
            assert prompt[prompt > 0].tolist() == list(example.prompt)
            assert [*example.prompt, *ids[ids > 0]] == [
                1,
                *tokenizer.encode(["Ox: It is  big.", ": X"][i]),
                1,
            ]
    assert [(e.inputs_text, e.targets_text) for e in found[0]] == [("", "Ox: It is  big."), ("", ": X")]
    assert [(e.inputs_text, e.targets_text) for e in found[3]] == [("Ox: It is", "  big."), (":", " X")]
    with pytest.raises(UsageError, match="prompt_words is -1, must be 0"):
        tasks.jsonl_task("test_text", path, prompt_words=-1)
    with pytest.raises(UsageError, match=r"train\.jsonl:1: no field 'name'"):
        features.examples(tasks.jsonl_task("test_text", path, inputs_field="{name}"), split="train")


def test_a_known_text_may_have_a_prompt_of_any_length():
    try:
        tasks.known_task("wiki_continued", prompt_words=2)
        (example,) = features.examples("wiki_continued", split="test", limit=1)
        assert example.inputs_text == "The Maunakea"
    finally:
        tasks.known_task("wiki_continued", prompt_words=8)
    with pytest.raises(UsageError, match="prompt_words is 2, but task 'wiki_leads' has prompts of its own"):
        tasks.known_task("wiki_leads", prompt_words=2)


@pytest.mark.parametrize("path", sorted(GIN.glob("*.gin")), ids=lambda path: path.stem)
def test_gin_files_name_their_task_and_its_lengths(path):
    gin.clear_config()
    try:
        gin.parse_config_file(str(path))
        if path.stem == "jsonl":
            assert "Required: TASK_NAME, TRAIN_FILE" in path.read_text()
            return
        name = gin.query_parameter("MIXTURE_OR_TASK_NAME/gin.macro.value")
        lengths = gin.query_parameter("TASK_FEATURE_LENGTHS/gin.macro.value")
        if not isinstance(name, str):  # A published task, by a call that may bring another vocabulary.
            name = name.scoped_configurable_fn()
    finally:
        gin.clear_config()
    mixed = name == catalog.EMBEDDED_MIXTURE
    assert name == path.stem
    assert lengths == (catalog.EMBEDDED_MIXTURE_LENGTHS if mixed else catalog.find_task(name).feature_lengths)


def test_rows_may_be_prompts_alone(tmp_path):
    train = write(tmp_path / "train.jsonl", {"inputs": "a", "number": 3})
    name = tasks.jsonl_task("prompts_alone", str(train), targets_field=None)
    assert list(catalog.read_rows(catalog.find_task(name), "train")) == [{"inputs": "a", "targets": ""}]


def test_a_text_that_an_api_cut_does_not_end(tmp_path):
    said = [("length", "cut"), ("stop", "whole"), (None, "whole")]
    choices = [{"finish_reason": reason, "message": {"content": text}} for reason, text in said]
    train = write(tmp_path / "train.jsonl", *({"inputs": "a", "out": {"choices": [c]}} for c in choices))
    name = tasks.jsonl_task("test_cut", train, targets_field="out.choices.0.message.content")
    (batch,) = features.eval_batches(name, split="train", lengths={"inputs": 8, "targets": 8}, batch_size=3)
    tokenizer = embedded_tokenizer()
    for row, (reason, text) in zip(batch["decoder_target_tokens"], said, strict=True):
        assert row[row > 0].tolist() == [*tokenizer.encode(text), *([1] if reason != "length" else [])]


def test_a_missing_field_names_the_line_in_every_reader(tmp_path):
    train = write(tmp_path / "train.jsonl", {"inputs": "a", "targets": "b"}, {"inputs": "a", "target": "b"})
    name = tasks.jsonl_task("test_missing_field", train)
    lengths = {"inputs": 8, "targets": 8}
    complaint = r"train\.jsonl:2: no field 'targets': did you mean 'target'\?"
    with pytest.raises(UsageError, match=complaint):
        features.train_batches(name, lengths=lengths, batch_size=1, seed=0, pack=False)
    with pytest.raises(UsageError, match=complaint):
        features.eval_batches(name, split="train", lengths=lengths, batch_size=1)
    with pytest.raises(UsageError, match=complaint):
        features.examples(name, split="train")


def test_a_jsonl_task_with_a_vocabulary_of_its_own(tmp_path):
    lines = [f"{word} {other}" for word in ("red", "green", "blue") for other in ("tea", "hat", "bus")]
    model = tmp_path / "own.model"
    model.write_bytes(train_vocabulary.train(lines * 5, vocabulary_size=274))
    train = write(tmp_path / "train.jsonl", {"inputs": "red tea", "targets": "blue hat"})
    name = tasks.jsonl_task("test_own_vocabulary", train, vocabulary_path=str(model))
    own = Tokenizer.from_file(model)
    (batch,) = features.eval_batches(name, split="train", lengths={"inputs": 32, "targets": 32}, batch_size=1)
    ids = own.encode("red tea")
    assert ids != embedded_tokenizer().encode("red tea")
    assert batch["encoder_input_tokens"][0, : len(ids) + 1].tolist() == [*ids, 1]


@pytest.mark.parametrize(
    "settings, complaint",
    [
        ({"name": "wiki_leads"}, "'wiki_leads' is taken by a different task"),
        ({"name": "embedded_mixture"}, "'embedded_mixture' is taken by another seqio task or mixture"),
        ({"name": "my task"}, "'my task': use letters"),
        ({"train_path": "absent.jsonl"}, r"train_path 'absent\.jsonl' is not a file"),
        ({"test_path": "absent.jsonl"}, r"test_path 'absent\.jsonl' is not a file"),
        ({"metric": "rogue"}, r"unknown metric 'rogue': did you mean 'rouge'\?"),
        ({"metric": "rouge", "targets_field": None}, "metric 'rouge' needs references"),
        ({"targets_length": 0}, "length of 'targets' is 0"),
        ({"vocabulary_path": "absent.model"}, r"'absent\.model': No such file"),
    ],
)
def test_a_bad_jsonl_task_is_refused(tmp_path, settings, complaint):
    train = write(tmp_path / "train.jsonl", {"inputs": "a", "targets": "b"})
    with pytest.raises(UsageError, match=complaint):
        tasks.jsonl_task(**{"name": "test_refused", "train_path": train, **settings})
    assert "test_refused" not in features.task_names()
