"""Meshes of 8 virtual devices against one device: the same shards as written down, the same numbers.

The number of devices is fixed when JAX starts, so this file also runs as a script, once, in a process with 8:
`measured` holds what it printed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from distillspec_jax import memory, partitioning
from distillspec_jax.decoding import (
    Engine,
    ModelDrafter,
    PairParams,
    RowSettings,
    SamplingParams,
    SpeculativeLoop,
    State,
    randomness,
)
from distillspec_jax.errors import UsageError
from distillspec_jax.models import registry
from distillspec_jax.models.decoder_only import DecoderOnly, DecoderOnlyConfig
from distillspec_jax.models.network import Network
from distillspec_jax.models.t5 import EncoderDecoder, T5Config
from distillspec_jax.partitioning import Partitioner, make_partitioner, sharded_init
from distillspec_jax.shapes import Params
from distillspec_jax.training.step import create_state, make_train_step
from distillspec_jax.training.supervised import make_supervised_loss
from distillspec_jax.vocabulary import T5_IDS
from tests import tiny

FULLY_SHARDED = "4x2 fully sharded"
MESHES = {"2x4": (4, False), FULLY_SHARDED: (2, True)}
"""Data x model, and the arguments of `make_partitioner` that ask for it."""

SERVING = "2x4"
"""The mesh that the engine decodes on: rows split, and the target, too."""

ROWS, STEPS, NEW_TOKENS = 8, 3, 6

# Four model shards divide the vocabulary, the joined heads and the feed-forward, but not the two heads.
MODEL = EncoderDecoder(
    T5Config(
        vocab_size=32,
        emb_dim=16,
        num_heads=2,
        head_dim=4,
        num_encoder_layers=1,
        num_decoder_layers=1,
        mlp_dim=20,
        relpos_buckets=4,
        relpos_max_distance=8,
        dropout_rate=0.1,
    )
)
DECODER_ONLY = DecoderOnly(
    DecoderOnlyConfig(
        vocab_size=32,
        emb_dim=16,
        num_heads=4,
        num_kv_heads=2,
        head_dim=4,
        num_layers=1,
        mlp_dim=20,
        dropout_rate=0.1,
        qkv_bias=True,
    )
)
ON_ONE, ON_A_MESH = "decoder-only one", "decoder-only 2x4"
"""The second family on one mesh: the meshes ask no network which family it is of."""

TARGET_SEED, DRAFT_SEED = 1, 2
PROMPT_BT = tiny.ragged(1, (5, 2, 4, 1, 3, 5, 2, 4), 5, vocab=32)
OPTIMIZER = optax.adamw(0.01)


def main(steps: str = "") -> None:
    """Prints what one device and every mesh make of the same work as JSON; of many steps, the losses."""
    jax.config.update("jax_disable_most_optimizations", True)
    # One program at a time: a device of a second one would hold the thread that the first one waits for.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    one = Partitioner(Mesh(np.asarray(jax.devices()[:1]).reshape(1, 1), ("data", "model")), ())
    meshes = {name: make_partitioner(*arguments) for name, arguments in MESHES.items()}
    if steps:
        everywhere = {
            "one": one,
            **meshes,
            "1x8": make_partitioner(8),
            "8x1": make_partitioner(1),
            "8x1 fully": make_partitioner(1, True),
        }
        losses = {name: _train(mesh, MODEL, int(steps))["losses"] for name, mesh in everywhere.items()}
        print(json.dumps(losses))
        return
    report: dict[str, Any] = {
        name: {"training": _train(mesh, MODEL)} for name, mesh in {"one": one, **meshes}.items()
    }
    for name, mesh in (("one", one), (SERVING, meshes[SERVING])):
        report[name] |= {"decoding": _decode(mesh, MODEL), "served": _serve(mesh)}
    for name, mesh in ((ON_ONE, one), (ON_A_MESH, meshes["2x4"])):
        report[name] = {"training": _train(mesh, DECODER_ONLY), "decoding": _decode(mesh, DECODER_ONLY)}
    for name, partitioner in (("one", one), (FULLY_SHARDED, meshes[FULLY_SHARDED])):
        fresh = sharded_init(partitioner, MODEL.init, jax.random.key(0))
        report[name]["fresh"] = {"params": _values(fresh), "shards": _shards(fresh)}
    report["refused"] = {
        "NUM_PARTITIONS": _refusal(lambda: make_partitioner(3)),
        "BATCH_SIZE": _refusal(lambda: make_partitioner(1).check_batch(12)),
        "memory": _without_memory(),
    }
    print(json.dumps(report))


def _without_memory() -> str:
    """Devices that hold half of a network: eight of them do not hold it where each has a copy."""
    with mock.patch.object(memory, "available", return_value=2 * MODEL.config.num_parameters):
        registry.check_fits(MODEL, "fits", make_partitioner(1, fully_sharded=True))
        return _refusal(lambda: registry.check_fits(MODEL, "model", make_partitioner(1)))


def _refusal(call: Any) -> str:
    with pytest.raises(UsageError) as error:
        call()
    return str(error.value)


def _by_path(tree: Any) -> dict[str, jax.Array]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _values(tree: Any) -> dict[str, list[Any]]:
    return {path: leaf.tolist() for path, leaf in _by_path(tree).items()}


def _shards(tree: Any) -> dict[str, list[int]]:
    """The shape of one device's part of every leaf."""
    return {path: list(leaf.addressable_shards[0].data.shape) for path, leaf in _by_path(tree).items()}


