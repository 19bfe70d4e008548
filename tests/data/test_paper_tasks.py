"""The published tasks over small data sets in TFDS's own format, written and read by TFDS itself."""

import itertools
import json
import re

import numpy as np
import pytest

from distillspec_jax.data import catalog, features, paper_tasks, tasks, text_metrics
from distillspec_jax.data.tensorflow_setup import seqio, tf, tfds
from distillspec_jax.data.text_sources import Tfds, default_data_dir
from distillspec_jax.errors import UsageError
from distillspec_jax.tokenization.tokenizer import embedded_tokenizer

# Rows as TFDS delivers them, and the prompt and the reference that must come of each.
ROWS = {
    "xsum": ({"document": "A ½ b.", "summary": "C."}, "summarize: A ½ b.", "C."),
    "cnn_dailymail": (
        {"article": "A\nb", "highlights": "C .\nD .", "id": "1", "publisher": "CNN"},
        "summarize: A\nb",
        "C .\nD .",
    ),
    "wmt14_ende": ({"en": "Red", "de": "Röt"}, "translate English to German: Red", "Röt"),
    "gsm8k": (
        {"question": "1+1?", "answer": "<<1+1=2>>2\n#### 2", "annotation": "x", "short_answer": "2"},
        "solve: 1+1?",
        "<<1+1=2>>2\n#### 2",
    ),
    "lm1b": ({"text": "a b c d e f g h i ½"}, "a b c d e f g h", " i ½"),
}
METRICS = {
    "xsum": text_metrics.rouge,
    "cnn_dailymail": text_metrics.rouge,
    "wmt14_ende": text_metrics.bleu,
    "gsm8k": text_metrics.exact_match,
}
LENGTHS = {"inputs": 64, "targets": 64}


def write(data_dir, source, splits, shards=2):
    """A prepared data set of text fields under the name that `source` asks for, in two files a split.

    This is how other programs write for TFDS: https://www.tensorflow.org/datasets/external_tfrecord.
    """
    folder = data_dir / source.name.replace(":", "/")
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict({field: tfds.features.Text() for field in splits["train"][0]})
    template = tfds.core.ShardedFileTemplate(
        dataset_name=source.name.split("/")[0].split(":")[0], data_dir=folder, filetype_suffix="tfrecord"
    )
    infos = []
    for split, rows in splits.items():
        counts = [len(part) for part in np.array_split(rows, shards)]
        of_split = template.replace(split=split)
        infos.append(
            tfds.core.SplitInfo(name=split, shard_lengths=counts, num_bytes=0, filename_template=of_split)
        )
        left = iter(rows)
        for shard, count in enumerate(counts):
            path = of_split.sharded_filepath(shard_index=shard, num_shards=shards)
            with tf.io.TFRecordWriter(str(path)) as file:
                for row in itertools.islice(left, count):
                    file.write(features.serialize_example(row))
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, split_infos=infos, filename_template=template, check_data=False
    )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Every TFDS task with three rows a split; GSM8K's train split with the 512 that validate besides."""
    folder = tmp_path_factory.mktemp("tfds")
    for name, (row, *_) in ROWS.items():
        changed = next(iter(row))
        rows = [row, *({**row, changed: f"{row[changed]} {i}"} for i in range(2))]
        more = [{**row, changed: f"held out {i}"} for i in range(512)] if name == "gsm8k" else []
        held_out = {} if name in ("gsm8k", "lm1b") else {"validation": rows}
        test = rows * 700 if name == "lm1b" else rows
        write(folder, catalog.find_task(name).source, {"train": rows + more, **held_out, "test": test})
    return folder


@pytest.fixture
def prepared(data_dir):
    for name in ROWS:
        tasks.known_task(name, data_dir=str(data_dir))
    yield
    for name in ROWS:
        tasks.known_task(name, data_dir=str(default_data_dir()))


@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_tfds_becomes_prompt_and_reference(name):
    _, prompt, reference = ROWS[name]
    tokenizer = embedded_tokenizer()
    task = seqio.get_mixture_or_task(name)
    rows = list(task.get_dataset(LENGTHS, "train", shuffle=False).as_numpy_iterator())
    assert len(rows) == 3
    one_text = name == "lm1b"
    ids = tokenizer.encode(prompt)
    assert rows[0]["inputs"].tolist() == ([1, *ids] if one_text else [*ids, 1])
    assert rows[0]["targets"].tolist() == [*tokenizer.encode(reference), 1]
    assert task.metric_fns == ([METRICS[name]] if name in METRICS else [])


@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("name", ROWS)
def test_decoding_and_training_see_the_same_rows_in_one_order(name):
    found = features.examples(name, split="train", lengths=LENGTHS)
    (batch,) = features.eval_batches(name, split="train", lengths=LENGTHS, batch_size=3)
    for row, target, example in zip(
        batch["encoder_input_tokens"], batch["decoder_target_tokens"], found, strict=True
    ):
        assert row[: len(example.prompt)].tolist() == list(example.prompt)
        assert embedded_tokenizer().decode(target) == example.targets_text
    stream = features.train_batches(name, lengths=LENGTHS, batch_size=3, seed=0, pack=False)
    assert {tuple(row) for row in next(stream)["encoder_input_tokens"]} == {
        tuple(row) for row in batch["encoder_input_tokens"]
    }


