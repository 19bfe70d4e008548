"""The costs of a train step on a hypothetical mesh: compiled for described devices, without weights.

Models, optimizer and batch are shapes with the shardings of a real run. Parameters, moments and gradients are
counted from those shardings and are exact. The step's other memory is the compiler's figure: for TPUs if
their compiler is installed (`tpu_devices`), otherwise for as many virtual CPU devices, which is only an
estimate.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.experimental import topologies

from distillspec_jax import bounds, checkpoint, memory
from distillspec_jax.data import catalog
from distillspec_jax.distillation.divergences import Divergence
from distillspec_jax.distillation.divergences import divergence as find_divergence
from distillspec_jax.distillation.loss import make_distillation_loss
from distillspec_jax.distillation.sources import DataSource, check_shares, holds
from distillspec_jax.distillation.sources import source as find_source
from distillspec_jax.distillation.stale import Stale
from distillspec_jax.errors import UsageError
from distillspec_jax.models import registry
from distillspec_jax.models.network import Network
from distillspec_jax.models.program_counts import product_flops
from distillspec_jax.partitioning import Partitioner, bytes_a_device, make_partitioner
from distillspec_jax.shapes import Params
from distillspec_jax.training import job
from distillspec_jax.training.step import LossFn, check_microbatches, describe_state, make_train_step
from distillspec_jax.training.supervised import make_supervised_loss
from distillspec_jax.vocabulary import T5_IDS

_NO_CLOUD = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
}
"""Settings that libtpu would otherwise request from a cloud host, with long complaints if none answers. The
topology to compile for is given separately."""


@dataclasses.dataclass(frozen=True)
class Costs:
    """The costs of one train step. Bytes are those of the device that holds most.

    Attributes:
      mesh: sizes of its axes.
      parameters: parameter counts of all networks, by role.
      flops: of the step's matrix products over all devices, excluding rematerialisation.
        A rollout is assumed to draw every token of the targets.
      bytes: maps a kind of array to its bytes per device; from shapes and shardings.
      temporary_bytes: as reported by the compiler, including gradients.
      device: the kind of device compiled for.
    """

    mesh: Mapping[str, int]
    parameters: Mapping[str, int]
    flops: float
    bytes: Mapping[str, int]
    temporary_bytes: int
    device: str


def use_virtual_devices(count: int) -> None:
    """Makes JAX see `count` CPU devices.

    Raises:
      UsageError: the count is out of range, or JAX has already started with another.
    """
    if count < 1:
        raise UsageError(f"{count} devices: must be at least 1")
    bounds.check_most("the number of devices", count, bounds.DEVICES)
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # JAX has started
        pass
    if jax.device_count() != count:
        raise UsageError(f"{count} devices: JAX has started already, with {jax.device_count()}")


def tpu_devices(topology: str) -> Sequence[Any]:
    """Describes the chips of a hypothetical TPU slice, as their compiler knows them.

    Args:
      topology: kind and shape, e.g. `v5e:4x8`.

    Raises:
      UsageError: no TPU compiler is installed, or it does not know the slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UsageError(
            f"topology {topology!r}: libtpu, which compiles for TPUs, is not installed: "
            "pip install 'distillspec_jax[tpu]'"
        )
    for name, value in _NO_CLOUD.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")  # the chips are only compiled for
    try:
        found = topologies.get_topology_desc(topology, platform="tpu")
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"topology {topology!r}: {reason}; write kind and shape, as v5e:4x8") from error
    return list(found.devices)


