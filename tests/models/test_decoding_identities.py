"""What decoding relies on: `extend`, `rewind` and `prefill` against `logits`, on rows of unequal length.

Each identity compares two ways through the network; teacher forcing, which has no cache, is the judge.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillspec_jax.models import cpu_forms, prepared
from tests import tiny

ROWS, ROOM, WIDTH = 3, 12, 7
PROMPT_LENGTHS = (7, 2, 5)
BAD = 9
"""A token whose embedding one test spoils."""
TOLERANCE = {"rtol": 0, "atol": 2e-5}

model_cases = pytest.mark.parametrize("model", tiny.MODELS.values(), ids=tiny.MODELS)
one_of_each_family = pytest.mark.parametrize("model", [tiny.T5_1_1, tiny.LLAMA], ids=["t5", "decoder_only"])


def splits(total: int, largest: int) -> st.SearchStrategy[list[int]]:
    """Every way to feed `total` tokens in calls of at most `largest`."""
    sizes = st.lists(st.integers(1, largest), min_size=total, max_size=total)

    def cut(sizes: list[int]) -> list[int]:
        parts, left = [], total
        for size in sizes:
            parts.append(min(size, left))
            left -= parts[-1]
        return [part for part in parts if part]

    return sizes.map(cut)


lengths = st.lists(st.integers(0, 4), min_size=ROWS, max_size=ROWS)


def start(model):
    prompt = tiny.ragged(1, PROMPT_LENGTHS, WIDTH)
    return prompt, *tiny.prefill(model, tiny.params(model), prompt, ROOM)


def feed(model, state, tokens, parts):
    """Logits of all tokens, fed in calls of the given sizes, and the state after them."""
    found, at = [], 0
    for size in parts:
        out, state = tiny.extend(model, tiny.params(model), state, tokens[:, at : at + size])
        found.append(np.asarray(out))
        at += size
    return np.concatenate(found, axis=1), state


def teacher_forced(model, prompt, tokens):
    """`[B, T, V]`: entry t is the distribution after `tokens[:, :t + 1]`, padded to one width for one
    compilation."""
    padded = np.pad(tokens, ((0, 0), (0, ROOM - tokens.shape[1])))
    batch = {"encoder_input_tokens": prompt, "decoder_input_tokens": padded}
    return np.asarray(tiny.logits(model, tiny.params(model), batch))[:, : tokens.shape[1]]


def ragged_state(model, kept):
    """Rows that hold their own first `kept[b]` tokens of a common block of 4."""
    prompt, state, _ = start(model)
    history = tiny.tokens(2, ROWS, 4)
    _, longer = feed(model, state, history, [4])
    return prompt, history, longer.rewind(state.length_B + np.asarray(kept))


def joined(history, kept, tokens):
    """Each row's kept history, then its tokens; and where in the row they begin."""
    width = 4 + tokens.shape[1]
    rows = [np.concatenate([h[:k], t]) for h, k, t in zip(history, kept, tokens, strict=True)]
    return np.stack([np.pad(row, (0, width - len(row))) for row in rows])


@model_cases
@given(parts=splits(total=6, largest=4))
def test_prefill_then_extend_gives_the_teacher_forced_logits(model, parts):
    prompt, state, pending = start(model)
    tokens = tiny.tokens(3, ROWS, 6)
    tokens[:, 0] = pending
    found, after = feed(model, state, tokens, parts)
    tokens[:, 0] = 0  # what features put before the first target
    np.testing.assert_allclose(found, teacher_forced(model, prompt, tokens), **TOLERANCE)
    np.testing.assert_array_equal(after.length_B, state.length_B + 6)


@model_cases
@given(parts=splits(total=6, largest=4), kept=lengths)
def test_extending_by_k_is_extending_k_times_by_one(model, parts, kept):
    _, _, state = ragged_state(model, kept)
    tokens = tiny.tokens(4, ROWS, 6)
    at_once, after = feed(model, state, tokens, parts)
    one_by_one, after_ones = feed(model, state, tokens, [1] * 6)
    np.testing.assert_allclose(at_once, one_by_one, **TOLERANCE)
    np.testing.assert_array_equal(after.length_B, after_ones.length_B)
    np.testing.assert_array_equal(after.length_B, state.length_B + 6)


