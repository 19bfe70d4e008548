"""Model families by name: what a checkpoint's `model.json` is turned back into."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax

from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.models.decoder_only import DecoderOnly, DecoderOnlyConfig
from distillspec_jax.models.t5 import EncoderDecoder, T5Config
from distillspec_jax.partitioning import Partitioner
from distillspec_jax.shapes import Params

Network = EncoderDecoder | DecoderOnly
"""A `LanguageModel` with a configuration, whose parameters can be made and stored."""

FAMILIES: dict[str, tuple[Any, Any]] = {
    "decoder_only": (DecoderOnly, DecoderOnlyConfig),
    "t5": (EncoderDecoder, T5Config),
}


def build(family: str, config: dict[str, Any]) -> Network:
    """The model of a family and its configuration's JSON values."""
    if family not in FAMILIES:
        raise UsageError(f"unknown model family {family!r}: {nearest(family, FAMILIES)}")
    model, config_type = FAMILIES[family]
    fields = {f.name for f in dataclasses.fields(config_type)}
    for name in config:
        if name not in fields:
            raise UsageError(f"{family} model: unknown configuration field {name!r}: {nearest(name, fields)}")
    built: Network = model(config_type(**config))
    return built


def describe(model: Any) -> tuple[str, dict[str, Any]]:
    """Inverse of `build`."""
    for family, (model_type, _) in FAMILIES.items():
        if isinstance(model, model_type):
            return family, dataclasses.asdict(model.config)
    raise TypeError(f"{type(model).__name__} is not a registered model family")


def normalise(card: Any) -> dict[str, Any]:
    """A card's configuration with every default filled in, as JSON values (tuples are lists there)."""
    config = dataclasses.asdict(build(card.family, card.config).config)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}


def unboxed(boxed: Params) -> Params:
    """Parameters without the boxes that carry their logical axes."""
    return nn.meta.unbox(boxed)


def shapes(model: Network) -> Params:
    """Shapes and dtypes of a model's parameters; nothing is allocated."""
    return jax.eval_shape(lambda key: unboxed(model.init(key)), jax.random.key(0))


def shardings(model: Network, partitioner: Partitioner) -> Params:
    """Where a model's parameters go; nothing is allocated."""
    return partitioner.parameters(jax.eval_shape(model.init, jax.random.key(0)))
