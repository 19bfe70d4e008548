"""The costs of decoding on a hypothetical mesh: compiled for described devices, without weights.

As in `dryrun` for a train step, all arrays are shapes with the shardings of a real run: the target is
partitioned by its rules, the draft replicated on every device. Weights and caches are counted from those
shardings and are exact; temporary bytes and collectives come from the compiler.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from distillspec_jax import bounds, checkpoint
from distillspec_jax.data import catalog
from distillspec_jax.decoding import randomness
from distillspec_jax.decoding.autoregressive import AutoregressiveLoop
from distillspec_jax.decoding.drafters import ModelDrafter
from distillspec_jax.decoding.sampling import SamplingDistribution
from distillspec_jax.decoding.speculative import SpeculativeLoop
from distillspec_jax.decoding.state import Loop, PairParams, RowSettings, State, placed
from distillspec_jax.decoding.stopping import STOP_ON_EOS
from distillspec_jax.decoding.verifiers import TOKEN_RULE
from distillspec_jax.distillation.dryrun import compiled
from distillspec_jax.errors import UsageError
from distillspec_jax.models import registry
from distillspec_jax.models.network import Network
from distillspec_jax.models.program_counts import product_flops
from distillspec_jax.partitioning import Partitioner, bytes_a_device, make_partitioner
from distillspec_jax.shapes import Array

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_ITEM = re.compile(r"\b(pred|[a-z]+?)(\d*)\[([\d,]*)\]")
_CALL = re.compile(r"= (.*?) (" + "|".join(COLLECTIVES) + r")(?:-start)?\(")


@dataclasses.dataclass(frozen=True)
class ProgramCosts:
    """The costs of one program.

    Attributes:
      flops: of its matrix products over all devices.
      temporary_bytes: per device, as reported by the compiler.
      collectives: maps a kind to its count and the bytes of the results on a device; collectives in a loop
        count once.
    """

    flops: float
    temporary_bytes: int
    collectives: Mapping[str, tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class DecodeCosts:
    """The costs of decoding a batch with a pair. Bytes are per device.

    Attributes:
      mesh: sizes of its axes.
      device: the kind of device compiled for.
      block_size: drafts per round.
      parameters: parameter counts of both networks, by role.
      weights, caches: bytes by role, exact from the shardings; caches as the prefill program returns them.
      read: minimum bytes of weights and whole caches read by a token of autoregressive decoding and by a
        round, which reads the draft's once per drafted token.
      programs: `prefill`, `one token`, `round`.
    """

    mesh: Mapping[str, int]
    device: str
    block_size: int
    parameters: Mapping[str, int]
    weights: Mapping[str, int]
    caches: Mapping[str, int]
    read: Mapping[str, int]
    programs: Mapping[str, ProgramCosts]


def decode_costs(
    target: Network,
    draft: Network,
    batch_size: int,
    feature_lengths: Mapping[str, int],
    *,
    block_size: int = 5,
    dtype: str = "bfloat16",
    num_partitions: int = 1,
    devices: Sequence[Any] | None = None,
) -> DecodeCosts:
    """Lowers and compiles the prefill of a batch, a token of autoregressive decoding, and a round.

    Args:
      target, draft: the pair.
      batch_size: rows decoded together, over all devices.
      feature_lengths: `{"inputs": tokens, "targets": tokens}`: the widths of prompts and outputs.
      block_size: drafts per round.
      dtype: of weights, activations and caches.
      num_partitions, devices: see `partitioning.make_partitioner`.

    Raises:
      UsageError: a size does not divide another, the vocabularies differ, or the networks have too few
        positions.
    """
    catalog.check_lengths(feature_lengths)
    if not 1 <= block_size <= bounds.BLOCK_SIZE:
        raise UsageError(f"block_size is {block_size}, must be from 1 to {bounds.BLOCK_SIZE}")
    if dtype not in ("float32", "bfloat16"):
        raise UsageError(f"dtype is {dtype!r}, must be 'float32' or 'bfloat16'")
    if target.vocab_size != draft.vocab_size:
        raise UsageError(f"the draft has {draft.vocab_size} logits and the target {target.vocab_size}")
    partitioner = make_partitioner(num_partitions, False, devices)
    partitioner.check_batch(batch_size)
    target, draft = (
        dataclasses.replace(one, config=dataclasses.replace(one.config, dtype=dtype))
        for one in (target, draft)
    )
    whole = dataclasses.replace(partitioner, rules=tuple((axis, None) for axis, _ in partitioner.rules))
    params = PairParams(_weights(target, partitioner, dtype), _weights(draft, whole, dtype))
    loop = SpeculativeLoop(target, ModelDrafter(draft, 1), TOKEN_RULE, STOP_ON_EOS, block_size, False)
    plain = AutoregressiveLoop(target, STOP_ON_EOS)
    width = feature_lengths["targets"]
    prompt_BT, settings = _prompts(batch_size, feature_lengths["inputs"], partitioner)

    programs: dict[str, ProgramCosts] = {}
    costs = functools.partial(_compiled, partitioner)

    def begun(loop: Loop) -> tuple[State, ProgramCosts]:
        def init(params: PairParams, prompt_BT: Array, settings: RowSettings) -> State:
            return placed(loop.init(params, prompt_BT, settings, width), partitioner)

        return costs("the prefill", init, params, prompt_BT, settings)

    state, programs["prefill"] = begun(loop)
    alone, _ = begun(plain)
    _, programs["one token"] = costs("a token", plain.round, params, alone, donated=1)
    _, programs["round"] = costs("a round", loop.round, params, state, donated=1)
    weights = {"target": bytes_a_device(params.target), "draft": bytes_a_device(params.draft)}
    caches = {"target": bytes_a_device(state.target), "draft": bytes_a_device(state.draft)}
    both = {role: weights[role] + caches[role] for role in weights}
    return DecodeCosts(
        mesh=dict(partitioner.mesh.shape),
        device=partitioner.mesh.devices.flat[0].device_kind,
        block_size=block_size,
        parameters={
            "target": checkpoint.count_parameters(params.target),
            "draft": checkpoint.count_parameters(params.draft),
        },
        weights=weights,
        caches=caches,
        read={"one token": both["target"], "round": both["target"] + block_size * both["draft"]},
        programs=programs,
    )


def _weights(model: Network, partitioner: Partitioner, dtype: str) -> Any:
    shapes = checkpoint.abstract(registry.shapes(model), registry.shardings(model, partitioner))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding), shapes)


def _prompts(rows: int, width: int, partitioner: Partitioner) -> tuple[Any, RowSettings]:
    def struct(dtype: Any, *more: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *more), dtype, sharding=partitioner.batch)

    keys = jax.eval_shape(randomness.seed_keys, struct(jnp.uint32))
    distribution = SamplingDistribution(
        temperature=struct(jnp.float32),  # type: ignore[arg-type]  # shapes stand for arrays
        top_k=struct(jnp.int32),  # type: ignore[arg-type]
        top_p=struct(jnp.float32),  # type: ignore[arg-type]
        vocab_size=None,
        excluded_ids=(0,),
        truncates=False,
    )
    settings = RowSettings(struct(keys.dtype), struct(jnp.int32), distribution)  # type: ignore[arg-type]
    return struct(jnp.int32, width), settings


def _compiled(
    partitioner: Partitioner,
    what: str,
    program: Callable[..., State],
    *arguments: Any,
    donated: int | None = None,
) -> tuple[State, ProgramCosts]:
    """Compiles a program; returns its result as shapes with shardings, and its costs."""
    traced = jax.jit(program, donate_argnums=() if donated is None else donated).trace(*arguments)
    made = compiled(traced.lower(), what, partitioner)
    result = jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        traced.out_info,
        made.output_shardings,
    )
    costs = ProgramCosts(
        flops=product_flops(traced.jaxpr),
        temporary_bytes=int(made.memory_analysis().temp_size_in_bytes),
        collectives=collectives(made.as_text()),
    )
    return result, costs


def collectives(program: str) -> dict[str, tuple[int, int]]:
    """Counts the collectives in a compiled program's text, and the bytes of their results."""
    found: collections.Counter[str] = collections.Counter()
    sizes: collections.Counter[str] = collections.Counter()
    for line in program.splitlines():
        if called := _CALL.search(line):
            results, kind = called.groups()
            found[kind] += 1
            sizes[kind] += sum(_bytes(*item) for item in _ITEM.findall(results))
    return {kind: (found[kind], sizes[kind]) for kind in COLLECTIVES if found[kind]}


def _bytes(kind: str, bits: str, shape: str) -> int:
    count = math.prod(int(size) for size in shape.split(",") if size)
    return -(-count * int(bits) // 8) if bits else count  # `pred` is a byte
