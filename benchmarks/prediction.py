"""`python -m benchmarks.prediction`: this machine's own figures, and how well decoding follows from them.

Measures the machine (`machine.py`), writes its figures to a file that `distillspec advise --device=FILE.json`
takes, predicts tokens a second of pairs of networks by the same code that predicts for a TPU, without a draft
and with one, and measures them. Probes and decoding take turns, so that both meet the same machine. What the
prediction is told of a pair are its shapes and how many tokens a round emits: what is predicted is a round's
time. Reading prompts is in neither number.

Ends with 1 if a prediction is off by more than a fifth.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from benchmarks.machine import WIDTHS, Machine
from benchmarks.timed_pairs import PAIRS, Row, TimedPair
from distillspec_jax.cli import errors
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.evaluation.devices import Device

TOLERANCE = 0.2


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prediction", description=__doc__)
    parser.add_argument("--pairs", default=",".join(PAIRS), help=f"of {', '.join(PAIRS)} (default: all)")
    parser.add_argument("--batch_sizes", default="1,8")
    parser.add_argument("--block_size", type=int, default=3)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--device", type=Path, default=Path("runs/bench/device.json"), help="file to write")
    parser.add_argument("--output", type=Path, help="file to add the rows to, JSON lines")
    flags = parser.parse_args(argv)
    names = flags.pairs.split(",")
    for name in names:
        if name not in PAIRS:
            raise UsageError(f"no pair {name!r}: {nearest(name, PAIRS)}")
    batch_sizes = [int(size) for size in flags.batch_sizes.split(",")]
    networks = {name: PAIRS[name]() for name in names}
    pairs = [
        TimedPair(name, networks[name], rows, flags.block_size) for name in names for rows in batch_sizes
    ]
    machine = Machine(max(pair.bytes for pair in pairs))
    for turn in range(flags.turns):
        print(f"turn {turn + 1} of {flags.turns} …", file=sys.stderr, flush=True)
        machine.measure()
        for pair in pairs:
            pair.measure()
    device = machine.device()
    flags.device.parent.mkdir(parents=True, exist_ok=True)
    flags.device.write_text(json.dumps(dataclasses.asdict(device), indent=1) + "\n")
    rows = [row for pair in pairs for row in pair.rows(device)]
    print(described(device))
    print(table(rows))
    if flags.output:
        with flags.output.open("a") as file:
            file.writelines(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows)
    return 0 if all(abs(row.ratio - 1) <= TOLERANCE for row in rows) else 1


def described(device: Device) -> str:
    """The figures, in Markdown."""
    assert isinstance(device.launch, tuple)
    lines = [
        f"{device.source}, {jax.default_backend()}, JAX {jax.__version__}",
        f"{device.logits / 1e6:,.0f} million logits a second; products of large matrices "
        f"{device.flops / 1e9:,.0f} GFLOP/s",
        "",
        *(
            line
            for name, table in (
                ("weights", device.products),
                ("the readout", device.readouts),
                ("weights stored for half as many tokens", device.first_products),
                ("such a readout", device.first_readouts),
            )
            for width in WIDTHS
            for line in (
                *_grid(
                    f"{name}, width {width}, GB/s: tokens \\ MB between two readings",
                    [rest for first, *rest in table if first == width],
                    2**20,
                    1e9,
                ),
                "",
            )
        ),
        *_grid("caches, GB/s: batch \\ queries a row and head", device.attention, 1, 1e9),
        "",
        *_grid(
            "a round's draws and verification, million logits/s: batch \\ vocabulary", device.verdicts, 1, 1e6
        ),
        "",
        *_grid("an operation, µs: batch \\ tokens a row", device.launch, 1, 1e-6),
        "",
    ]
    return "\n".join(lines)


def _grid(title: str, rows: Sequence[Sequence[float]], across: float, unit: float) -> list[str]:
    columns = sorted({y for _, y, _ in rows})
    found = {(x, y): value for x, y, value in rows}
    lines = [
        f"| {title} | " + " | ".join(f"{y / across:g}" for y in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for x in sorted({x for x, _, _ in rows}):
        lines.append(f"| {x:g} | " + " | ".join(f"{found[x, y] / unit:.2f}" for y in columns) + " |")
    return lines


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| pair | batch | γ | tokens a round | predicted, tokens/s | measured | predicted / measured |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        drafts = row.block_size or "no draft"
        lines.append(
            f"| {row.pair} | {row.batch_size} | {drafts} | {row.tokens_a_round:.2f} | {row.predicted:,.0f} "
            f"| {row.measured:,.0f} | {row.ratio:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(errors.run(main, command="benchmarks.prediction"))
