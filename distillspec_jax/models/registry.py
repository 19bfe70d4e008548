"""Model families by name, and models from the configuration in a checkpoint's `model.json`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from distillspec_jax import memory, schema
from distillspec_jax.errors import UsageError, nearest, shown
from distillspec_jax.models.decoder_only import DecoderOnly
from distillspec_jax.models.network import Network
from distillspec_jax.models.t5 import EncoderDecoder
from distillspec_jax.models.t5gemma import T5Gemma
from distillspec_jax.partitioning import Partitioner
from distillspec_jax.shapes import Params

FAMILIES: dict[str, type[Network]] = {
    "decoder_only": DecoderOnly,
    "t5": EncoderDecoder,
    "t5gemma": T5Gemma,
}
"""Every family by its name in `model.json`; a new one is a module and a line here."""


def build(family: str, config: Mapping[str, Any], place: str = "") -> Network:
    """Makes the model of a family and its configuration's JSON values.

    Args:
      place: where they stand, for errors.

    Raises:
      UsageError: an unknown family, or a configuration that is not of its; names the field.
    """
    at = f"{place}: " if place else ""
    if family not in FAMILIES:
        raise UsageError(f"{at}unknown model family {shown(family)}: {nearest(family, FAMILIES)}")
    model = FAMILIES[family]
    fields = {field.name for field in dataclasses.fields(model.config_type)}
    for name in config:
        if name not in fields:  # what it means is not known: it may not be left out
            near = nearest(name, fields)
            raise UsageError(f"{at}{family} model: unknown configuration field {shown(name)}: {near}")
    return model(schema.read(model.config_type, config, f"{at}{family} model"))


def family_of(model: Network) -> str:
    """The name of a model's family.

    Raises:
      TypeError: a class that is not registered.
    """
    for family, registered in FAMILIES.items():
        if type(model) is registered:
            return family
    raise TypeError(f"{type(model).__name__} is not a registered model family")


def describe(model: Network) -> tuple[str, dict[str, Any]]:
    """The inverse of `build`."""
    return family_of(model), dataclasses.asdict(model.config)


def normalise(card: Any) -> dict[str, Any]:
    """A card's configuration with every default filled in, as JSON values (tuples are lists there)."""
    config = dataclasses.asdict(build(card.family, card.config).config)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}


def check_fits(model: Network, name: str, devices: int = 1) -> None:
    """Refuses a network whose parameters so many devices cannot hold; nothing is traced.

    Raises:
      UsageError: says what it needs and what there is.
    """
    count = model.config.num_parameters
    memory.check(f"{name}: a network of {count:,} parameters", 4 * count / devices)


def unboxed(boxed: Params) -> Params:
    """Parameters without the boxes that carry their logical axes."""
    return nn.meta.unbox(boxed)


@functools.lru_cache(maxsize=16)  # a model that is loaded again, in a sweep or a service, is not traced again
def shapes(model: Network) -> Params:
    """Shapes and dtypes of a model's parameters; nothing is allocated."""
    return jax.eval_shape(lambda key: unboxed(model.init(key)), jax.random.key(0))


def shardings(model: Network, partitioner: Partitioner) -> Params:
    """Where a model's parameters go; nothing is allocated."""
    return partitioner.parameters(jax.eval_shape(model.init, jax.random.key(0)))
