"""`python -m benchmarks.decode_profile`: where a decoding round's time goes, on this machine.

Three tables: the dense products of the zoo target's decoder for few rows at a time, in the forms that they
can be written in; its `extend` and the draft's for T tokens a row; and whole rounds. Every number is the best
of several runs of one compiled loop, so that dispatch from Python is not in it.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.cli import errors
from distillspec_jax.decoding import (
    AutoregressiveLoop,
    PairParams,
    RowSettings,
    SamplingParams,
    SpeculativeLoop,
    State,
    randomness,
)
from distillspec_jax.decoding.drafter_registry import make_drafter
from distillspec_jax.evaluation.advice import extend_seconds
from distillspec_jax.evaluation.timing import step_seconds
from distillspec_jax.models import pretrained
from distillspec_jax.models.cpu_forms import few_rows
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.models.t5 import T5Config
from distillspec_jax.shapes import Array
from distillspec_jax.vocabulary import Vocabulary


def products(target: Pretrained, rows: int, form: str) -> float:
    """All dense products of one call of the target's decoder on so many rows."""
    config = target.model.config
    assert isinstance(config, T5Config)
    m, inner, heads = config.emb_dim, config.mlp_dim, config.num_heads * config.head_dim
    layer = [(m, 3 * heads), (heads, m), (m, heads), (heads, m), (m, 2 * inner), (inner, m)]
    shapes = [*layer * config.num_decoder_layers, (m, config.vocab_size)]
    kernels = [np.full(shape, 0.01, np.float32) for shape in shapes]
    if form != "plain":
        kernels = [kernel.T.copy() for kernel in kernels]
    dot = {"plain": jnp.dot, "transposed": lambda x, k: jnp.einsum("km,nm->kn", x, k)}.get(form, few_rows)
    start = {width: jnp.ones((rows, width)) for width in {m, heads, inner}}

    def step(carry: tuple[dict[int, Array], list[Array]]) -> tuple[dict[int, Array], list[Array]]:
        inputs, kernels = carry
        for kernel, (width, _) in zip(kernels, shapes, strict=True):
            y = dot(inputs[width], kernel)
            tiny = 1e-9 * (y[:, :1] + y[:, -1:])  # all of it is needed, and the next product waits for it
            inputs = {width: x + tiny for width, x in inputs.items()}
        return inputs, kernels

    return 1e3 * step_seconds(step, (start, list(map(jnp.asarray, kernels))))


def rounds(loop: Any, params: PairParams, prompt_BT: Array, temperature: float) -> float:
    """One round of a decoding loop, always at the same place of the text."""
    rows = len(prompt_BT)
    vocabulary = Vocabulary(loop.target.vocab_size, eos_ids=(1,), padding_ids=(0,))
    distribution = SamplingParams(temperature).distribution(vocabulary).for_rows(rows)
    keys_B = randomness.row_keys(randomness.seed_key(0), jnp.arange(rows))
    settings = RowSettings(keys_B, jnp.full(rows, 10_000), distribution)
    start = jax.jit(functools.partial(loop.init, max_new_tokens=70))(params, prompt_BT, settings)

    def step(carry: tuple[PairParams, State]) -> tuple[PairParams, State]:
        params, state = carry
        after = loop.round(params, state)
        rows = dataclasses.replace(state.rows, pending_B=after.rows.pending_B)
        target = after.target.rewind(state.target.length_B)
        return params, after.replace(rows=rows, target=target, counts=state.counts)

    return 1e3 * step_seconds(step, (params, start))


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode_profile", description=__doc__)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=0.0)
    flags = parser.parse_args(argv)
    target, draft = (pretrained.load(f"zoo:wiki_leads/{role}") for role in ("target", "draft"))
    shape = (flags.batch_size, 96)
    prompt_BT = jnp.asarray(np.random.default_rng(0).integers(2, 4096, shape), jnp.int32)

    print("| dense products of the target's decoder | ms |\n|---|---|")
    for rows in (1, 2, 4, 6, 8):
        for form in ("plain", "transposed", "few_rows"):
            print(f"| {rows} rows, {form} | {products(target, rows, form):.3f} |", flush=True)
    print(f"\n| extend, batch {flags.batch_size} | ms |\n|---|---|")
    for name, network, sizes in (("target", target, (1, 2, 4, 6, 8)), ("draft", draft, (1, 2))):
        for tokens in sizes:
            print(
                f"| {name}, T = {tokens} | {1e3 * extend_seconds(network, *shape, tokens):.3f} |", flush=True
            )
    print(f"\n| round, batch {flags.batch_size}, temperature {flags.temperature:g} | ms |\n|---|---|")
    rows = flags.batch_size
    prepare_target = jax.jit(target.model.prepare, static_argnums=1)
    drafter, draft_params = make_drafter([draft], vocab_size=target.model.vocab_size)
    draft_params = jax.jit(drafter.prepare, static_argnums=1)(draft_params, rows)
    params = PairParams(prepare_target(target.params, rows))
    alone = rounds(AutoregressiveLoop(target.model), params, prompt_BT, flags.temperature)
    print(f"| autoregressive | {alone:.3f} |", flush=True)
    for size in (1, 3, 5, 7):
        loop = SpeculativeLoop(target.model, drafter, block_size=size)
        params = PairParams(prepare_target(target.params, rows * (size + 1)), draft_params)
        took = rounds(loop, params, prompt_BT, flags.temperature)
        print(f"| speculative, γ = {size} | {took:.3f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="decode_profile"))
