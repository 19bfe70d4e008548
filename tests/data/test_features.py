import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest

from distillspec_jax.data import catalog, features
from distillspec_jax.data.tensorflow_setup import seqio, tf
from distillspec_jax.errors import UsageError
from distillspec_jax.tokenization.tokenizer import embedded_tokenizer

LENGTHS = {"inputs": 10, "targets": 7}
# Digits are one token each: "34" is [THREE, FOUR], and EOS is 1.
THREE, FOUR, FIVE, SIX, SEVEN, EIGHT, NINE = (embedded_tokenizer().encode(digit)[0] for digit in "3456789")
ROWS = [("7859", "39"), ("84933", "4")]


def take(count, *arguments, **settings):
    return list(itertools.islice(features.train_batches(*arguments, **settings), count))


def assert_batch(actual, expected):
    assert actual.keys() == expected.keys()
    for name, rows in expected.items():
        assert actual[name].tolist() == rows, name
        assert actual[name].dtype == (np.float32 if name == "decoder_loss_weights" else np.int32), name


def assert_same(actual, expected):
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert_batch(one, {name: array.tolist() for name, array in other.items()})


def inputs_of(batches):
    """The first token of every row."""
    return [int(token) for batch in batches for token in batch["encoder_input_tokens"][:, 0]]


def numbered(count):
    """Rows whose first input token differs: letters, then digits."""
    return [(letter, "3") for letter in "abcdefghijklmnopqrstuvwxyz0123456789"[:count]]


def test_one_example_a_row(make_task):
    (batch,) = features.eval_batches(
        make_task({"validation": ROWS, "train": ROWS}), split="validation", lengths=LENGTHS, batch_size=2
    )
    assert_batch(
        batch,
        {
            "encoder_input_tokens": [
                [SEVEN, EIGHT, FIVE, NINE, 1, 0, 0, 0, 0, 0],
                [EIGHT, FOUR, NINE, THREE, THREE, 1, 0, 0, 0, 0],
            ],
            "decoder_target_tokens": [[THREE, NINE, 1, 0, 0, 0, 0], [FOUR, 1, 0, 0, 0, 0, 0]],
            "decoder_input_tokens": [[0, THREE, NINE, 1, 0, 0, 0], [0, FOUR, 1, 0, 0, 0, 0]],
            "decoder_loss_weights": [[1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0]],
        },
    )


def test_several_examples_a_row(make_task):
    # Two copies of one row: the shuffle cannot matter, and exactly two fit.
    task = make_task({"train": [("7859", "39")]})
    (batch,) = take(1, task, lengths=LENGTHS, batch_size=1, seed=0, pack=True)
    assert_batch(
        batch,
        {
            "encoder_input_tokens": [[SEVEN, EIGHT, FIVE, NINE, 1, SEVEN, EIGHT, FIVE, NINE, 1]],
            "encoder_segment_ids": [[1, 1, 1, 1, 1, 2, 2, 2, 2, 2]],
            "encoder_positions": [[0, 1, 2, 3, 4, 0, 1, 2, 3, 4]],
            "decoder_target_tokens": [[THREE, NINE, 1, THREE, NINE, 1, 0]],
            "decoder_input_tokens": [[0, THREE, NINE, 0, THREE, NINE, 0]],
            "decoder_segment_ids": [[1, 1, 1, 2, 2, 2, 0]],
            "decoder_positions": [[0, 1, 2, 0, 1, 2, 0]],
            "decoder_loss_weights": [[1, 1, 1, 1, 1, 1, 0]],
        },
    )


def test_long_texts_are_cut_and_only_prompts_keep_eos(make_task):
    task = make_task({"train": [("3" * 50, "4" * 50), ("4" * 9, "5" * 6)]}, prefix="56")
    (batch,) = features.eval_batches(task, split="train", lengths=LENGTHS, batch_size=2)
    assert batch["encoder_input_tokens"].tolist() == [
        [FIVE, SIX] + [THREE] * 7 + [1],
        [FIVE, SIX] + [FOUR] * 7 + [1],
    ]
    assert batch["decoder_target_tokens"].tolist() == [[FOUR] * 7, [FIVE] * 6 + [1]]
    assert batch["decoder_loss_weights"].sum() == 14


