import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distillspec_jax.data import packing

LENGTHS = {"inputs": 6, "targets": 5}


def example(inputs, targets):
    return {"inputs": np.array(inputs, np.int32), "targets": np.array(targets, np.int32)}


def members(row):
    """The (inputs, targets) of every segment, in order."""
    encoder, decoder = row["encoder_segment_ids"], row["decoder_segment_ids"]
    return [
        (
            tuple(row["encoder_input_tokens"][encoder == segment].tolist()),
            tuple(row["decoder_target_tokens"][decoder == segment].tolist()),
        )
        for segment in range(1, encoder.max() + 1)
    ]


def test_one_row_literally():
    (row,) = packing.pack([example([7, 8, 1], [3, 1]), example([9, 1], [4, 5])], LENGTHS, open_rows=1)
    assert {name: array.tolist() for name, array in row.items()} == {
        "encoder_input_tokens": [7, 8, 1, 9, 1, 0],
        "encoder_segment_ids": [1, 1, 1, 2, 2, 0],
        "encoder_positions": [0, 1, 2, 0, 1, 0],
        "decoder_input_tokens": [0, 3, 0, 4, 0],
        "decoder_target_tokens": [3, 1, 4, 5, 0],
        "decoder_segment_ids": [1, 1, 2, 2, 0],
        "decoder_positions": [0, 1, 0, 1, 0],
        "decoder_loss_weights": [1, 1, 1, 1, 0],
    }
    assert {name: array.dtype for name, array in row.items() if array.dtype != np.int32} == {
        "decoder_loss_weights": np.float32
    }


def test_an_example_goes_where_it_fits_best():
    long, middle, short = example([2] * 5, [2] * 4), example([3] * 3, [3] * 3), example([4], [4])
    # Two rows are open; the third example fits both and belongs in the fuller one.
    rows = list(packing.pack([long, middle, short], LENGTHS, open_rows=2))
    assert [members(row) for row in rows] == [[((2,) * 5, (2,) * 4), ((4,), (4,))], [((3,) * 3, (3,) * 3)]]


def test_the_fullest_row_makes_room():
    first, second, third = example([2] * 3, [2]), example([3] * 5, [3] * 4), example([4] * 6, [4] * 5)
    rows = list(packing.pack([first, second, third], LENGTHS, open_rows=2))
    assert [members(row)[0][0][0] for row in rows] == [3, 2, 4]


sequences = st.lists(st.integers(1, 9), min_size=1, max_size=5)


@given(st.lists(st.tuples(sequences, sequences), max_size=20), st.integers(1, 4))
def test_every_example_comes_once_and_whole(pairs, open_rows):
    rows = list(packing.pack([example(*pair) for pair in pairs], LENGTHS, open_rows=open_rows))
    packed = [member for row in rows for member in members(row)]
    assert sorted(packed) == sorted((tuple(inputs), tuple(targets)) for inputs, targets in pairs)


def test_rows_come_out_while_examples_still_come():
    def endless():
        while True:
            yield example([2, 2], [2, 1])

    stream = packing.pack(endless(), LENGTHS, open_rows=2)
    assert [members(next(stream)) for _ in range(3)] == [[((2, 2), (2, 1))] * 2] * 3