@model_cases
@given(kept=lengths, further=st.integers(1, 4))
def test_rewinding_then_extending_is_never_having_gone_further(model, kept, further):
    prompt, history, state = ragged_state(model, kept)
    _, gone = feed(model, state, tiny.tokens(5, ROWS, further), [further])
    tokens = tiny.tokens(6, ROWS, 3)
    straight, _ = feed(model, state, tokens, [3])
    returned, after = feed(model, gone.rewind(state.length_B), tokens, [3])
    np.testing.assert_allclose(returned, straight, **TOLERANCE)
    np.testing.assert_array_equal(after.length_B, state.length_B + 3)
    # Both stem from a rewound state: teacher forcing tells whether either is right.
    whole = teacher_forced(model, prompt, joined(history, kept, tokens))
    for row, k in enumerate(kept):
        np.testing.assert_allclose(returned[row], whole[row, k : k + 3], **TOLERANCE)


@one_of_each_family
def test_a_rejected_token_that_overflows_leaves_no_trace(model):
    """NaN times a weight of zero is NaN: a row would fail for a draft that the target rejects."""
    params = jax.tree.map(jnp.asarray, tiny.params(model))
    embedding = params["token_embedder"]["embedding"]
    spoiled = {**params, "token_embedder": {"embedding": embedding.at[BAD].set(jnp.nan)}}
    _, state, _ = start(model)
    tokens = tiny.tokens(9, ROWS, 3)
    tokens[tokens == BAD] -= 1
    straight, _ = feed(model, state, tokens, [3])
    drafted = tokens.copy()
    drafted[:, 1] = BAD
    others = np.arange(embedding.shape[0]) != BAD  # a tied head has the row, too
    found, after = tiny.extend(model, spoiled, state, drafted)
    np.testing.assert_allclose(found[:, 0, others], straight[:, 0, others], **TOLERANCE)
    assert np.isnan(found[:, 1:]).all()
    found, _ = tiny.extend(model, spoiled, after.rewind(state.length_B + 1), tokens[:, 1:])
    np.testing.assert_allclose(found[..., others], straight[:, 1:, others], **TOLERANCE)


@one_of_each_family
def test_select_gathers_rows_with_everything_they_remember(model):
    _, _, state = ragged_state(model, [4, 1, 3])
    tokens = tiny.tokens(7, ROWS, 2)
    whole, _ = feed(model, state, tokens, [2])
    rows = np.array([2, 0, 2])
    picked, after = feed(model, state.select(rows), tokens[rows], [2])
    np.testing.assert_array_equal(picked, whole[rows])
    np.testing.assert_array_equal(after.length_B, state.length_B[rows] + 2)


@one_of_each_family
def test_tokens_past_the_room_are_dropped_and_overwrite_nothing(model):
    # Of one length: decoder-only, a shorter prompt leaves more room.
    state, _ = tiny.prefill(model, tiny.params(model), tiny.tokens(1, ROWS, WIDTH), ROOM)
    tokens = tiny.tokens(8, ROWS, ROOM + 2)
    _, nearly = feed(model, state, tokens[:, : ROOM - 1], [4, 4, 3])
    clean, full = feed(model, nearly, tokens[:, ROOM - 1 : ROOM], [1])
    over, beyond = feed(model, nearly, tokens[:, ROOM - 1 : ROOM + 2], [3])
    np.testing.assert_allclose(over[:, :1], clean, **TOLERANCE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), beyond.cache, full.cache)
    five = state.length_B + 5
    again, _ = feed(model, beyond.rewind(five), tokens[:, 5:9], [4])
    straight, _ = feed(model, full.rewind(five), tokens[:, 5:9], [4])
    np.testing.assert_allclose(again, straight, **TOLERANCE)


