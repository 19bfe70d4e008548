"""A checkpoint that T5X wrote, against the logits that T5X computed from it."""

import ast
import shutil

import jax
import numpy as np
import pytest
from flax import serialization, traverse_util

from distillspec_jax import checkpoint, model_card
from distillspec_jax.errors import UsageError
from distillspec_jax.interop import t5x
from distillspec_jax.models import pretrained, registry
from distillspec_jax.models.t5 import EncoderDecoder, T5Config
from tests import tiny

PARITY = {"rtol": 0, "atol": 1e-4}


@pytest.fixture(scope="module")
def config(t5x_tiny) -> T5Config:
    return T5Config(**ast.literal_eval((t5x_tiny / "config.txt").read_text()))


@pytest.fixture(scope="module")
def found(t5x_tiny):
    return t5x.read(t5x_tiny / "checkpoint_0")


@pytest.fixture(scope="module")
def expected(t5x_tiny):
    return dict(np.load(t5x_tiny / "expected.npz"))


@pytest.fixture
def damaged(t5x_tiny, tmp_path):
    """A copy of the checkpoint that a test may break."""
    return shutil.copytree(t5x_tiny / "checkpoint_0", tmp_path / "checkpoint_0")


def assert_parity(logits, expected):
    real = expected["decoder_target_tokens"] > 0
    assert real.any()
    assert not real.all()
    np.testing.assert_allclose(np.asarray(logits)[real], expected["logits"][real], **PARITY)


def batch(expected):
    return {name: expected[name] for name in ("encoder_input_tokens", "decoder_input_tokens")}


def test_logits_are_t5xs_own(config, found, expected):
    assert_parity(tiny.logits(EncoderDecoder(config), found.params, batch(expected)), expected)


def test_decoding_gives_t5xs_logits_too(config, found, expected):
    model = EncoderDecoder(config)
    tokens = expected["decoder_input_tokens"]
    state, pending = tiny.prefill(model, found.params, expected["encoder_input_tokens"], tokens.shape[1])
    np.testing.assert_array_equal(pending, tokens[:, 0])
    parts = []
    for start in range(0, tokens.shape[1], 3):
        logits, state = tiny.extend(model, found.params, state, tokens[:, start : start + 3])
        parts.append(logits)
    assert_parity(np.concatenate(parts, axis=1), expected)


def test_logits_survive_our_checkpoint_directory(config, found, expected, tmp_path):
    family, fields = registry.describe(EncoderDecoder(config))
    model_card.write_card(tmp_path, model_card.ModelCard(family, fields), tokenizer=None)
    checkpoint.save_params(tmp_path, found.step, found.params)
    loaded = pretrained.load(str(tmp_path))
    jax.tree.map(np.testing.assert_array_equal, loaded.params, found.params)
    assert_parity(tiny.logits(loaded.model, loaded.params, batch(expected)), expected)


def test_the_optimizer_is_left_behind_and_said_so(found):
    assert found.step == 0
    (skipped,) = found.skipped
    assert skipped.startswith("optimizer state of ")
    assert set(found.params) == {"token_embedder", "encoder", "decoder"}


def test_the_configuration_is_read_off_the_shapes(config, found):
    inferred = t5x.infer_config(found.params, dropout_rate=config.dropout_rate)
    assert inferred == config


def test_inference_follows_every_field_that_shapes_tell():
    for model in tiny.T5S.values():
        known = {"relpos_max_distance": model.config.relpos_max_distance}
        assert t5x.infer_config(tiny.params(model), **known) == model.config


def test_a_tree_that_is_no_unscanned_t5_is_refused(found):
    scanned = {**found.params, "decoder": {"decoder": found.params["decoder"]}}
    with pytest.raises(UsageError, match="not an unscanned T5 tree: it has no decoder/relpos_bias"):
        t5x.infer_config(scanned)


TENSOR = "decoder/layers_1/mlp/wo/kernel"
STORED = "target.decoder.layers_1.mlp.wo.kernel"