def test_last_batch_is_filled_with_zero_rows_not_dropped(make_task):
    rows = numbered(5)
    task = make_task({"train": rows, "test": rows})
    batches = list(features.eval_batches(task, split="test", lengths=LENGTHS, batch_size=2))
    assert [len(array) for batch in batches for array in batch.values()] == [2] * 12
    assert [batch["decoder_loss_weights"].any(axis=1).tolist() for batch in batches] == [
        [True, True],
        [True, True],
        [True, False],
    ]
    assert not any(array[1].any() for array in batches[-1].values())
    tokenizer = embedded_tokenizer()
    assert inputs_of(batches) == [tokenizer.encode(letter)[0] for letter, _ in rows] + [0]


def test_limit_takes_the_first_examples(make_task):
    task = make_task({"train": numbered(7)})
    whole = list(features.eval_batches(task, split="train", lengths=LENGTHS, batch_size=2))
    some = list(features.eval_batches(task, split="train", lengths=LENGTHS, batch_size=2, limit=3))
    assert inputs_of(some) == [*inputs_of(whole)[:3], 0]


@pytest.mark.parametrize("count, batch_size", [(12, 4), (10, 4)])
def test_every_epoch_is_a_new_permutation_of_all_rows(make_task, count, batch_size):
    task = make_task({"train": numbered(count)})
    batches = take(3 * count // batch_size, task, lengths=LENGTHS, batch_size=batch_size, seed=0, pack=False)
    drawn = inputs_of(batches)
    epochs = [drawn[start : start + count] for start in range(0, len(drawn), count)]
    assert all(sorted(epoch) == sorted(epochs[0]) and len(set(epoch)) == count for epoch in epochs[:2])
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("pack", [False, True])
def test_start_step_continues_the_uninterrupted_stream(make_task, pack):
    rows = [
        (letter * (1 + number % 5), "3" * (1 + number % 3)) for number, (letter, _) in enumerate(numbered(23))
    ]
    task = make_task({"train": rows})
    settings = {"lengths": LENGTHS, "batch_size": 3, "seed": 7, "pack": pack}
    whole = take(20, task, **settings)
    assert_same(take(5, task, **settings, start_step=15), whole[15:])
    assert whole[0]["encoder_input_tokens"].tolist() != whole[15]["encoder_input_tokens"].tolist()
    assert ("encoder_segment_ids" in whole[0]) is pack


def test_seed_decides_the_order(make_task):
    task = make_task({"train": numbered(20)})
    settings = {"lengths": LENGTHS, "batch_size": 10, "pack": False}
    assert inputs_of(take(2, task, seed=1, **settings)) == inputs_of(take(2, task, seed=1, **settings))
    assert inputs_of(take(2, task, seed=1, **settings)) != inputs_of(take(2, task, seed=2, **settings))


def test_shards_part_the_rows(make_task):
    task = make_task({"train": numbered(12)})
    settings = {"lengths": LENGTHS, "batch_size": 6, "seed": 0, "pack": False}
    parts = [inputs_of(take(2, task, **settings, shard=(index, 2))) for index in range(2)]
    assert [len(part) for part in parts] == [6, 6]
    assert sorted(parts[0] + parts[1]) == sorted(inputs_of(take(2, task, **settings)))


@pytest.fixture(scope="module")
def mixture():
    """20 rows of "3" and 3 rows of "4", mixed at 3 : 1."""
    for digit, count in (("3", 20), ("4", 3)):
        rows = tf.data.Dataset.from_tensors({"inputs": digit, "targets": digit}).repeat(count)
        vocabulary = seqio.get_mixture_or_task("wiki_leads").output_features["inputs"].vocabulary
        seqio.TaskRegistry.add(
            f"test_mixture_{digit}",
            source=seqio.FunctionDataSource(lambda split, shuffle_files, rows=rows: rows, splits=("train",)),
            preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
            output_features={name: seqio.Feature(vocabulary) for name in ("inputs", "targets")},
        )
    seqio.MixtureRegistry.add("test_mixture", [("test_mixture_3", 3), ("test_mixture_4", 1)])
    return "test_mixture"


def test_a_mixture_draws_by_its_rates(mixture):
    drawn = inputs_of(take(20, mixture, lengths=LENGTHS, batch_size=50, seed=0, pack=False))
    assert set(drawn) == {THREE, FOUR}
    # 1,000 draws at 3/4: the standard deviation is 13.7; four of them.
    assert abs(drawn.count(THREE) - 750) < 55


def test_a_mixture_continues_where_it_stopped(mixture):
    settings = {"lengths": LENGTHS, "batch_size": 5, "seed": 3, "pack": True}
    assert_same(take(3, mixture, **settings, start_step=9), take(12, mixture, **settings)[9:])


def test_a_mixture_is_evaluated_task_after_task(mixture):
    batches = list(features.eval_batches(mixture, split="train", lengths=LENGTHS, batch_size=8))
    assert inputs_of(batches) == [THREE] * 20 + [FOUR] * 3 + [0]


def test_prompts_are_what_training_sees():
    lengths = {"inputs": 24, "targets": 16}  # short enough to cut most prompts
    found = features.examples("wiki_leads", split="test", lengths=lengths, limit=30)
    (batch,) = features.eval_batches("wiki_leads", split="test", lengths=lengths, batch_size=30, limit=30)
    tokenizer = embedded_tokenizer()
    for example, row in zip(found, batch["encoder_input_tokens"], strict=True):
        assert list(example.prompt) == row[: len(example.prompt)].tolist()
        assert not row[len(example.prompt) :].any()
        assert example.prompt[-1] == 1
        assert ("summarize: " + example.inputs_text).startswith(
            tokenizer.decode(example.prompt).rstrip("\ufffd")
        )
    assert found[0].targets_text == next(catalog.read_rows(catalog.WIKI_LEADS, "test"))["targets"]
    assert max(len(example.prompt) for example in found) == 24


def test_another_process_draws_the_same_batches():
    code = (
        "import hashlib\n"
        "from distillspec_jax.data import features\n"
        "batches = features.train_batches('embedded_mixture', lengths={'inputs': 32, 'targets': 32},\n"
        "                                 batch_size=16, seed=5, pack=True, split='validation')\n"
        "digest = hashlib.sha256()\n"
        "for step in range(4):\n"
        "    digest.update(b''.join(array.tobytes() for _, array in sorted(next(batches).items())))\n"
        "print(digest.hexdigest())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    settings = {"batch_size": 16, "seed": 5, "pack": True, "split": "validation"}
    digest = hashlib.sha256()
    for batch in take(4, "embedded_mixture", lengths={"inputs": 32, "targets": 32}, **settings):
        digest.update(b"".join(array.tobytes() for _, array in sorted(batch.items())))
    assert done.stdout.split() == [digest.hexdigest()]
    assert done.stderr == ""  # TensorFlow's start-up notes are silenced


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"task_or_mixture": "wiki_lead"}, r"unknown task 'wiki_lead': did you mean 'wiki_leads'\?"),
        ({"split": "valid"}, r"'wiki_leads' has no split 'valid': did you mean 'validation'\?"),
        ({"lengths": {"inputs": 8}}, "must name 'inputs' and 'targets'"),
        ({"lengths": {"inputs": 8, "targets": 1}}, "length of 'targets' is 1"),
        ({"batch_size": 0}, "batch size is 0"),
        ({"batch_size": 6, "shard": (0, 4)}, "batch size 6 on 4 hosts; take a multiple of 4"),
        ({"shard": (2, 2)}, "shard 2 of 2"),
        ({"start_step": -1}, "start_step is -1"),
    ],
)
def test_bad_arguments_are_named_before_anything_runs(changes, complaint):
    settings = {
        "task_or_mixture": "wiki_leads",
        "lengths": LENGTHS,
        "batch_size": 8,
        "seed": 0,
        "pack": False,
    }
    with pytest.raises(UsageError, match=complaint):
        features.train_batches(**{**settings, **changes})


def test_an_empty_split_is_named(make_task):
    task = make_task({"train": []})
    with pytest.raises(UsageError, match=rf"'{task}': split 'train' is empty"):
        features.train_batches(task, lengths=LENGTHS, batch_size=1, seed=0, pack=False)
    with pytest.raises(UsageError, match="is empty"):
        features.eval_batches(task, split="train", lengths=LENGTHS, batch_size=1)
    with pytest.raises(UsageError, match="is empty"):
        features.examples(task, split="train")
    one = make_task({"train": [("3", "4")]})
    with pytest.raises(UsageError, match="is empty on shard 1 of 2"):
        features.train_batches(one, lengths=LENGTHS, batch_size=2, seed=0, pack=False, shard=(1, 2))


@pytest.mark.parametrize("limit", [0, -1])
def test_an_impossible_limit_is_named(limit):
    with pytest.raises(UsageError, match=f"limit is {limit}"):
        features.examples("wiki_leads", split="test", limit=limit)
    with pytest.raises(UsageError, match=f"limit is {limit}"):
        features.eval_batches("wiki_leads", split="test", lengths=LENGTHS, batch_size=1, limit=limit)
