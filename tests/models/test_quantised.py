"""Kernels in eight bits: the nearest such numbers, and the same network wherever they are read."""

import dataclasses

import jax
import numpy as np
import pytest

from distillspec_jax.models import prepared, quantised
from distillspec_jax.models.shortlist import Shortlisted
from tests import tiny

PROMPT = tiny.ragged(1, (7, 2, 5), 7)
TOKENS = tiny.tokens(3, 3, 4)


def test_what_is_rounded_is_nearest_and_is_rounded_once():
    kernel = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
    kernel[2] = 0
    whole, scale = (np.asarray(part) for part in quantised.quantise(kernel))
    assert whole.dtype == np.int8
    assert np.abs(whole.astype(int)).max(1).tolist() == [127, 127, 0, 127, 127]
    assert np.all(np.abs(whole * scale - kernel) <= scale * 0.5001)
    again, same = quantised.quantise(whole * scale)
    np.testing.assert_array_equal(again, whole)
    np.testing.assert_allclose(same, scale, rtol=1e-6)


@pytest.mark.parametrize("model", tiny.MODELS.values(), ids=tiny.MODELS)
def test_eight_bits_decode_to_the_logits_of_the_rounded_network(model):
    """Teacher forcing on canonical float32 on the one side: what it leaves unrounded would differ."""
    raw = tiny.params(model)
    params, model = quantised.rounded(raw), dataclasses.replace(model, int8=True)
    few = model.prepare(params, 12)
    assert [prepared.form_of(model.prepare(params, rows)) for rows in (12, 13, None)] == [
        *("int8", "stacked", "stacked")
    ]
    assert jax.tree.structure(model.prepare(few, 12)) == jax.tree.structure(few)
    eight = [leaf for leaf in jax.tree.leaves(few) if leaf.dtype == np.int8]
    assert sum(leaf.size for leaf in eight) == quantised.num_weights(params)

    state, pending_B = tiny.prefill(model, few, PROMPT, 8)
    tokens = np.concatenate([np.asarray(pending_B)[:, None], TOKENS[:, 1:]], axis=1)
    found, _ = tiny.extend(model, few, state, tokens)
    batch = {"encoder_input_tokens": PROMPT, "decoder_input_tokens": tokens}
    expected = np.asarray(tiny.logits(model, params, batch))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    off = np.abs(expected - np.asarray(tiny.logits(model, raw, batch))).max()
    assert 1e-3 < off < 0.1 * np.abs(expected).max()

    listed = Shortlisted(model, (1, 4, 17))
    narrow, _ = tiny.extend(listed, listed.prepare(params, 12), state, tokens)
    np.testing.assert_allclose(narrow[..., (1, 4, 17)], found[..., (1, 4, 17)], rtol=0, atol=1e-5)
