"""`distillspec dryrun`: what a train step, or decoding, would cost on devices that are not there."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import CommandParser
from distillspec_jax.errors import UsageError
from distillspec_jax.terminal import say

if TYPE_CHECKING:
    from distillspec_jax.distillation.decode_costs import DecodeCosts
    from distillspec_jax.distillation.dryrun import Costs

HELP = """Compiles a training step for a mesh of virtual devices, without weights, and prints parameters,
FLOPs per step and bytes per device. It tells you what a pod job needs before you launch it.

  distillspec dryrun --gin_file=experiments/dryrun/t5_xl_small.gin --mesh=4x8
  distillspec dryrun --gin_file=experiments/dryrun/t5_xl_small.gin --mesh=4x8 --topology=v5e:4x8

The second compiles for TPUs without a TPU; it needs pip install -e '.[tpu]'. With --decode it compiles
decoding instead: the prefill of a batch, one token, and a round of drafts.

  distillspec dryrun --decode --gin_file=experiments/dryrun/t5_xl_small_decode.gin --mesh=4x8
"""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("dryrun", HELP, gin=True)
    parser.add_argument(
        "--mesh", type=_mesh, required=True, metavar="DATAxMODEL", help="devices along each axis, such as 4x8"
    )
    parser.add_argument(
        "--topology",
        metavar="TPU",
        help="the TPU slice to compile for, such as v5e:4x8 (default: virtual CPUs)",
    )
    parser.add_argument(
        "--decode", action="store_true", help="compile decoding with a pair instead of a training step"
    )
    flags = parser.parse(argv)

    from distillspec_jax.cli import bindings
    from distillspec_jax.distillation import decode_costs, dryrun

    data, model = flags.mesh
    devices = None
    if flags.topology is None:
        dryrun.use_virtual_devices(data * model)
    else:
        devices = dryrun.tpu_devices(flags.topology)
        if len(devices) != data * model:
            raise UsageError(
                f"--mesh={data}x{model} has {data * model} devices, {flags.topology} has {len(devices)}"
            )
    bind = functools.partial(bindings.bind, given=("num_partitions", "devices"))
    if flags.decode:
        decoding, _ = bind(decode_costs.decode_costs, flags.gin)
        rows = decode_rows(decoding(num_partitions=model, devices=devices))
    else:
        training, _ = bind(dryrun.dryrun, flags.gin)
        rows = train_rows(training(num_partitions=model, devices=devices))
    width = max(len(name) for name, _ in rows)
    say(*(f"{name:<{width}}  {value}".rstrip() for name, value in rows))
    return 0


def _mesh(text: str) -> tuple[int, int]:
    data, _, model = text.partition("x")
    if not (data.isdecimal() and model.isdecimal() and int(data) and int(model)):
        raise argparse.ArgumentTypeError(f"{text!r}: write DATAxMODEL, two numbers of devices, as 4x8")
    return int(data), int(model)


def train_rows(costs: Costs) -> list[tuple[str, str]]:
    """Names and values of a train step's costs."""
    devices, rows = _mesh_row(costs.mesh)
    rows += [(f"parameters of the {role}", f"{count:,}") for role, count in costs.parameters.items()]
    rows += [
        ("matrix products a step", f"{costs.flops / 1e12:,.3f} TFLOP"),
        ("matrix products a step and device", f"{costs.flops / devices / 1e12:,.3f} TFLOP"),
        *((f"bytes a device, {name}", f"{size:,}, exact") for name, size in costs.bytes.items() if size),
        ("bytes a device, temporaries and gradients", f"{costs.temporary_bytes:,}, {_account(costs.device)}"),
        ("bytes a device, together", f"{_sum(costs):,}"),
    ]
    return rows


def decode_rows(costs: DecodeCosts) -> list[tuple[str, str]]:
    """Names and values of the costs of decoding."""
    devices, rows = _mesh_row(costs.mesh)
    rows += [(f"parameters of the {role}", f"{count:,}") for role, count in costs.parameters.items()]
    for what, sizes in (("weights", costs.weights), ("caches", costs.caches)):
        rows += [(f"bytes a device, {role}'s {what}", f"{size:,}, exact") for role, size in sizes.items()]
    most = max(program.temporary_bytes for program in costs.programs.values())
    kept = sum(costs.weights.values()) + sum(costs.caches.values())
    rows += [
        ("bytes a device, temporaries at most", f"{most:,}, {_account(costs.device)}"),
        ("bytes a device, together", f"{kept + most:,}"),
    ]
    names = {"prefill": "prefill", "one token": "one token", "round": f"a round of {costs.block_size}"}
    for key, program in costs.programs.items():
        name = names[key]
        rows.append((f"{name}, matrix products a device", f"{program.flops / devices / 1e9:,.2f} GFLOP"))
        if key in costs.read:
            rows.append((f"{name}, bytes read a device at least", f"{costs.read[key]:,}"))
        for kind, (count, size) in program.collectives.items():
            rows.append((f"{name}, {kind}", f"{count}, {size:,} bytes a device"))
    return rows


def _mesh_row(mesh: Mapping[str, int]) -> tuple[int, list[tuple[str, str]]]:
    devices = mesh["data"] * mesh["model"]
    return devices, [("mesh", f"{mesh['data']} (data) x {mesh['model']} (model), {devices} devices")]


def _account(device: str) -> str:
    if device == "cpu":
        return "an estimate: XLA's account for CPUs"
    return f"XLA's account for {device}"


def _sum(costs: Costs) -> int:
    kept = sum(size for name, size in costs.bytes.items() if name != "gradients")
    return kept + max(costs.temporary_bytes, costs.bytes["gradients"])


if __name__ == "__main__":
    sys.exit(errors.run(main, command="dryrun"))