def _placed(partitioner: Partitioner, seed: int, model: Network = MODEL) -> tuple[Params, Params]:
    """Random parameters on the mesh, and their shardings."""
    shardings = partitioner.parameters(jax.eval_shape(model.init, jax.random.key(0)))
    # From host copies: the train step gives the buffers away.
    return jax.device_put(jax.tree.map(np.array, tiny.params(model, seed)), shardings), shardings


def _train(partitioner: Partitioner, model: Network = MODEL, steps: int = STEPS) -> dict[str, Any]:
    """Steps with dropout on ragged rows."""
    params, shardings = _placed(partitioner, TARGET_SEED, model)
    state, state_shardings = create_state(params, shardings, OPTIMIZER, partitioner)
    loss = make_supervised_loss(model, dropout=True)
    step = make_train_step(OPTIMIZER, partitioner, state_shardings, seed=0)
    batch = partitioner.put_batch(_batch())
    losses = []
    for _ in range(steps):
        state, metrics = step(state, batch, loss)
        losses.append(float(metrics["loss"].total / metrics["loss"].count))
    return {
        "losses": losses,
        "params": _values(state.params),
        "shards": _shards({"params": state.params, "optimizer": state.optimizer, "batch": batch}),
    }


def _batch() -> dict[str, np.ndarray]:
    targets_BT = tiny.ragged(2, (4, 1, 3, 4, 2, 4, 3, 1), 4, vocab=32)
    return {
        **tiny.teacher_batch(PROMPT_BT, targets_BT),
        "decoder_target_tokens": targets_BT,
        "decoder_loss_weights": (targets_BT > 0).astype(np.int32),
    }


