"""Rows dealt out by length: none lost, none changed, no batch wider than it must be."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillspec_jax.data.data_config import DataConfig
from distillspec_jax.data.length_window import length_sorted
from distillspec_jax.errors import UsageError
from distillspec_jax.models.interface import prompt_lengths
from tests.data.toy import LENGTHS, said

WIDTHS = {"inputs": 8, "targets": 12}


def rows_of(batch):
    """Each row's ids without padding."""
    lengths = np.asarray(prompt_lengths(batch["encoder_input_tokens"]))
    return [
        (tuple(prompt[:length].tolist()), tuple(target[weight > 0].tolist()))
        for prompt, length, target, weight in zip(
            batch["encoder_input_tokens"],
            lengths,
            batch["decoder_target_tokens"],
            batch["decoder_loss_weights"],
            strict=True,
        )
    ]


def all_rows(batches):
    return [row for batch in batches for row in rows_of(batch)]


def stream(pad, seed, rows=3):
    """Endless batches of random rows, a function of the step; ids 0 are words where -1 pads."""

    def batch(step):
        rng = np.random.default_rng([seed, step])
        inputs, targets = (rng.integers(1, WIDTHS[side], rows) for side in ("inputs", "targets"))
        prompt_BT = rng.integers(1 + pad, 4, (rows, WIDTHS["inputs"]), np.int32)
        target_BT = rng.integers(1, 9, (rows, WIDTHS["targets"]), np.int32)
        real_BT = np.arange(WIDTHS["targets"]) < targets[:, None]
        return {
            "encoder_input_tokens": np.where(np.arange(WIDTHS["inputs"]) < inputs[:, None], prompt_BT, pad),
            "decoder_target_tokens": np.where(real_BT, target_BT, 0),
            "decoder_loss_weights": real_BT.astype(np.float32),
            "top_ids": np.where(real_BT, target_BT, 0)[..., None],
        }

    return lambda start: map(batch, itertools.count(start))


@given(st.sampled_from([0, -1]), st.integers(1, 5), st.integers(0, 99), st.integers(0, 7))
def test_each_window_has_its_rows_wherever_it_is_entered(pad, window, seed, start):
    batches = stream(pad, seed)
    whole = list(itertools.islice(length_sorted(batches, 0, window, seed), 3 * window))
    for number in range(3):
        span = slice(number * window, (number + 1) * window)
        asked = [
            row for batch in itertools.islice(batches(0), span.start, span.stop) for row in rows_of(batch)
        ]
        assert sorted(row for batch in whole[span] for row in rows_of(batch)) == sorted(asked)
    resumed = length_sorted(batches, start, window, seed)
    for expected in whole[start:]:
        np.testing.assert_equal(next(resumed), expected)


@given(st.sampled_from([0, -1]), st.integers(1, 5), st.integers(0, 99))
def test_a_batch_is_as_wide_as_its_longest_row_needs(pad, window, seed):
    for batch in itertools.islice(length_sorted(stream(pad, seed), 0, window, seed), 2 * window):
        prompts, targets = zip(*rows_of(batch), strict=True)
        needed = {
            "encoder_input_tokens": max(len(ids) + (pad < 0 and ids[-1] == 0) for ids in prompts),
            "decoder_target_tokens": max(map(len, targets)),
        }
        for (name, longest), step in zip(needed.items(), (2, 3), strict=True):
            assert batch[name].shape[1] == -(-longest // step) * step
        assert batch["top_ids"].shape[1] == batch["decoder_target_tokens"].shape[1]


def test_sorting_makes_batches_narrower_than_cutting_alone():
    def slots(window):
        taken = itertools.islice(length_sorted(stream(0, 0), 0, window, 0), 24)
        return sum(
            batch["decoder_target_tokens"].size + batch["encoder_input_tokens"].size for batch in taken
        )

    assert slots(8) < 0.9 * slots(1) < 0.9 * 24 * 3 * sum(WIDTHS.values())


def test_sampled_texts_keep_their_width(make_task):
    data = DataConfig(make_task({"train": said(11)}, **LENGTHS), length_window=2, samples_targets=True)
    batch = next(data.train_batches(4, seed=0))
    assert batch["decoder_target_tokens"].shape[1] == LENGTHS["targets_length"]
    assert batch["encoder_input_tokens"].shape[1] < LENGTHS["inputs_length"]


def test_packed_rows_are_refused():
    with pytest.raises(UsageError, match="LENGTH_WINDOW: packed rows are full already"):
        DataConfig("wiki_leads", pack=True, length_window=2).train_batches(4, seed=0)
