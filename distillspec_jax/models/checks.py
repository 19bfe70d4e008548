"""Validation shared by all model configurations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distillspec_jax.errors import UsageError, nearest, shown

ACTIVATIONS = ("gelu", "linear", "relu", "silu")
"""Activations of a feed-forward; GELU is the tanh approximation, as in T5X."""

MOST_ACTIVATIONS = 4
"""The maximum number of factors of a feed-forward; a gate and `linear` are two."""

DTYPES = ("bfloat16", "float16", "float32")


def require(config: Any, field: str, valid: bool, must: str) -> None:
    """Rejects an invalid field of a configuration with a one-line error."""
    if not valid:
        raise UsageError(f"{type(config).__name__}: {field} is {shown(getattr(config, field))}, must {must}")


def require_one_of(config: Any, field: str, choices: Sequence[str]) -> None:
    """Rejects a word that is not one of the choices; the error names the nearest."""
    word = getattr(config, field)
    if word not in choices:
        raise UsageError(f"{field}: unknown {shown(word)}: {nearest(word, choices)}")


LARGEST_SIZE = 2**31 - 1
"""The largest 32-bit index."""
MOST_LAYERS = 1_000
"""Layers are traced one by one, at milliseconds each; published networks have up to 126."""
MOST_PARAMETERS = 10**14
"""A hundred times the largest networks that have been trained."""


def check_sizes(config: Any, sizes: Sequence[str], layers: Sequence[str]) -> None:
    """Checks that sizes and layer counts are integers within bounds, so that tracing terminates."""
    for fields, most in ((sizes, LARGEST_SIZE), (layers, MOST_LAYERS)):
        for field in fields:
            value = getattr(config, field)
            whole = isinstance(value, int) and not isinstance(value, bool)
            require(config, field, whole, "be a whole number")
            require(config, field, value >= 1, "be at least 1")
            require(config, field, value <= most, f"be at most {most:,}")


def check_count(config: Any) -> None:
    """Checks that the network is not larger than any machine could ever hold."""
    most = f"be at most {MOST_PARAMETERS:,}"
    require(config, "num_parameters", config.num_parameters <= MOST_PARAMETERS, most)


def count_tables(config: Any) -> int:
    """Counts the parameters of the embedding and the projection to logits, factorised or not."""
    rank = config.embedding_rank or config.emb_dim
    table = config.vocab_size * rank
    factors = 2 * config.emb_dim * rank if config.embedding_rank else 0
    return factors + (table if config.logits_via_embedding else 2 * table)


def check_embedding_rank(config: Any) -> None:
    """Checks that the embedding is no wider than the network."""
    room = f"be at least 1 and at most emb_dim = {config.emb_dim}, or 0 for an embedding that is whole"
    require(config, "embedding_rank", 0 <= config.embedding_rank <= config.emb_dim, room)


def check_feed_forward(config: Any) -> None:
    """Checks `mlp_activations`, `dropout_rate` and `dtype`, which all families have; lists become tuples."""
    object.__setattr__(config, "mlp_activations", tuple(config.mlp_activations))
    require(config, "dropout_rate", 0 <= config.dropout_rate < 1, "lie in [0, 1)")
    require(config, "mlp_activations", bool(config.mlp_activations), "name at least one")
    named = f"name at most {MOST_ACTIVATIONS}"
    require(config, "mlp_activations", len(config.mlp_activations) <= MOST_ACTIVATIONS, named)
    for name in config.mlp_activations:
        if name not in ACTIVATIONS:
            raise UsageError(f"mlp_activations: unknown {shown(name)}: {nearest(name, ACTIVATIONS)}")
    require_one_of(config, "dtype", DTYPES)
