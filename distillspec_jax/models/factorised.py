"""A draft with a factorised embedding: a table with fewer columns, and a projection that widens it.

The embedding and the projection to logits are most of a small draft's bytes. In a network with an
`embedding_rank`, the rows of the table are widened at the input, and the last layer's output is narrowed, so
that the projection to logits has `embedding_rank` columns, too. Both factorisations start from the closest
low-rank approximation, and distillation trains all factors independently.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.errors import UsageError
from distillspec_jax.models import registry
from distillspec_jax.models.network import Network
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.shapes import Params

_CHUNK = 8_192
"""Rows converted to float64 at a time: all of a large table would be gigabytes."""


def narrowed(model: Network, rank: int) -> Network:
    """Returns the network with an embedding of the given rank.

    Raises:
      UsageError: the rank exceeds the network's width, or the embedding is already factorised.
    """
    config: Any = model.config
    if config.embedding_rank:
        raise UsageError(f"its embedding is factorised already, to embedding_rank {config.embedding_rank}")
    return dataclasses.replace(model, config=dataclasses.replace(config, embedding_rank=rank))


def factorise(draft: Pretrained, rank: int) -> Pretrained:
    """Factorises a draft's embedding, and its separate projection to logits if any, at the given rank.

    Raises:
      UsageError: see `narrowed`.
    """
    model = narrowed(draft.model, rank)
    _, config = registry.describe(model)
    made = draft.card.provenance | {"embedding_rank": rank}
    card = dataclasses.replace(draft.card, config=config, provenance=made)
    return dataclasses.replace(draft, model=model, params=_closest(draft.params, rank), card=card)


def kept(whole: Pretrained, part: Pretrained) -> float:
    """Computes the fraction (0 to 1) of the embedding's squared norm that its factorisation keeps."""
    tables = (np.asarray(one.params["token_embedder"]["embedding"]) for one in (whole, part))
    before, after = (float(np.einsum("vm,vm->", t, t, dtype=np.float64)) for t in tables)
    return after / before


def _closest(params: Params, rank: int) -> Params:
    """Truncates singular value decompositions (Eckart and Young); logits change by the dropped parts."""
    embedding_VM = np.asarray(params["token_embedder"]["embedding"])
    decoder = dict(params["decoder"])
    inner_MR = _directions(embedding_VM, rank)
    outer_MR = inner_MR
    if "logits_dense" in decoder:
        kernel_MV = np.asarray(decoder["logits_dense"]["kernel"])
        outer_MR = _directions(kernel_MV.T, rank)
        decoder["logits_dense"] = {"kernel": outer_MR.T @ kernel_MV}
    decoder["narrow"] = {"kernel": outer_MR}
    embedder = {"embedding": embedding_VM @ inner_MR, "widen": {"kernel": inner_MR.T}}
    found: Params = jax.tree.map(jnp.asarray, {**params, "token_embedder": embedder, "decoder": decoder})
    return found


def _directions(table_VM: np.ndarray, rank: int) -> np.ndarray:
    """Computes the top `rank` right singular vectors of the table: `[M, R]`, orthonormal."""
    gram_MM = np.zeros((table_VM.shape[1],) * 2)
    for start in range(0, len(table_VM), _CHUNK):
        rows_CM = table_VM[start : start + _CHUNK].astype(np.float64)  # squaring halves the precision
        gram_MM += rows_CM.T @ rows_CM
    _, vectors_MM = np.linalg.eigh(gram_MM)  # in ascending order
    return vectors_MM[:, : -rank - 1 : -1].astype(table_VM.dtype)


def expanded(model: Network, params: Params) -> tuple[Network, Params]:
    """Multiplies out a factorised embedding and a separate projection; returns other networks unchanged.

    For formats that cannot describe a factorised embedding. The logits are equal up to rounding error.
    """
    config: Any = model.config
    if not config.embedding_rank:
        return model, params
    embedder, decoder = params["token_embedder"], dict(params["decoder"])
    embedding_VR, narrow_MR = embedder["embedding"], decoder.pop("narrow")["kernel"]
    if config.logits_via_embedding:
        kernel_RV = embedding_VR.T * model.logits_scale
    else:
        kernel_RV = decoder["logits_dense"]["kernel"]
    decoder["logits_dense"] = {"kernel": narrow_MR @ kernel_RV}
    whole = {"embedding": embedding_VR @ embedder["widen"]["kernel"]}
    config = dataclasses.replace(config, embedding_rank=0, logits_via_embedding=False)
    return dataclasses.replace(model, config=config), {**params, "token_embedder": whole, "decoder": decoder}
