"""`python -m benchmarks.distillation_split`: what the parts of a distillation step take.

The zoo's pair on one batch of a task, with forward KL: reading and padding the batch, the draft's own
samples, the target's hidden states, and what is left, which is the draft's forward and backward pass, both
readouts, the loss and the optimizer. The samples are drawn once more by speculative decoding, drafted by
prompt lookup, in the step's shapes: where that is faster, it would make a rollout faster. Parts are
programs of their own, timed in turns.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.training import DRAFT, ROWS, TARGET, TASK, distillation_loss, our_step
from distillspec_jax.cli import errors
from distillspec_jax.data.data_config import DataConfig
from distillspec_jax.decoding import RowSettings, SamplingParams, SpeculativeLoop, StopOnEos, randomness
from distillspec_jax.decoding.autoregressive import sample
from distillspec_jax.decoding.drafter_registry import make_drafter
from distillspec_jax.decoding.state import PairParams
from distillspec_jax.distillation.sources import Fixed, OnPolicy
from distillspec_jax.models import pretrained
from distillspec_jax.shapes import Array

BLOCK_SIZE = 3


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distillation_split", description=__doc__)
    parser.add_argument("--turns", type=int, default=9)
    flags = parser.parse_args(argv)
    parts = programs()
    for part in [*parts.values()] * 2:
        part()
    taken: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(flags.turns):
        for name, part in parts.items():
            began = time.perf_counter()
            jax.block_until_ready(part())
            taken[name].append(time.perf_counter() - began)
    median = {name: float(np.median(seconds)) for name, seconds in taken.items()}
    whole = median["step on the draft's own samples"]
    print(
        f"{ROWS} rows of {TASK}, {DRAFT} from {TARGET}\n\n| part | ms | of a step on policy |\n|---|---|---|"
    )
    for name, seconds in median.items():
        print(f"| {name} | {1e3 * seconds:.1f} | {seconds / whole:.2f} |")
    rest = median["step on the data's targets"] - median["target's hidden states"]
    print(f"| the rest: the draft's two passes, loss, optimizer | {1e3 * rest:.1f} | {rest / whole:.2f} |")
    return 0


def programs() -> dict[str, Callable[[], Any]]:
    """The parts by name; each returns arrays."""
    target, draft = pretrained.load(TARGET), pretrained.load(DRAFT)
    data = DataConfig(TASK)
    batches = data.train_batches(ROWS, seed=0)
    batch = jax.device_put(next(batches))
    vocabulary = data.tokenizer().vocabulary
    distribution = SamplingParams(1.0).distribution(vocabulary)
    prompt_BT, width = batch["encoder_input_tokens"], batch["decoder_target_tokens"].shape[1]
    stopping = StopOnEos(vocabulary.eos_ids)
    keys_B = randomness.row_keys(randomness.seed_key(0), jnp.arange(ROWS))
    lookup, memory = make_drafter(["lookup"], vocab_size=draft.model.vocab_size)
    loop = SpeculativeLoop(draft.model, lookup, stopping=stopping, block_size=BLOCK_SIZE)

    @jax.jit
    def rollout(params: Any, prompt_BT: Array) -> Array:
        return sample(draft.model, params, distribution, prompt_BT, keys_B, width, stopping)[0]

    @jax.jit
    def speculative(params: Any, memory: Any, prompt_BT: Array) -> Array:
        pair = PairParams(params, memory)
        settings = RowSettings(keys_B, jnp.full(ROWS, width), distribution)
        state = loop.init(pair, prompt_BT, settings, width)
        return loop.run(pair, state, width).rows.output_BT

    hidden = jax.jit(target.model.hidden)
    on_policy, fixed = (our_step(distillation_loss(source)) for source in (OnPolicy(), Fixed()))
    return {
        "step on the draft's own samples": on_policy,
        "step on the data's targets": fixed,
        "batch: read and padded": lambda: next(batches),
        "the draft's samples": functools.partial(rollout, draft.params, prompt_BT),
        "the draft's samples, by speculative decoding": functools.partial(
            speculative, draft.params, memory, prompt_BT
        ),
        "target's hidden states": functools.partial(hidden, target.params, batch),
    }


if __name__ == "__main__":
    sys.exit(errors.run(main, command="benchmarks.distillation_split"))
