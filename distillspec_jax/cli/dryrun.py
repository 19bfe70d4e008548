"""`distillspec dryrun`: what a train step would cost on devices that are not there."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import CommandParser

if TYPE_CHECKING:
    from distillspec_jax.distillation.dryrun import Costs

HELP = """Lowers and compiles a train step for a mesh of virtual devices, without weights, and prints
parameters, FLOPs a step and bytes a device: what a pod job needs is known before it is launched.

  distillspec dryrun --gin_file=experiments/dryrun/t5_xl_small.gin --mesh=4x8
"""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("dryrun", HELP, gin=True)
    parser.add_argument(
        "--mesh", type=_mesh, required=True, metavar="DATAxMODEL", help="devices along each axis, as 4x8"
    )
    flags = parser.parse(argv)

    from distillspec_jax.cli import bindings
    from distillspec_jax.distillation import dryrun

    data, model = flags.mesh
    dryrun.use_virtual_devices(data * model)
    job, _ = bindings.bind(dryrun.dryrun, flags.gin, given=("num_partitions",))
    print(report(job(num_partitions=model)))
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
        ("bytes a device, temporaries and gradients", _temporaries(costs)),
        ("bytes a device, together", f"{_sum(costs):,}, of which the temporaries are an estimate"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)


def _temporaries(costs: Costs) -> str:
    return f"{costs.temporary_bytes:,}, an estimate: XLA's analysis for {costs.backend}"


def _sum(costs: Costs) -> int:
    kept = sum(size for name, size in costs.bytes.items() if name != "gradients")
    return kept + max(costs.temporary_bytes, costs.bytes["gradients"])


if __name__ == "__main__":
    sys.exit(errors.run(main, command="dryrun"))