def dryrun(
    model: Network,
    batch_size: int,
    feature_lengths: Mapping[str, int],
    *,
    optimizer: optax.GradientTransformation,
    target: Network | None = None,
    divergence: str | Divergence | None = None,
    source: str | DataSource | None = None,
    microbatches: int = 1,
    remat: str = "none",
    scan_layers: bool = False,
    attention: str = "plain",
    num_partitions: int = 1,
    fully_sharded: bool = False,
    devices: Sequence[Any] | None = None,
) -> Costs:
    """Lowers and compiles the step that trains `model`.

    Args:
      model: the network to train.
      batch_size, microbatches: as in `LoopConfig`.
      feature_lengths: `{"inputs": tokens, "targets": tokens}`.
      target: network to distil from; None: supervised training.
      divergence, source, optimizer, remat, scan_layers, attention: as in `distill`.
      num_partitions, fully_sharded, devices: see `partitioning.make_partitioner`.

    Raises:
      UsageError: a size does not divide another, or a name is unknown.
    """
    catalog.check_lengths(feature_lengths)
    partitioner = make_partitioner(num_partitions, fully_sharded, devices)
    partitioner.check_batch(batch_size)
    check_microbatches(batch_size, microbatches)
    divergence, source = find_divergence(divergence or "fkl"), find_source(source or "on_policy")
    check_shares(source, batch_size, microbatches)
    trained = job.as_trained(model, remat, scan_layers, attention)
    params, shardings = _placed(trained, partitioner)
    state, state_shardings = describe_state(params, shardings, optimizer, partitioner)
    parts = {"model": params}
    initial = params if holds(source, Stale) else None
    if target is not None:
        if target.vocab_size != model.vocab_size:
            raise UsageError(f"the model has {model.vocab_size} logits and the target {target.vocab_size}")
        target = dataclasses.replace(target, scan_layers=scan_layers, attention=attention)
        parts["target"], _ = _placed(target, partitioner)

    def loss(model: Network) -> LossFn:
        if target is None:
            return make_supervised_loss(model, dropout=True)
        # The choice of real ids affects neither memory nor FLOPs, so T5's will do for any vocabulary.
        return make_distillation_loss(
            model,
            target,
            parts["target"],
            divergence,
            source,
            vocabulary=T5_IDS,
            dropout=True,
            initial_params=initial,
        )

    step = make_train_step(optimizer, partitioner, state_shardings, seed=0, microbatches=microbatches)
    batch = _batch(batch_size, feature_lengths, partitioner)
    arguments = checkpoint.abstract(state, state_shardings), batch
    planned = compiled(step.lower(*arguments, loss(trained)), "the step", partitioner).memory_analysis()
    counted = step.trace(*arguments, loss(dataclasses.replace(model, remat="none"))).jaxpr
    moments = checkpoint.abstract(state.optimizer, state_shardings.optimizer)
    return Costs(
        mesh=dict(partitioner.mesh.shape),
        parameters={role: checkpoint.count_parameters(of_role) for role, of_role in parts.items()},
        flops=product_flops(counted, feature_lengths["targets"]),
        bytes={
            "parameters": bytes_a_device(params),
            "optimizer": bytes_a_device(moments),
            "gradients": bytes_a_device(params),
            "target's parameters": bytes_a_device(parts.get("target", {})),
            **({} if initial is None else {"initial parameters": bytes_a_device(initial)}),
            "batch": bytes_a_device(batch),
        },
        temporary_bytes=int(planned.temp_size_in_bytes),
        device=partitioner.mesh.devices.flat[0].device_kind,
    )


_SIZE = re.compile(r"\b(\d+(?:\.\d+)?)([KMGT])")


def compiled(lowered: Any, what: str, partitioner: Partitioner) -> Any:
    """Compiles a lowered program.

    Args:
      what: name of the program, for an error.

    Raises:
      UsageError: the compiler reports that it does not fit on a device; says how many bytes are missing.
    """
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        said = str(error).splitlines()[0]
        if "RESOURCE_EXHAUSTED" not in said:
            raise
        told = f"has no room for it ({said})"
        sizes = [float(number) * 1024.0 ** (1 + "KMGT".index(unit)) for number, unit in _SIZE.findall(said)]
        if len(sizes) > 1:
            needed, there = max(sizes[:2]), min(sizes[:2])
            short = memory.text(needed - there)
            told = f"needs {memory.text(needed)} and has {memory.text(there)}, {short} are missing"
        mesh = "x".join(str(size) for size in partitioner.mesh.shape.values())
        raise UsageError(
            f"{what} does not fit: a device of --mesh={mesh} {told}; split the weights further (the second "
            "number), or lower BATCH_SIZE"
        ) from error


def _placed(model: Network, partitioner: Partitioner) -> tuple[Params, Params]:
    """Describes a model's parameters: shapes with shardings attached, and the shardings."""
    shardings = registry.shardings(model, partitioner)
    return checkpoint.abstract(registry.shapes(model), shardings), shardings


def _batch(rows: int, lengths: Mapping[str, int], partitioner: Partitioner) -> dict[str, Any]:
    features = {
        "encoder_input_tokens": ("inputs", jnp.int32),
        "decoder_input_tokens": ("targets", jnp.int32),
        "decoder_target_tokens": ("targets", jnp.int32),
        "decoder_loss_weights": ("targets", jnp.float32),
    }
    return {
        name: jax.ShapeDtypeStruct((rows, lengths[feature]), dtype, sharding=partitioner.batch)
        for name, (feature, dtype) in features.items()
    }
