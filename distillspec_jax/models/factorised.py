"""A draft whose embedding is a product of two: a table of fewer columns, and what widens it.

Of a small draft most bytes are its embedding and its projection to logits. In a network with an
`embedding_rank` rows of the table are widened on their way in, and what the last layer gives is narrowed on
its way out, so that logits are read from a table, too, that has that many columns. It starts from the closest
such product, and distillation moves all parts on their own.
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
"""Rows that are made float64 at a time: all of a large table would be gigabytes."""


def narrowed(model: Network, rank: int) -> Network:
    """The network with an embedding of that rank.

    Raises:
      UsageError: a rank that is wider than the network, or an embedding that is factorised already.
    """
    config: Any = model.config
    if config.embedding_rank:
        raise UsageError(f"its embedding is factorised already, to embedding_rank {config.embedding_rank}")
    return dataclasses.replace(model, config=dataclasses.replace(config, embedding_rank=rank))


def factorise(draft: Pretrained, rank: int) -> Pretrained:
    """The draft with its embedding, and the projection of its own that it may have, at that rank.

    Raises:
      UsageError: see `narrowed`.
    """
    model = narrowed(draft.model, rank)
    _, config = registry.describe(model)
    made = draft.card.provenance | {"embedding_rank": rank}
    card = dataclasses.replace(draft.card, config=config, provenance=made)
    return dataclasses.replace(draft, model=model, params=_closest(draft.params, rank), card=card)


def kept(whole: Pretrained, part: Pretrained) -> float:
    """How much of the embedding's squared sum a factorised one has, 0 to 1."""
    tables = (np.asarray(one.params["token_embedder"]["embedding"]) for one in (whole, part))
    before, after = (float(np.einsum("vm,vm->", t, t, dtype=np.float64)) for t in tables)
    return after / before


def _closest(params: Params, rank: int) -> Params:
    """Truncated singular value decompositions (Eckart and Young); logits change by what they leave out."""
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
    """The `rank` directions `[M, R]`, orthonormal, in which the rows are longest."""
    gram_MM = np.zeros((table_VM.shape[1],) * 2)
    for start in range(0, len(table_VM), _CHUNK):
        rows_CM = table_VM[start : start + _CHUNK].astype(np.float64)  # squares halve the digits
        gram_MM += rows_CM.T @ rows_CM
    _, vectors_MM = np.linalg.eigh(gram_MM)  # in ascending order
    return vectors_MM[:, : -rank - 1 : -1].astype(table_VM.dtype)


def expanded(model: Network, params: Params) -> tuple[Network, Params]:
    """Undoes the factorisation: a whole embedding and a separate projection; other networks stay as they are.

    For formats that cannot describe a factorised embedding. Logits are the same but for rounding.
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