def _decode(partitioner: Partitioner, model: Network) -> dict[str, Any]:
    """Rows at temperature 0 and 1 by turns."""
    target, draft = (_placed(partitioner, seed, model)[0] for seed in (TARGET_SEED, DRAFT_SEED))
    params = PairParams(target, draft)
    settings = RowSettings(
        keys_B=randomness.row_keys(jax.random.key(0), jnp.arange(ROWS)),
        limit_B=jnp.full(ROWS, NEW_TOKENS, jnp.int32),
        distribution=SamplingParams([0.0, 1.0] * (ROWS // 2)).distribution(T5_IDS).for_rows(ROWS),
    )
    prompt_BT, settings = jax.device_put((PROMPT_BT, settings), partitioner.batch)
    loop = SpeculativeLoop(model, ModelDrafter(model), block_size=2)

    def run(params: PairParams, prompt_BT: jax.Array, settings: RowSettings) -> State:
        return loop.run(params, loop.init(params, prompt_BT, settings, NEW_TOKENS), 100)

    state = jax.jit(run)(params, prompt_BT, settings)
    return {
        "tokens": state.rows.output_BT.tolist(),
        "accepted": state.counts.accepted_BG.tolist(),
        "rounds": state.counts.rounds_B.tolist(),
        "shards": _shards(state.target.cache),
    }


def _serve(partitioner: Partitioner) -> list[list[int]]:
    """More prompts than slots, through the engine; fewer rows refill than the data axis has shards."""
    engine = Engine(
        MODEL,
        _placed(partitioner, TARGET_SEED)[0],
        ModelDrafter(MODEL),
        jax.device_put(tiny.params(MODEL, DRAFT_SEED), partitioner.replicated),
        block_size=2,
        batch_size=ROWS,
        prompt_bucket=8,
        partitioner=partitioner,
    )
    prompts = [row[row > 0].tolist() for row in PROMPT_BT]
    prompts += prompts[:2]
    distribution = SamplingParams([0.0, 1.0] * (len(prompts) // 2)).distribution(T5_IDS)
    limits = [NEW_TOKENS - i % 3 for i in range(len(prompts))]
    return [list(done.tokens) for done in engine.generate(prompts, distribution, limits, seed=0)]


def _with_eight_devices(*arguments: str) -> dict[str, Any]:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_partitioning", *arguments],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "NPROC": "32"},  # threads, see `main`
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return _with_eight_devices()


@pytest.mark.slow
def test_fifty_steps_have_the_losses_of_one_device_on_every_mesh() -> None:
    losses = _with_eight_devices("50")
    expected = losses.pop("one")
    assert len(expected) == 50
    assert len(losses) == 5
    for mesh, found in losses.items():
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=mesh)


DECODING = (SERVING, ON_A_MESH)
"""Meshes on which the loop itself is compared: 2x4 splits rows and weights, as every other one does."""
cases = pytest.mark.parametrize("mesh", [*MESHES, ON_A_MESH])


def one_device(mesh: str) -> str:
    return ON_ONE if mesh == ON_A_MESH else "one"


EMBEDDING, QUERY = "token_embedder/embedding", "decoder/layers_0/self_attention/query/kernel"
OUT, WI = "decoder/layers_0/self_attention/out/kernel", "decoder/layers_0/mlp/wi_0/kernel"
WO, LOGITS = "decoder/layers_0/mlp/wo/kernel", "decoder/logits_dense/kernel"
RELPOS = "decoder/relpos_bias/rel_embedding"

# One device's part, by the rules: vocab, joined_kv, mlp and heads over `model`; embed over `data` if fully
# sharded. The two heads of the relative positions are not divided by 4, so each device has both.
PARTS = {
    "one": {EMBEDDING: [32, 16], QUERY: [16, 8], OUT: [8, 16], WI: [16, 20], WO: [20, 16]}
    | {LOGITS: [16, 32], RELPOS: [2, 4]},
    "2x4": {EMBEDDING: [8, 16], QUERY: [16, 2], OUT: [2, 16], WI: [16, 5], WO: [5, 16]}
    | {LOGITS: [16, 8], RELPOS: [2, 4]},
    FULLY_SHARDED: {EMBEDDING: [16, 4], QUERY: [4, 4], OUT: [4, 4], WI: [4, 10], WO: [10, 4]}
    | {LOGITS: [4, 16], RELPOS: [1, 4]},
}
# Keys are half as wide as queries; biases are split like what they are added to.
SELF = "decoder/layers_0/self_attention"
PARTS[ON_A_MESH] = {EMBEDDING: [8, 16], QUERY: [16, 4], OUT: [4, 16], WI: [16, 5], WO: [5, 16]} | {
    LOGITS: [16, 8],
    f"{SELF}/key/kernel": [16, 2],
    f"{SELF}/query/bias": [4],
    f"{SELF}/value/bias": [2],
}
ROWS_A_DEVICE = {"2x4": 4, FULLY_SHARDED: 2, ON_A_MESH: 4}


@cases
def test_every_device_holds_its_part_of_parameters_and_moments(measured: dict[str, Any], mesh: str) -> None:
    shards = measured[mesh]["training"]["shards"]
    for path, part in PARTS[mesh].items():
        assert shards[f"params/{path}"] == part
        assert shards[f"optimizer/0/mu/{path}"] == part
        assert shards[f"optimizer/0/nu/{path}"] == part
    assert shards["optimizer/0/count"] == []


@cases
def test_every_device_holds_its_rows(measured: dict[str, Any], mesh: str) -> None:
    rows = ROWS_A_DEVICE[mesh]
    assert measured[mesh]["training"]["shards"]["batch/encoder_input_tokens"] == [rows, 5]
    if mesh in DECODING:
        assert {part[0] for part in measured[mesh]["decoding"]["shards"].values()} == {rows}


@cases
def test_training_gives_the_losses_and_parameters_of_one_device(measured: dict[str, Any], mesh: str) -> None:
    found, expected = measured[mesh]["training"], measured[one_device(mesh)]["training"]
    assert len(expected["losses"]) == STEPS
    # What is compared is no longer where the training began: it has moved by 500 times the tolerance.
    model = DECODER_ONLY if mesh == ON_A_MESH else MODEL
    for path, start in _values(tiny.params(model, TARGET_SEED)).items():
        assert np.abs(np.subtract(expected["params"][path], start)).max() > 0.01, path
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-5)
    assert found["params"].keys() == expected["params"].keys()
    for path, values in expected["params"].items():
        np.testing.assert_allclose(found["params"][path], values, rtol=0, atol=2e-5, err_msg=path)


@pytest.mark.parametrize("mesh", DECODING)
def test_decoding_gives_the_tokens_of_one_device(measured: dict[str, Any], mesh: str) -> None:
    found, expected = measured[mesh]["decoding"], measured[one_device(mesh)]["decoding"]
    assert np.sum(expected["accepted"]) > 0
    for name in ("tokens", "accepted", "rounds"):
        assert found[name] == expected[name]


def test_the_engine_gives_the_texts_of_one_device(measured: dict[str, Any]) -> None:
    assert measured[SERVING]["served"] == measured["one"]["served"]


def test_fresh_parameters_are_those_of_one_device(measured: dict[str, Any]) -> None:
    """`sharded_init` draws the same numbers, wherever they come to lie."""
    found, expected = measured[FULLY_SHARDED]["fresh"], measured["one"]["fresh"]
    for path, part in PARTS[FULLY_SHARDED].items():
        assert found["shards"][path] == part
    for path, values in expected["params"].items():
        np.testing.assert_allclose(found["params"][path], values, rtol=0, atol=1e-6, err_msg=path)


def test_what_does_not_divide_is_refused_in_one_line(measured: dict[str, Any]) -> None:
    refused = measured["refused"]
    assert "split by NUM_PARTITIONS and FULLY_SHARDED, on every device needs" in refused.pop("memory")
    assert refused == {
        "NUM_PARTITIONS": "NUM_PARTITIONS=3 does not divide the 8 devices: use one of [1, 2, 4, 8]",
        "BATCH_SIZE": "BATCH_SIZE=12 cannot be split over 8 data shards: use a multiple of 8",
    }


@pytest.mark.parametrize("count", [0, -1])
def test_no_partitions_are_refused(count: int) -> None:
    with pytest.raises(UsageError, match=f"^NUM_PARTITIONS={count} does not divide the "):
        make_partitioner(count)


@dataclasses.dataclass(frozen=True)
class Chip:
    """What JAX asks a TPU's device."""

    id: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v4"
    process_index: int = 0
    slice_index: int = 0
    core_on_chip: int = 0


def test_partitions_of_a_tpu_slice_lie_on_a_line_of_chips() -> None:
    """Each of four hosts lists its square of four chips, and the next host's chips are not all beside it."""
    squares = [(x + i, y + j, 0) for y in (0, 2) for x in (0, 2) for j in (0, 1) for i in (0, 1)]
    chips = [Chip(number, place) for number, place in enumerate(squares)]
    grid = partitioning._grid(chips, 4)
    assert {chip.id for chip in grid.flat} == set(range(16))
    assert all(len({chip.coords[axis] for chip in row}) == 1 for row in grid for axis in (1,))
    odd = chips[:6]  # no slice of this shape
    assert partitioning._grid(odd, 2).ravel().tolist() == odd


if __name__ == "__main__":
    main(*sys.argv[1:])
