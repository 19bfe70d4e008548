"""Pairs of networks that decode, with and without a draft, beside what a roofline predicts for them."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.decoding import SamplingParams, StopOnEos, randomness
from distillspec_jax.decoding.drafters import ModelDrafter
from distillspec_jax.decoding.runner import Runner
from distillspec_jax.decoding.state import RowSettings, State
from distillspec_jax.decoding.verifiers import TOKEN_RULE
from distillspec_jax.evaluation import launches, roofline
from distillspec_jax.evaluation.devices import Device
from distillspec_jax.evaluation.roofline import NetworkSizes
from distillspec_jax.models import layer_subset, pretrained, registry
from distillspec_jax.models.decoder_only import DecoderOnly, DecoderOnlyConfig
from distillspec_jax.models.network import Network
from distillspec_jax.models.t5 import EncoderDecoder, T5Config
from distillspec_jax.shapes import Params
from distillspec_jax.vocabulary import Vocabulary

PROMPT, TEXT = 96, 64
"""Tokens of each prompt, and at most of each text."""

SEEDS = range(4)
"""Draws whose texts are timed."""

Side = tuple[Network, Params]


def _zoo() -> tuple[Side, Side]:
    target, draft = (pretrained.load(f"zoo:wiki_leads/{role}") for role in ("target", "draft"))
    return (target.model, target.params), (draft.model, draft.params)


def _cut(target: Network, *layers: int) -> tuple[Side, Side]:
    """Random weights, and a draft of some of the layers."""
    params = jax.jit(lambda key: registry.unboxed(target.init(key)))(jax.random.key(0))
    return (target, params), (layer_subset.shrink(target, layers), layer_subset.take(params, layers))


def _t5_small() -> tuple[Side, Side]:
    return _cut(EncoderDecoder(T5Config(vocab_size=32128)), 0, 1)


def _llama_100m() -> tuple[Side, Side]:
    config = DecoderOnlyConfig(
        vocab_size=32000,
        emb_dim=768,
        num_heads=12,
        num_kv_heads=4,
        head_dim=64,
        num_layers=12,
        mlp_dim=2048,
        logits_via_embedding=True,
    )
    return _cut(DecoderOnly(config), 0, 11)


PAIRS: Mapping[str, Callable[[], tuple[Side, Side]]] = {
    "zoo": _zoo,
    "t5_1_1_small": _t5_small,
    "llama_100m": _llama_100m,
}
"""The zoo's, trained; and random weights in the shapes of T5 1.1 Small and of a Llama of 100 million."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One prediction and its measurement.

    Attributes:
      pair, batch_size, block_size: what decodes; block size 0 has no draft.
      tokens_a_round: of a row; what the prediction is told.
      predicted, measured: tokens a second, of all rows.
    """

    pair: str
    batch_size: int
    block_size: int
    tokens_a_round: float
    predicted: float
    measured: float

    @property
    def ratio(self) -> float:
        return self.predicted / self.measured


class Decoded(NamedTuple):
    """Tokens and rounds of all rows."""

    emitted: int
    rounds: int


class TimedPair:
    """A pair at a batch size, drawing at temperature 1 from texts that no end cuts short."""

    def __init__(self, name: str, pair: tuple[Side, Side], rows: int, block_size: int) -> None:
        (target, params), (draft, draft_params) = pair
        self._name, self._networks, self._rows, self._sizes = name, (target, draft), rows, (0, block_size)
        self._runner = Runner(
            target,
            params,
            ModelDrafter(draft),
            draft_params,
            block_sizes=self._sizes,
            rows=rows,
            verifier=TOKEN_RULE,
            stopping=StopOnEos(()),
            measure_overlap=False,
        )
        prompts = np.random.default_rng(0).integers(3, target.vocab_size, (rows, PROMPT))
        distribution = SamplingParams(1.0).distribution(Vocabulary(None, (), (0,)))
        self._states: dict[tuple[int, int], State] = {}
        for size in self._sizes:
            for seed in SEEDS:
                keys_B = randomness.row_keys(randomness.seed_key(seed), jnp.arange(rows))
                settings = RowSettings(keys_B, jnp.full(rows, TEXT), distribution.for_rows(rows))
                state = self._runner.read(prompts.astype(np.int32), settings, TEXT, block_size=size)
                # The first round comes after other work; it is not timed.
                self._states[size, seed] = self._runner.run(state, size, 1, 1)
        self._taken: dict[tuple[int, int], list[float]] = collections.defaultdict(list)
        decoded = {(size, seed): self._decode(size, seed) for size in self._sizes for seed in SEEDS}
        self._emitted = {size: sum(decoded[size, seed].emitted for seed in SEEDS) for size in self._sizes}
        self._rounds = {size: sum(decoded[size, seed].rounds for seed in SEEDS) for size in self._sizes}

    def _decode(self, size: int, seed: int) -> Decoded:
        """Decodes to the limit of the fastest row."""
        before = jax.tree.map(jnp.copy, self._states[size, seed])
        before = jax.block_until_ready(before)
        emitted, done = (int(jnp.sum(x)) for x in (before.rows.emitted_B, before.counts.rounds_B))
        began = time.perf_counter()
        after = jax.block_until_ready(self._runner.run(before, size, TEXT, self._rows))
        self._taken[size, seed].append(time.perf_counter() - began)
        return Decoded(
            int(jnp.sum(after.rows.emitted_B)) - emitted, int(jnp.sum(after.counts.rounds_B)) - done
        )

    def measure(self) -> None:
        """Decodes every timed text once without the draft and once with it."""
        for seed in SEEDS:
            for size in self._sizes:
                self._decode(size, seed)

    @property
    def bytes(self) -> float:
        """What a round reads."""
        return sum(sizes.call(self._rows, 1, 4).bytes for sizes in self._read())

    def _read(self) -> tuple[NetworkSizes, NetworkSizes]:
        # Attention reads all slots that there is room for.
        room = TEXT + self._sizes[1] + 1
        target, draft = (NetworkSizes.of(network, PROMPT, room) for network in self._networks)
        return target, draft

    def rows(self, device: Device) -> list[Row]:
        """The predictions from a device's figures, beside the medians of what was measured."""
        target, draft = self._networks
        costs = roofline.round_costs(
            *self._read(),
            device,
            batch_size=self._rows,
            block_sizes=self._sizes[1:],
            itemsize=4,
            launches=launches.of_rounds(target, draft, batch_size=self._rows, block_sizes=self._sizes[1:]),
        )
        found = []
        for size in self._sizes:
            tokens = self._emitted[size] / self._rounds[size]
            # The first run may have compiled.
            seconds = sum(float(np.median(self._taken[size, seed][1:])) for seed in SEEDS)
            measured = self._emitted[size] / seconds
            predicted = self._rows * tokens / costs.seconds[size]
            found.append(Row(self._name, self._rows, size, tokens, predicted, measured))
        return found
