"""Makes a draft from some of its target's layers: same width, same embedding, same vocabulary."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from distillspec_jax import provenance
from distillspec_jax.errors import UsageError
from distillspec_jax.models import registry
from distillspec_jax.models.network import Network
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.shapes import Params


def num_layers(model: Network) -> int:
    """Returns the number of decoder layers."""
    count: int = getattr(model.config, model.depth_field)
    return count


def shrink(model: Network, layers: Sequence[int]) -> Network:
    """Returns the network with only the given decoder layers; an encoder–decoder keeps its whole encoder.

    Raises:
      UsageError: there are no layers, some do not exist, or they are not in ascending order.
    """
    count = num_layers(model)
    if not layers or sorted(set(layers)) != list(layers) or not 0 <= layers[0] <= layers[-1] < count:
        raise UsageError(
            f"layers are {','.join(map(str, layers)) or 'none'}, must be some of 0 to {count - 1}, in "
            "ascending order"
        )
    config: Any = model.config
    return dataclasses.replace(model, config=dataclasses.replace(config, **{model.depth_field: len(layers)}))


def take(params: Params, layers: Sequence[int]) -> Params:
    """Returns the parameters of these layers, renumbered, and all other parameters."""
    stack = {name: value for name, value in params["decoder"].items() if not name.startswith("layers_")}
    stack |= {f"layers_{new}": params["decoder"][f"layers_{old}"] for new, old in enumerate(layers)}
    return {**params, "decoder": stack}


def cut(target: Pretrained, layers: Sequence[int]) -> Pretrained:
    """Makes the draft, with the target's tokenizer, prefix and lengths.

    Raises:
      UsageError: see `shrink`.
    """
    model = shrink(target.model, layers)
    _, config = registry.describe(model)
    made = provenance.of_process(parents={"target": target.name}, layers=list(layers))
    card = dataclasses.replace(target.card, config=config, provenance=made)
    return dataclasses.replace(target, model=model, params=take(target.params, layers), card=card)