@pytest.mark.usefixtures("prepared")
def test_rows_held_out_of_a_data_set_without_validation_split():
    rows = {split: list(catalog.read_rows(catalog.find_task("gsm8k"), split)) for split in catalog.SPLITS}
    assert {split: len(of_split) for split, of_split in rows.items()} == {
        "train": 3,
        "validation": 512,
        "test": 3,
    }
    assert not any("held out" in row["inputs"] for row in rows["train"])
    lm1b = catalog.find_task("lm1b")
    assert [sum(1 for _ in catalog.read_rows(lm1b, split)) for split in ("validation", "test")] == [2048, 52]


@pytest.mark.usefixtures("prepared")
def test_the_fingerprint_is_of_version_and_slice(tmp_path):
    source = catalog.find_task("xsum").source
    known = source.fingerprint("train")
    assert known == Tfds(source.name, source.slices, source.data_dir).fingerprint("train")
    assert known != source.fingerprint("test")
    assert known != Tfds(source.name, source.slices, tmp_path).fingerprint("train")


@pytest.mark.parametrize("name", ROWS)
def test_absent_data_names_the_command_that_prepares_it(name, tmp_path):
    source = catalog.find_task(name).source
    command = f"tfds.builder('{source.name}', data_dir='{tmp_path}').download_and_prepare()\"`"
    tasks.known_task(name, data_dir=str(tmp_path))
    try:
        for read in (
            lambda: features.examples(name, split="test"),
            lambda: features.train_batches(name, lengths=LENGTHS, batch_size=1, seed=0, pack=False),
            lambda: features.eval_batches(name, split="test", lengths=LENGTHS, batch_size=1),
        ):
            with pytest.raises(UsageError) as error:
                read()
            assert command in str(error.value)
            assert "\n" not in str(error.value)
            assert ("downloads/manual" in str(error.value)) == (name in ("xsum", "wmt14_ende"))
    finally:
        tasks.known_task(name, data_dir=str(default_data_dir()))


def test_a_data_set_that_tfds_does_not_know(tmp_path):
    with pytest.raises(UsageError, match=r"no data set 'no_such_set:1\.0\.0'"):
        next(Tfds("no_such_set:1.0.0", {"train": "train"}, tmp_path).rows("train"))


def test_big_bench_hard_is_read_in_turns_from_its_authors_files(tmp_path):
    tasks.known_task("bbh", data_dir=str(tmp_path))
    try:
        with pytest.raises(
            UsageError, match=r"boolean_expressions\.json.*git clone https://github\.com/suzgunmirac"
        ):
            features.examples("bbh", split="test")
        folder = tmp_path / "downloads/manual/BIG-Bench-Hard/bbh"
        folder.mkdir(parents=True)
        for number, subset in enumerate(paper_tasks.BBH_SUBSETS):
            rows = [{"input": f"{subset} {i}", "target": "(A)"} for i in range(1 + (number == 0))]
            (folder / f"{subset}.json").write_text(json.dumps({"canary": "x", "examples": rows}))
        found = [example.inputs_text for example in features.examples("bbh", split="test")]
        assert found == [*(f"{subset} 0" for subset in paper_tasks.BBH_SUBSETS), "boolean_expressions 1"]
        (folder / "navigate.json").write_text('{"example": []}')
        with pytest.raises(UsageError, match=r"navigate\.json: expected a list .* 'examples'"):
            features.examples("bbh", split="test")
    finally:
        tasks.known_task("bbh", data_dir=str(default_data_dir()))


def test_the_suite_has_its_23_tasks():
    subsets = paper_tasks.BBH_SUBSETS
    sizes = r"_(three|five|seven)_objects$"
    assert (len(subsets), len({re.sub(sizes, "", subset) for subset in subsets})) == (27, 23)
    assert {f"bbh_{subset}" for subset in subsets} < set(paper_tasks.TASKS)
    assert catalog.find_task("bbh").prefix == catalog.find_task("gsm8k").prefix


def test_a_known_task_with_another_vocabulary(tmp_path):
    from distillspec_jax.data import train_vocabulary

    lines = [f"{word} {other}" for word in ("red", "green", "blue") for other in ("tea", "hat", "bus")]
    model = tmp_path / "own.model"
    model.write_bytes(train_vocabulary.train(lines * 5, vocabulary_size=274))
    try:
        assert tasks.known_task("gsm_symbolic", vocabulary_path=str(model)) == "gsm_symbolic"
        assert catalog.tokenizer(catalog.find_task("gsm_symbolic")).vocab_size == 274
        vocabulary = seqio.get_mixture_or_task("gsm_symbolic").output_features["inputs"].vocabulary
        assert vocabulary.vocab_size == 274
        mixed = {task.name: task for task in seqio.get_mixture_or_task("embedded_mixture").tasks}
        assert mixed["gsm_symbolic"].output_features["inputs"].vocabulary.vocab_size == 274
    finally:
        catalog.replace_task("gsm_symbolic", vocabulary_path=None)
        tasks.known_task("gsm_symbolic", data_dir=".")
    with pytest.raises(UsageError, match="absent"):
        tasks.known_task("xsum", vocabulary_path=str(tmp_path / "absent.model"))
    with pytest.raises(UsageError, match=r"unknown task 'xsun': did you mean 'xsum'\?"):
        tasks.known_task("xsun")
