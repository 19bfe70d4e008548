"""The comparison of greedy outputs: equal pairs, first differences, and the gap that excuses one."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import greedy_identity
from tests import pair
from tests.evaluation import tiny


@pytest.mark.parametrize(
    ("reference", "other", "common"),
    [([5, 6, 7], [5, 6, 7], 3), ([5, 6, 7], [5, 9, 7], 1), ([5], [5, 6], 1), ([], [4], 0)],
)
def test_first_difference(reference, other, common):
    assert greedy_identity.first_difference(reference, other) == common


def test_a_tie_is_a_gap_of_rounding():
    assert greedy_identity.Difference(0, 3, 9e-5).is_tie
    assert not greedy_identity.Difference(0, 3, 2e-4).is_tie


PROMPTS = [[5, 6, 7, 1], [9, 8, 1]]


@pytest.fixture(scope="module")
def target():
    return tiny.model("target", 0)


def test_a_pair_gives_the_target_s_own_greedy_tokens(target):
    draft = tiny.model("draft", 1)
    assert not greedy_identity.greedy_differences(target, draft, PROMPTS, block_size=2, max_new_tokens=6)


def test_a_difference_is_told_with_the_gap_at_its_place(target):
    outputs, others = [[4, 5, 6], [7, 8, 9]], [[4, 5, 6], [7, 8, 3]]
    (found,) = greedy_identity.differences(target, PROMPTS, outputs, others)
    assert (found.prompt, found.position) == (1, 2)
    batch = {
        "encoder_input_tokens": jnp.asarray([PROMPTS[1]]),
        "decoder_input_tokens": jnp.asarray([[0, 7, 8]]),
    }
    last = np.asarray(target.model.logits(target.params, batch))[0, 2, 1:]  # without padding's
    first = last.max()
    assert found.gap == pytest.approx(first - np.delete(last, last.argmax()).max(), abs=1e-5)


def test_a_gap_is_that_after_the_whole_prompt_where_its_last_id_is_0():
    words, prompt = pair.without_padding(), [70, 80, 0]
    (found,) = greedy_identity.differences(words, [prompt], [[4]], [[5]])
    batch = {"decoder_input_tokens": jnp.asarray([prompt])}
    second, first = np.sort(np.asarray(words.model.logits(words.params, batch))[0, -1])[-2:]
    assert found.gap == pytest.approx(first - second, abs=1e-5)
