"""Counts of operations in traced programs (jaxprs)."""

from __future__ import annotations

import math
from typing import Any


def product_flops(jaxpr: Any, while_trips: int = 1) -> float:
    """Counts the multiplications and additions of all matrix products in a program, over all devices.

    For a step without rematerialisation, these are the model's FLOPs; recomputation would count, too.

    Args:
      jaxpr: the step's jaxpr, `jitted.trace(...).jaxpr`.
      while_trips: assumed iterations of a loop of unknown length; a rollout draws one token per iteration.
    """
    inner = getattr(jaxpr, "jaxpr", jaxpr)  # unwraps a closed jaxpr
    return sum(_of(equation, while_trips) for equation in inner.eqns)


def _of(equation: Any, while_trips: int) -> float:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
    inside = [product_flops(body, while_trips) for body in inner_programs(equation)]
    if name == "cond":
        return max(inside)
    times = {"scan": parameters.get("length"), "while": while_trips}.get(name, 1)
    return times * sum(inside)


def inner_programs(equation: Any) -> list[Any]:
    """Returns the jaxprs in an equation: a loop's body, a conditional's branches, or a jitted function."""
    listed = (value if isinstance(value, tuple) else (value,) for value in equation.params.values())
    return [one for values in listed for one in values if hasattr(getattr(one, "jaxpr", one), "eqns")]
