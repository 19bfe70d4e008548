"""`python -m benchmarks.few_rows`: up to how many rows the decoder's own product beats the compiler's.

A chain of products with weights of some size, read again and again, so that small ones stay in the cache:
`cpu_forms.few_rows` on transposed kernels, and XLA's product on kernels as they are stored. The decoder takes
the former for so many rows as `cpu_forms.pays` says.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.machine import MOST_LAYERS, kernels_of, products
from distillspec_jax.cli import errors
from distillspec_jax.models import cpu_forms

SETS = ((256, 16), (512, 32), (576, 64), (768, 400))
"""Width of a network, and megabytes of its weights."""
ROWS = (1, 2, 4, 6, 8, 10, 12, 16)


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.few_rows", description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    flags = parser.parse_args(argv)
    print(
        "| width | MB | rows | `few_rows`, GB/s | XLA, GB/s | ratio | taken |\n|---|---|---|---|---|---|---|"
    )
    for width, mega in SETS:
        size = mega * 2**20
        for rows in ROWS:
            ours = products(width, rows, size, True) if rows <= cpu_forms.FEW_ROWS else None
            theirs = products(width, rows, size, False)
            for _ in range(flags.turns):
                for one in (ours, theirs):
                    if one is not None:
                        one.run()
            read = sum(kernel.nbytes for kernel in kernels_of(width, size, MOST_LAYERS, False))
            taken = "`few_rows`" if cpu_forms.pays(rows, size) else "XLA"
            theirs_rate = f"{read / theirs.whole / 1e9:.1f}"
            rate = "" if ours is None else f"{read / ours.whole / 1e9:.1f}"
            ratio = "" if ours is None else f"{theirs.whole / ours.whole:.2f}"
            cells = (str(width), str(mega), str(rows), rate, theirs_rate, ratio, taken)
            print(f"| {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="benchmarks.few_rows"))
