"""`distillspec dryrun`: what a train step would cost on devices that are not there."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import CommandParser
from distillspec_jax.errors import UsageError
from distillspec_jax.terminal import say

if TYPE_CHECKING:
    from distillspec_jax.distillation.dryrun import Costs

HELP = """Compiles a train step for a mesh of virtual devices, without weights, and prints parameters, FLOPs
per step and bytes per device, so that you know what a pod job needs before you launch it.

  distillspec dryrun --gin_file=experiments/dryrun/t5_xl_small.gin --mesh=4x8
  distillspec dryrun --gin_file=experiments/dryrun/t5_xl_small.gin --mesh=4x8 --topology=v5e:4x8

The second compiles for real TPUs without having one; it needs pip install 'distillspec_jax[tpu]'.
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
    flags = parser.parse(argv)

    from distillspec_jax.cli import bindings
    from distillspec_jax.distillation import dryrun

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
    job, _ = bindings.bind(dryrun.dryrun, flags.gin, given=("num_partitions", "devices"))
    say(*report(job(num_partitions=model, devices=devices)).splitlines())
    return 0


def _mesh(text: str) -> tuple[int, int]:
    data, _, model = text.partition("x")
    if not (data.isdecimal() and model.isdecimal() and int(data) and int(model)):
        raise argparse.ArgumentTypeError(f"{text!r}: write DATAxMODEL, two numbers of devices, as 4x8")
    return int(data), int(model)


def report(costs: Costs) -> str:
    """The costs, a line each."""
    devices = costs.mesh["data"] * costs.mesh["model"]
    rows = [("mesh", f"{costs.mesh['data']} (data) x {costs.mesh['model']} (model), {devices} devices")]
    rows += [(f"parameters of the {role}", f"{count:,}") for role, count in costs.parameters.items()]
    rows += [
        ("matrix products a step", f"{costs.flops / 1e12:,.3f} TFLOP"),
        ("matrix products a step and device", f"{costs.flops / devices / 1e12:,.3f} TFLOP"),
        *((f"bytes a device, {name}", f"{size:,}, exact") for name, size in costs.bytes.items() if size),
        ("bytes a device, temporaries and gradients", f"{costs.temporary_bytes:,}, {_account(costs)}"),
        ("bytes a device, together", f"{_sum(costs):,}"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)


def _account(costs: Costs) -> str:
    if costs.device == "cpu":
        return "an estimate: XLA's account for CPUs"
    return f"XLA's account for {costs.device}"


def _sum(costs: Costs) -> int:
    kept = sum(size for name, size in costs.bytes.items() if name != "gradients")
    return kept + max(costs.temporary_bytes, costs.bytes["gradients"])


if __name__ == "__main__":
    sys.exit(errors.run(main, command="dryrun"))
