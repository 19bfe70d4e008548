"""A draft that proposes some ids only; the network that it is made of is the judge."""

import jax
import numpy as np
import pytest

from distillspec_jax.errors import UsageError
from distillspec_jax.models.shortlist import Shortlisted, spared
from tests import tiny

IDS = (1, 4, 5, 17, 28)
PROMPT = tiny.ragged(1, (7, 2, 5), 7)
TOKENS = tiny.tokens(3, 3, 4)


def extended(model, params):
    state, _ = tiny.prefill(model, params, PROMPT, 8)
    return np.asarray(tiny.extend(model, params, state, TOKENS)[0])


@pytest.mark.parametrize("rows", [None, 12])
@pytest.mark.parametrize("model", tiny.MODELS.values(), ids=tiny.MODELS)
def test_logits_are_the_networks_at_the_ids_and_nowhere_else(model, rows):
    """Tied and scaled, tied, or a projection of its own; the wide one is not kept."""
    raw, listed = tiny.params(model), Shortlisted(model, IDS)
    params = listed.prepare(raw, rows)
    wide, narrow = (sum(x.size for x in jax.tree.leaves(tree)) for tree in (model.prepare(raw), params))
    width = model.config.embedding_rank or model.config.emb_dim
    assert wide - narrow == spared(model, len(IDS)) == (tiny.VOCAB - len(IDS)) * width
    assert jax.tree.structure(listed.prepare(params)) == jax.tree.structure(params)
    beside = np.setdiff1d(np.arange(tiny.VOCAB), IDS)
    expected = extended(model, raw)
    found = extended(listed, params)
    assert np.all(np.isneginf(found[..., beside]))
    np.testing.assert_allclose(found[..., IDS], expected[..., IDS], rtol=0, atol=2e-5)
    if rows is None:
        batch = tiny.teacher_batch(tiny.tokens(0, 2, 5), tiny.tokens(1, 2, 6))
        forced, whole = tiny.logits(listed, raw, batch), tiny.logits(model, raw, batch)
        assert np.all(np.isneginf(forced[..., beside]))
        np.testing.assert_allclose(forced[..., IDS], whole[..., IDS], rtol=0, atol=2e-5)


def test_a_distribution_that_is_nan_stays_nan_beside_the_list():
    distribution = np.log(np.full((2, len(IDS)), 0.2, np.float32))
    distribution[1] = np.nan
    first, second = np.asarray(Shortlisted(tiny.GPT, IDS).spread(distribution))
    assert np.isnan(second).all()
    assert np.isneginf(np.delete(first, IDS)).all()
    np.testing.assert_array_equal(first[list(IDS)], distribution[0])


@pytest.mark.parametrize("ids", [(), (3, 2), (2, 2), (-1, 2), (2, tiny.VOCAB)])
def test_ids_that_are_no_shortlist_are_refused(ids):
    with pytest.raises(UsageError, match="ascending ids below 29"):
        Shortlisted(tiny.GPT, ids)
