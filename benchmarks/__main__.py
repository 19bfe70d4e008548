"""`python -m benchmarks [ID ...]`: measures, prints a table, adds to `runs/bench/bench.json`."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import jax

from benchmarks import loss, roofline, speculative, steps, training
from benchmarks.assisted import spec_vs_hf_assisted
from benchmarks.assisted_acceptance import assisted_acceptance
from benchmarks.autoregressive import Workload, ar_vs_hf
from benchmarks.block_rule import block_vs_token
from benchmarks.greedy_identity import greedy_identity
from benchmarks.measurement import Measurement
from distillspec_jax.cli import errors
from distillspec_jax.errors import UsageError, nearest

BATCH_SIZES = (1, 4, 8, 16)
"""Of the comparisons with transformers."""

MEASUREMENTS: Mapping[str, Callable[[], Measurement]] = {
    **{f"ar_vs_hf_bs{rows}": functools.partial(ar_vs_hf, Workload(rows=rows)) for rows in BATCH_SIZES},
    "greedy_identity": greedy_identity,
    "verify_cost_6_bs1": functools.partial(steps.verify_cost, 1),
    "verify_cost_6_bs8": functools.partial(steps.verify_cost, 8),
    "batch8_step_vs_batch1_of_8": steps.batch8_step,
    "roofline_share_ar": roofline.roofline_share,
    **{f"round_in_plain_tokens_bs{rows}": functools.partial(roofline.round_limit, rows) for rows in (1, 8)},
    "spec_vs_ar_bs1": functools.partial(speculative.spec_vs_ar, 1),
    "spec_vs_ar_bs8": functools.partial(speculative.spec_vs_ar, 8),
    "prediction_ratio_min": speculative.prediction_ratio,
    "adaptive_vs_best_fixed": speculative.adaptive_vs_best_fixed,
    "adaptive_useless_draft_vs_ar": speculative.adaptive_useless_draft,
    "block_vs_token": block_vs_token,
    "loss_memory": loss.loss_memory,
    "loss_time": loss.loss_time,
    "on_policy_step_ratio": training.on_policy_step_ratio,
    "training_precision": training.training_precision,
    "training_step": training.training_step,
    "supervised_step_vs_t5x_style": training.supervised_step,
    **{f"spec_vs_hf_assisted_bs{rows}": functools.partial(spec_vs_hf_assisted, rows) for rows in BATCH_SIZES},
    "assisted_acceptance": assisted_acceptance,
}


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("ids", nargs="*", metavar="ID", help=f"of {', '.join(MEASUREMENTS)} (default: all)")
    parser.add_argument("--output", type=Path, default=Path("runs/bench/bench.json"))
    flags = parser.parse_args(argv)
    for name in flags.ids:
        if name not in MEASUREMENTS:
            raise UsageError(f"no measurement {name!r}: {nearest(name, list(MEASUREMENTS))}")
    found = []
    for name in flags.ids or MEASUREMENTS:
        print(f"{name} …", file=sys.stderr, flush=True)
        found.append(MEASUREMENTS[name]())
        add(flags.output, found[-1])
    print(table(found))
    return 0


def add(path: Path, measurement: Measurement) -> None:
    """Puts it in the place of an earlier one of its id, whole or not at all; others stay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    there = json.loads(path.read_text()) if path.is_file() else []
    by_id = {line["id"]: line for line in [*there, dataclasses.asdict(measurement)]}
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(json.dumps(list(by_id.values()), indent=1) + "\n")
    os.replace(partial, path)


def table(measurements: list[Measurement]) -> str:
    """The measurements in Markdown, after a line about the machine."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {jax.default_backend()}, JAX {jax.__version__}"
    lines = [machine, "", "| id | value | 95 % interval | what |", "|---|---|---|---|"]
    lines += [f"| {m.id} | {m.value:.2f} | {m.low:.2f} – {m.high:.2f} | {m.what} |" for m in measurements]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(errors.run(main, command="bench"))
