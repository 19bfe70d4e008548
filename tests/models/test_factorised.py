"""A draft with a factorised embedding, against the same network with that embedding written out."""

import dataclasses

import jax
import numpy as np
import pytest

from distillspec_jax import model_card
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import draft_shapes
from distillspec_jax.interop import convert, hf_folder
from distillspec_jax.models import factorised, pretrained, registry
from distillspec_jax.models.pretrained import Pretrained
from tests import tiny

RANK = 5
BATCH = tiny.teacher_batch(tiny.tokens(0, 2, 5), tiny.tokens(1, 2, 6))
whole_models = pytest.mark.parametrize("kind", tiny.WHOLE)
factorised_models = pytest.mark.parametrize("kind", tiny.FACTORISED)


def loaded(model):
    card = model_card.ModelCard(*registry.describe(model), None)
    return Pretrained("whole", model, tiny.params(model), card)


def truncated(table):
    """The closest matrix of that rank, by a singular value decomposition."""
    left, values, right = np.linalg.svd(np.asarray(table, np.float64), full_matrices=False)
    return ((left * values)[:, :RANK] @ right[:RANK]).astype(np.float32)


@whole_models
def test_it_computes_what_the_network_does_with_the_closest_embedding_of_that_rank(kind):
    whole = loaded(tiny.WHOLE[kind])
    params = {**whole.params, "decoder": dict(whole.params["decoder"])}
    params["token_embedder"] = {"embedding": truncated(params["token_embedder"]["embedding"])}
    if not whole.model.config.logits_via_embedding:
        kernel = params["decoder"]["logits_dense"]["kernel"]
        params["decoder"]["logits_dense"] = {"kernel": truncated(kernel)}
    part = factorised.factorise(whole, RANK)
    found = tiny.logits(part.model, part.params, BATCH)
    np.testing.assert_allclose(found, tiny.logits(whole.model, params, BATCH), rtol=0, atol=5e-5)
    assert jax.tree.map(np.shape, part.params) == jax.tree.map(np.shape, tiny.params(part.model))
    assert part.card.provenance["embedding_rank"] == RANK


def test_what_it_keeps_is_the_share_of_the_squared_singular_values():
    whole = loaded(tiny.GPT)
    squares = np.linalg.svd(np.asarray(whole.params["token_embedder"]["embedding"]), compute_uv=False) ** 2
    found = factorised.kept(whole, factorised.factorise(whole, RANK))
    assert found == pytest.approx(squares[:RANK].sum() / squares.sum(), rel=1e-5)


def test_a_short_direction_is_found_beside_a_long_one(monkeypatch):
    """Their squares are further apart than float32 has digits."""
    monkeypatch.setattr(factorised, "_CHUNK", 30)
    rng = np.random.default_rng(0)
    left, turned = (np.linalg.qr(rng.normal(size=(n, 3)))[0] for n in (100, 3))
    table = (left * [3e4, 1.0, 0.25] @ turned.T).astype(np.float32)
    found = factorised._directions(table, 2)
    np.testing.assert_allclose(found @ found.T, turned[:, :2] @ turned[:, :2].T, rtol=0, atol=1e-3)


@factorised_models
def test_written_out_it_gives_the_same_logits_whatever_training_made_of_its_parts(kind, tmp_path):
    """As for transformers, which has no word for it; the inner and the outer projection differ here."""
    model = tiny.FACTORISED[kind]
    pretrained.save(loaded(model), str(tmp_path / "ours"))
    convert.export(str(tmp_path / "ours"), str(tmp_path / "hf"))
    assert "embedding of rank 5 is written out" in (tmp_path / "hf" / "README.md").read_text()
    written, params = hf_folder.read(str(tmp_path / "hf"))
    assert written.config.embedding_rank == 0
    assert not written.config.logits_via_embedding
    found = tiny.logits(written, params, BATCH)
    np.testing.assert_allclose(found, tiny.logits(model, tiny.params(model), BATCH), rtol=0, atol=5e-5)


def test_a_whole_network_is_written_as_it_is():
    params = tiny.params(tiny.GPT)
    model, same = factorised.expanded(tiny.GPT, params)
    assert model is tiny.GPT
    assert same is params


def test_costs_follow_from_the_narrower_tables():
    whole, part = (draft_shapes.of_layers(tiny.LLAMA, [0], rank=rank) for rank in (0, RANK))
    config = tiny.LLAMA.config
    tables = 2 * config.vocab_size * (config.emb_dim - RANK)
    assert whole.parameters - part.parameters == tables - 2 * config.emb_dim * RANK


@pytest.mark.parametrize("rank", [-1, 17])
def test_a_rank_that_no_embedding_has_is_refused(rank):
    with pytest.raises(UsageError, match=f"embedding_rank is {rank}, must be at least 1 and at most .* 16"):
        factorised.narrowed(tiny.GPT, rank)


def test_an_embedding_is_factorised_once():
    once = factorised.narrowed(tiny.GPT, RANK)
    assert once == dataclasses.replace(
        tiny.GPT, config=dataclasses.replace(tiny.GPT.config, embedding_rank=RANK)
    )
    with pytest.raises(UsageError, match="factorised already, to embedding_rank 5"):
        factorised.narrowed(once, 3)