@pytest.mark.parametrize(
    ("name", "reason"),
    [(f"{STORED}/.zarray", "is missing (no .zarray)"), (f"{STORED}/0.0", '0.0" is missing')],
)
def test_a_missing_array_is_named(damaged, name, reason):
    (damaged / name).unlink()
    with pytest.raises(UsageError) as error:
        t5x.read(damaged)
    assert f"{damaged / STORED}: tensor {TENSOR}" in str(error.value)
    assert reason in str(error.value)


def test_a_missing_chunk_is_the_fill_value_only_where_one_is_declared(damaged):
    """zarr leaves out chunks of the fill value; T5X declares none, so for its arrays absence is damage."""
    metadata = damaged / STORED / ".zarray"
    metadata.write_text(metadata.read_text().replace('"fill_value":null', '"fill_value":0.0'))
    (damaged / STORED / "0.0").unlink()
    kernel = t5x.read(damaged).params["decoder"]["layers_1"]["mlp"]["wo"]["kernel"]
    np.testing.assert_array_equal(kernel, np.zeros((24, 16)))


def test_a_truncated_array_is_named(damaged):
    chunk = damaged / STORED / "0.0"
    chunk.write_bytes(chunk.read_bytes()[:-20])
    with pytest.raises(UsageError) as error:
        t5x.read(damaged)
    assert f"{damaged / STORED}: tensor {TENSOR} cannot be read" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_array_of_another_shape_than_the_index_says_is_named(damaged):
    shutil.rmtree(damaged / STORED)
    shutil.copytree(damaged / "target.decoder.decoder_norm.scale", damaged / STORED)
    with pytest.raises(UsageError) as error:
        t5x.read(damaged)
    assert f"tensor {TENSOR} has shape (16,), the index says (24, 16)" in str(error.value)


def edited(damaged, change):
    """Rewrites the index after `change` was made to its `optimizer`."""
    path = damaged / "checkpoint"
    index = serialization.msgpack_restore(path.read_bytes())
    change(index["optimizer"])
    path.write_bytes(serialization.msgpack_serialize(index))


def test_small_tensors_may_lie_in_the_index_itself(damaged, found):
    scale = np.arange(16, dtype=np.float32)

    def inline(optimizer):
        optimizer["target"]["decoder"]["decoder_norm"]["scale"] = scale

    edited(damaged, inline)
    read = t5x.read(damaged).params
    np.testing.assert_array_equal(read["decoder"]["decoder_norm"]["scale"], scale)
    assert traverse_util.flatten_dict(read).keys() == traverse_util.flatten_dict(found.params).keys()


def test_the_folders_of_the_machine_that_wrote_it_do_not_matter(damaged, found):
    def elsewhere(optimizer):
        leaf = optimizer["target"]["token_embedder"]["embedding"]
        leaf["kvstore"] = {"driver": "gcs", "bucket": "b", "path": "runs/7/target.token_embedder.embedding/"}

    edited(damaged, elsewhere)
    embedding = t5x.read(damaged).params["token_embedder"]["embedding"]
    np.testing.assert_array_equal(embedding, found.params["token_embedder"]["embedding"])


def test_a_leaf_of_another_kind_is_named(damaged):
    def placeholder(optimizer):
        optimizer["target"]["token_embedder"]["embedding"] = "PLACEHOLDER://x"

    edited(damaged, placeholder)
    with pytest.raises(UsageError, match="tensor token_embedder/embedding is neither an array nor"):
        t5x.read(damaged)


def test_a_damaged_index_is_named(damaged):
    path = damaged / "checkpoint"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UsageError, match=r"checkpoint is not a whole msgpack index"):
        t5x.read(damaged)
    path.write_bytes(serialization.msgpack_serialize({"params": {}}))
    with pytest.raises(UsageError, match="has no optimizer/target: not the index of a T5X train state"):
        t5x.read(damaged)


def test_a_folder_that_is_no_checkpoint_is_named(t5x_tiny, tmp_path):
    with pytest.raises(UsageError, match=r"it holds steps, name one of checkpoint_0"):
        t5x.read(t5x_tiny)
    with pytest.raises(UsageError, match=r"it has no file 'checkpoint'"):
        t5x.read(tmp_path)
    with pytest.raises(UsageError, match=r"no such directory"):
        t5x.read(tmp_path / "nowhere")
