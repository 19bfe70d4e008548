"""The decoder-only family alone: the line of prompt and targets, its positions, its configurations."""

import dataclasses

import jax
import numpy as np
import pytest

from distillspec_jax.errors import UsageError
from distillspec_jax.models import registry
from distillspec_jax.models.decoder_only import line
from distillspec_jax.models.rotary import RopeScaling, frequencies
from tests import tiny


def test_prompt_and_targets_stand_in_one_line():
    """Two prompts, 5 6 7 and 8, and the targets 1 2 3 and 4 9 after them."""
    batch = tiny.teacher_batch(np.array([[5, 6, 7], [8, 0, 0]]), np.array([[1, 2, 3], [4, 9, 0]]))
    found = line(batch)
    # The last token of a prompt stands where features put the start, and nowhere else.
    np.testing.assert_array_equal(found.tokens_BT, [[5, 6, 7, 7, 1, 2], [8, 0, 0, 8, 4, 9]])
    np.testing.assert_array_equal(found.position_BT[:, 3:], [[2, 3, 4], [0, 1, 2]])
    seen = [[[0, 1, 3], [0, 1, 3, 4], [0, 1, 3, 4, 5]], [[3], [3, 4], [3, 4, 5]]]
    for row in range(2):
        for t in range(3):
            assert np.flatnonzero(found.mask_BTT[row, 3 + t]).tolist() == seen[row][t]


def test_zeros_inside_a_prompt_are_ids_and_zeros_after_it_are_padding():
    """Id 0 is a word in many vocabularies of this family."""
    state, pending = tiny.prefill(
        tiny.LLAMA, tiny.params(tiny.LLAMA), np.array([[5, 0, 7, 0], [0, 9, 0, 0]]), 2
    )
    np.testing.assert_array_equal(state.length_B, [2, 1])
    np.testing.assert_array_equal(pending, [7, 9])


def test_after_a_zero_at_the_end_of_a_prompt_there_is_other_padding():
    prompts = np.array([[5, 0, 0, -1], [0, -1, -1, -1], [5, 7, 8, 9]])
    state, pending = tiny.prefill(tiny.LLAMA, tiny.params(tiny.LLAMA), prompts, 2)
    np.testing.assert_array_equal(state.length_B, [2, 0, 3])
    np.testing.assert_array_equal(pending, [0, 0, 9])


def test_without_a_prompt_the_targets_are_the_line():
    """As for the filling rows of a last batch, and for plain language modelling."""
    model, params = tiny.GPT, tiny.params(tiny.GPT)
    targets = tiny.tokens(0, 2, 4)
    batch = tiny.teacher_batch(np.zeros((2, 3), np.int32), targets)
    expected = tiny.logits(model, params, batch)
    bare = {"decoder_input_tokens": batch["decoder_input_tokens"]}
    np.testing.assert_allclose(tiny.logits(model, params, bare), expected, rtol=0, atol=2e-5)
    state, pending = tiny.prefill(model, params, np.zeros((2, 3), np.int32), 4)
    np.testing.assert_array_equal(pending, [0, 0])
    found, _ = tiny.extend(model, params, state, batch["decoder_input_tokens"])
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_learned_positions_end():
    with pytest.raises(UsageError, match="prompts of up to 30 tokens and 12 more do not fit the model's 40"):
        jax.eval_shape(lambda: tiny.GPT.prefill(tiny.params(tiny.GPT), np.ones((1, 30), np.int32), 12))
    jax.eval_shape(lambda: tiny.GPT.prefill(tiny.params(tiny.GPT), np.ones((1, 30), np.int32), 11))


def test_every_parameter_has_logical_axes_that_the_table_knows():
    from distillspec_jax.partitioning import standard_logical_axis_rules

    known = {name for name, _ in standard_logical_axis_rules()} | {None}
    for model in tiny.MODELS.values():
        for box in jax.tree.leaves(
            jax.eval_shape(model.init, jax.random.key(0)), is_leaf=lambda x: hasattr(x, "names")
        ):
            assert len(box.names) == box.value.ndim
            assert set(box.names) <= known


def test_a_card_gives_the_model_back():
    for model in tiny.MODELS.values():
        assert registry.build(*registry.describe(model)) == model


def test_stretched_frequencies():
    """Llama 3's rule by hand, for 40 positions: waves of 6.3, 29.2 and 135.4 tokens."""
    plain = frequencies(6, 100.0)
    np.testing.assert_allclose(plain, [1, 100 ** (-1 / 3), 100 ** (-2 / 3)], rtol=1e-6)
    found = frequencies(6, 100.0, RopeScaling(4.0, 1.0, 4.0, 40))
    blend = (40 * plain[1] / (2 * np.pi) - 1) / 3
    expected = [plain[0], (1 - blend) * plain[1] / 4 + blend * plain[1], plain[2] / 4]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("num_kv_heads", 4, "num_kv_heads is 4, must divide num_heads = 6"),
        ("num_layers", 0, "num_layers is 0, must be at least 1"),
        ("head_dim", 5, "head_dim is 5, must be even where positions are rotary"),
        ("norm", "rmz", "norm: unknown 'rmz': did you mean 'rms'"),
        ("positions", "rotory", "positions: unknown 'rotory': did you mean 'rotary'"),
        ("mlp_activations", ("silo", "linear"), "mlp_activations: unknown 'silo'"),
    ],
)
def test_an_impossible_configuration_is_named(field, value, said):
    with pytest.raises(UsageError) as error:
        dataclasses.replace(tiny.LLAMA.config, **{field: value})
    assert said in str(error.value)
