"""Model families by name; builds models from the configuration in a checkpoint's `model.json`."""

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
from distillspec_jax.partitioning import Partitioner, bytes_a_device
from distillspec_jax.shapes import Params

FAMILIES: dict[str, type[Network]] = {
    "decoder_only": DecoderOnly,
    "t5": EncoderDecoder,
    "t5gemma": T5Gemma,
}
"""Every family by its name in `model.json`; a new family is one module and one line here."""


def build(family: str, config: Mapping[str, Any], place: str = "") -> Network:
    """Makes a model from its family's name and its configuration's JSON values.

    Args:
      place: source of the values, for errors.

    Raises:
      UsageError: the family is unknown, or the configuration is not valid for it; names the field.
    """
    at = f"{place}: " if place else ""
    if family not in FAMILIES:
        raise UsageError(f"{at}unknown model family {shown(family)}: {nearest(family, FAMILIES)}")
    model = FAMILIES[family]
    fields = {field.name for field in dataclasses.fields(model.config_type)}
    for name in config:
        if name not in fields:  # its meaning is unknown, so it is not safe to ignore
            near = nearest(name, fields)
            raise UsageError(f"{at}{family} model: unknown configuration field {shown(name)}: {near}")
    return model(schema.read(model.config_type, config, f"{at}{family} model"))


def family_of(model: Network) -> str:
    """Returns the name of a model's family.

    Raises:
      TypeError: the model's class is not registered.
    """
    for family, registered in FAMILIES.items():
        if type(model) is registered:
            return family
    raise TypeError(f"{type(model).__name__} is not a registered model family")


def describe(model: Network) -> tuple[str, dict[str, Any]]:
    """The inverse of `build`."""
    return family_of(model), dataclasses.asdict(model.config)


def normalise(card: Any) -> dict[str, Any]:
    """Returns a card's configuration with all defaults filled in, as JSON values (tuples become lists)."""
    config = dataclasses.asdict(build(card.family, card.config).config)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}


def check_fits(model: Network, name: str, partitioner: Partitioner | None = None) -> None:
    """Rejects a network whose float32 parameters do not fit on the devices.

    Args:
      name: of the network, for the message.
      partitioner: splits or copies them; None: one device holds them.

    Raises:
      UsageError: states the required and the available memory.
    """
    count, devices = model.config.num_parameters, 1 if partitioner is None else partitioner.mesh.size
    what = f"{name}: a network of {count:,} parameters"
    memory.check(what, 4 * count / devices)  # before anything is traced
    if partitioner is not None and devices > 1:
        placed = bytes_a_device(shapes(model), shardings(model, partitioner))
        memory.check(f"{what}, split by NUM_PARTITIONS and FULLY_SHARDED, on every device", placed)


def unboxed(boxed: Params) -> Params:
    """Removes the boxes that carry the parameters' logical axes."""
    return nn.meta.unbox(boxed)


@functools.lru_cache(maxsize=16)  # avoids retracing a model that a sweep or a service loads again
def shapes(model: Network) -> Params:
    """Returns shapes and dtypes of a model's parameters, without allocating them."""
    return jax.eval_shape(lambda key: unboxed(model.init(key)), jax.random.key(0))


def shardings(model: Network, partitioner: Partitioner) -> Params:
    """Returns the shardings of a model's parameters, without allocating them."""
    return partitioner.parameters(jax.eval_shape(model.init, jax.random.key(0)))
