"""Autoregressive decoding, ours beside transformers': same weights, same prompts, same tokens."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from benchmarks.measurement import THREADS, Measurement, paired_ratio
from distillspec_jax.decoding import Engine, SamplingParams, StopOnEos
from distillspec_jax.evaluation import timing
from distillspec_jax.models.t5 import EncoderDecoder, T5Config, init_params
from distillspec_jax.vocabulary import Vocabulary

T5_1_1_SMALL = T5Config(vocab_size=32128)


@dataclasses.dataclass(frozen=True)
class Workload:
    """What both systems are asked to do.

    Attributes:
      config: sizes of the network; its weights are random.
      rows: prompts decoded at once.
      prompt_tokens, new_tokens: lengths; neither system may end a row earlier.
      repeats: turns that each system takes, warm-up apart.
    """

    config: T5Config = T5_1_1_SMALL
    rows: int = 1
    prompt_tokens: int = 64
    new_tokens: int = 128
    repeats: int = 15

    def prompts(self) -> list[list[int]]:
        """Random ids: neither padding nor an end of sequence."""
        shape = (self.rows, self.prompt_tokens)
        return np.random.default_rng(0).integers(2, self.config.vocab_size, shape).tolist()


def ar_vs_hf(workload: Workload = Workload()) -> Measurement:
    """Greedy one-token decoding through `Engine` against `generate` of transformers.

    Raises:
      AssertionError: the two do not even begin alike, so they do not run the same network.
    """
    # torch takes seconds to import and is needed nowhere else.
    from benchmarks.transformers_reference import TransformersT5

    model = EncoderDecoder(workload.config)
    params = init_params(model, jax.random.key(0))
    prompts, tokens = workload.prompts(), workload.new_tokens
    engine = Engine(model, params, batch_size=workload.rows, stopping=StopOnEos(()))
    distribution = SamplingParams(temperature=0.0).distribution(Vocabulary(None, (1,), ()))
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    reference = TransformersT5(workload.config, params, device)

    def ours(_: int) -> list[list[int]]:
        return [list(done.tokens) for done in engine.generate(prompts, distribution, tokens, seed=0)]

    def theirs(_: int) -> list[list[int]]:
        return reference.generate(prompts, tokens)

    slow, fast = timing.interleaved([theirs, ours], units=1, repeats=workload.repeats)
    same = _equal_tokens(slow.results[0], fast.results[0])
    seconds = [np.median(t.seconds_RU) / tokens * 1e3 for t in (slow, fast)]
    what = (
        f"autoregressive decoding, transformers' seconds over ours, {tokens} greedy tokens, "
        f"batch {workload.rows}, T5 of width {workload.config.emb_dim} and vocabulary "
        f"{workload.config.vocab_size}, float32 on {device} "
        f"(torch: {THREADS} threads): {seconds[0]:.2f} ms a step against {seconds[1]:.2f} ms; "
        f"{same} of {tokens * workload.rows} tokens equal before the first float tie"
    )
    return paired_ratio(f"ar_vs_hf_bs{workload.rows}", slow.seconds_RU[:, 0], fast.seconds_RU[:, 0], what)


def _equal_tokens(theirs: list[list[int]], ours: list[list[int]]) -> int:
    """How many tokens agree before each row's first difference."""
    assert [len(row) for row in theirs] == [len(row) for row in ours]
    total = 0
    for a, b in zip(theirs, ours, strict=True):
        differ = np.flatnonzero(np.asarray(a) != np.asarray(b))
        total += int(differ[0]) if differ.size else len(a)
    assert total, "the two systems differ from the first token on"
    return total