@one_of_each_family
def test_a_rows_neighbours_do_not_exist_for_it(model):
    prompt, _, state = ragged_state(model, [4, 1, 3])
    other = prompt.copy()
    other[1:] = 0  # rows that hold padding alone, as the engine's fillers may
    fresh, _ = tiny.prefill(model, tiny.params(model), other, ROOM)
    _, lone = feed(model, fresh, tiny.tokens(2, ROWS, 4), [4])
    tokens = tiny.tokens(9, ROWS, 2)
    beside, _ = feed(model, state, tokens, [2])
    alone, _ = feed(model, lone.rewind(fresh.length_B + np.array([4, 0, 2])), tokens, [2])
    np.testing.assert_array_equal(alone[0], beside[0])
    assert np.isfinite(alone).all()


@one_of_each_family
def test_the_width_that_a_prompt_is_padded_to_means_nothing(model):
    prompt, state, _ = start(model)
    wider, _ = tiny.prefill(model, tiny.params(model), np.pad(prompt, ((0, 0), (0, 4))), ROOM)
    tokens = tiny.tokens(10, ROWS, 4)
    found, expected = feed(model, wider, tokens, [4])[0], feed(model, state, tokens, [4])[0]
    np.testing.assert_allclose(found, expected, **TOLERANCE)


@one_of_each_family
def test_bfloat16_decodes_to_nearly_the_float32_logits(model):
    exact = model
    model = dataclasses.replace(exact, config=dataclasses.replace(exact.config, dtype="bfloat16"))
    prompt = tiny.ragged(1, PROMPT_LENGTHS, WIDTH)
    tokens = tiny.tokens(11, ROWS, 4)
    state, _ = tiny.prefill(model, tiny.params(exact), prompt, ROOM)
    leaves = jax.tree.leaves((state.cache, state.context))
    assert {leaf.dtype for leaf in leaves if leaf.ndim == 4} == {jnp.dtype("bfloat16")}
    found, state = tiny.extend(model, tiny.params(exact), state, tokens)
    assert found.dtype == jnp.float32
    expected = teacher_forced(exact, prompt, tokens)
    assert 0 < np.abs(np.asarray(found) - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("rows", [None, 12])
@model_cases
def test_prepared_parameters_give_the_same_logits_everywhere(model, rows):
    """`prepare` stacks projections and transposes a tied embedding; every method takes any form."""
    raw = tiny.params(model)
    params = model.prepare(raw, rows)
    assert jax.tree.structure(params) != jax.tree.structure(raw)
    assert jax.tree.structure(model.prepare(params)) == jax.tree.structure(params)
    sizes = [sum(x.size for x in jax.tree.leaves(tree)) for tree in (params, raw)]
    transposed = raw["token_embedder"]["embedding"].size if model.config.logits_via_embedding else 0
    assert sizes[0] == sizes[1] + transposed
    prompt, tokens = tiny.ragged(1, PROMPT_LENGTHS, WIDTH), tiny.tokens(3, ROWS, ROOM)
    state, pending = tiny.prefill(model, params, prompt, ROOM)
    tokens[:, 0] = pending
    expected = teacher_forced(model, prompt, tokens)
    found, _ = tiny.extend(model, params, state, tokens[:, :4])
    np.testing.assert_allclose(found, expected[:, :4], **TOLERANCE)
    batch = {"encoder_input_tokens": prompt, "decoder_input_tokens": tokens}
    np.testing.assert_allclose(tiny.logits(model, params, batch), expected, **TOLERANCE)


def test_the_form_of_parameters_is_chosen_by_the_rows_of_a_call():
    raw = tiny.params(tiny.T5_1_1)
    forms = [prepared.form_of(tiny.T5_1_1.prepare(raw, rows)) for rows in (1, cpu_forms.FEW_ROWS, 13, None)]
    assert forms == ["few_rows", "few_rows", "stacked", "stacked"]
    assert [cpu_forms.pays(8, 2**20), cpu_forms.pays(9, 2**20), cpu_forms.pays(8, 2**30)] == [True] * 3
    assert not cpu_forms.pays(9, 2**30)
