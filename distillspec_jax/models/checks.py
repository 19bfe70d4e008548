"""Validation shared by all model configurations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distillspec_jax.errors import UsageError, nearest

ACTIVATIONS = ("gelu", "linear", "relu", "silu")
"""Activations of a feed-forward; GELU is the tanh approximation, as in T5X."""

DTYPES = ("bfloat16", "float16", "float32")


def require(config: Any, field: str, valid: bool, must: str) -> None:
    """Refuses a field of a configuration in one line."""
    if not valid:
        raise UsageError(f"{type(config).__name__}: {field} is {getattr(config, field)}, must {must}")


def require_one_of(config: Any, field: str, choices: Sequence[str]) -> None:
    """Refuses a word that is none of the choices; names the nearest."""
    word = getattr(config, field)
    if word not in choices:
        raise UsageError(f"{field}: unknown {word!r}: {nearest(word, choices)}")


def check_sizes(config: Any, fields: Sequence[str]) -> None:
    """Sizes are at least 1."""
    for field in fields:
        require(config, field, getattr(config, field) >= 1, "be at least 1")


def check_embedding_rank(config: Any) -> None:
    """No wider than the network."""
    room = f"be at least 1 and at most emb_dim = {config.emb_dim}, or 0 for an embedding that is whole"
    require(config, "embedding_rank", 0 <= config.embedding_rank <= config.emb_dim, room)


def check_feed_forward(config: Any) -> None:
    """`mlp_activations`, `dropout_rate` and `dtype`, which all families have; lists become tuples."""
    object.__setattr__(config, "mlp_activations", tuple(config.mlp_activations))
    require(config, "dropout_rate", 0 <= config.dropout_rate < 1, "lie in [0, 1)")
    require(config, "mlp_activations", bool(config.mlp_activations), "name at least one")
    for name in config.mlp_activations:
        if name not in ACTIVATIONS:
            raise UsageError(f"mlp_activations: unknown {name!r}: {nearest(name, ACTIVATIONS)}")
    require_one_of(config, "dtype", DTYPES)
