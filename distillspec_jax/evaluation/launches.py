"""Counts the operations that a decoding round launches, from its traced program without compilation.

A compiler fuses elementwise operations into their neighbours. Operations that it does not fuse are counted:
products, reductions, searches, sorts, gathers and scatters. On an accelerator each is a kernel or two, on a
CPU a task for its threads. Small networks spend most of their time launching them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from distillspec_jax.decoding import randomness
from distillspec_jax.decoding.autoregressive import AutoregressiveLoop
from distillspec_jax.decoding.drafters import ModelDrafter
from distillspec_jax.decoding.sampling import SamplingParams
from distillspec_jax.decoding.speculative import SpeculativeLoop
from distillspec_jax.decoding.state import PairParams, RowSettings
from distillspec_jax.models import registry
from distillspec_jax.models.network import Network
from distillspec_jax.models.program_counts import inner_programs
from distillspec_jax.shapes import Array
from distillspec_jax.vocabulary import Vocabulary

_KINDS = ("dot_general", "gather", "scatter", "dynamic_update_slice", "sort", "top_k", "argmax", "argmin")
_BEGINNINGS = ("reduce_", "cum", "threefry", "random_bits")


def count(jaxpr: Any) -> int:
    """Counts a program's unfusable operations; those in a loop of known length count once per iteration."""
    found = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name = equation.primitive.name
        if name in _KINDS or (name.startswith(_BEGINNINGS) and name != "reduce_precision"):
            found += 1
        else:
            times = equation.params.get("length", 1) if name == "scan" else 1
            found += times * sum(count(inner) for inner in inner_programs(equation))
    return found


def of_rounds(
    target: Network, draft: Network, *, batch_size: int, block_sizes: Sequence[int]
) -> dict[int, float]:
    """Counts the operations of a round for every block size, and without a draft (0)."""
    return {size: float(_of_round(target, draft, batch_size, size)) for size in (0, *block_sizes)}


def _of_round(target: Network, draft: Network, rows: int, block_size: int) -> int:
    loop: AutoregressiveLoop | SpeculativeLoop = AutoregressiveLoop(target)
    if block_size:
        loop = SpeculativeLoop(target, ModelDrafter(draft), block_size=block_size)

    def shapes(model: Network) -> Any:
        return jax.eval_shape(model.prepare, registry.shapes(model))

    def started(params: PairParams, prompt_BT: Array) -> Any:
        vocabulary = Vocabulary(target.vocab_size, eos_ids=(), padding_ids=())
        distribution = SamplingParams(1.0).distribution(vocabulary).for_rows(rows)
        keys_B = randomness.row_keys(randomness.seed_key(0), jnp.arange(rows))
        settings = RowSettings(keys_B, jnp.full(rows, 1), distribution)
        return loop.init(params, prompt_BT, settings, 1)

    params = PairParams(shapes(target), shapes(draft))
    state = jax.eval_shape(started, params, jax.ShapeDtypeStruct((rows, 2), jnp.int32))
    return count(jax.make_jaxpr(loop.round)(params, state))
