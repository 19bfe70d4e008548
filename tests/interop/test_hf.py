"""T5 1.0 and 1.1 against transformers' own network, on random weights, in both directions."""

import copy
import dataclasses
import json

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from distillspec_jax.errors import UsageError
from distillspec_jax.interop import hf
from distillspec_jax.models.t5 import EncoderDecoder
from tests import tiny

PARITY = {"rtol": 0, "atol": 1e-4}
KINDS = {
    "t5_1_0": {"feed_forward_proj": "relu"},
    "t5_1_1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}
SIZES = {
    "vocab_size": tiny.VOCAB,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 20,
    "num_layers": 1,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
    "decoder_start_token_id": 0,
}

# Long enough for every bucket of relative positions to be met; row 1 is padded.
INPUTS = tiny.ragged(0, (15, 6), 15)
TARGETS = tiny.tokens(1, 2, 14)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def network(kind):
    """transformers' network with random weights, and a state dict of what it says they are."""
    config = transformers.T5Config(**SIZES, **KINDS[kind])
    network = transformers.T5ForConditionalGeneration(config).eval()
    if kind == "t5_1_1":  # a fresh network starts with one table for both ends, whatever its configuration
        network.lm_head.weight = torch.nn.Parameter(network.lm_head.weight.detach().clone())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            spread = 1.0 if name == "shared.weight" else 0.3
            weight.normal_(1.0 if "layer_norm" in name else 0.0, spread, generator=generator)
    return network


def state_dict(network):
    return {name: weight.numpy() for name, weight in network.state_dict().items()}


def written_config(kind):
    """What stands in the config.json of a released T5 of this kind."""
    return {"model_type": "t5", "layer_norm_epsilon": 1e-6, "pad_token_id": 0, **SIZES, **KINDS[kind]}


def their_logits(network):
    batch = tiny.teacher_batch(INPUTS, TARGETS)
    with torch.inference_mode():
        return network(
            input_ids=torch.from_numpy(batch["encoder_input_tokens"]).long(),
            attention_mask=torch.from_numpy(batch["encoder_input_tokens"] > 0),
            decoder_input_ids=torch.from_numpy(batch["decoder_input_tokens"]).long(),
        ).logits.numpy()


def our_logits(config, params):
    return tiny.logits(EncoderDecoder(config), params, tiny.teacher_batch(INPUTS, TARGETS))


def test_imported_weights_give_their_logits(kind, network):
    config, params = hf.from_hf(state_dict(network), written_config(kind))
    assert config == dataclasses.replace(tiny.MODELS[kind].config, dropout_rate=0.1)
    np.testing.assert_allclose(our_logits(config, params), their_logits(network), **PARITY)


def test_imported_weights_decode_to_their_logits(kind, network):
    config, params = hf.from_hf(state_dict(network), written_config(kind))
    model, expected = EncoderDecoder(config), their_logits(network)
    fed = tiny.teacher_batch(INPUTS, TARGETS)["decoder_input_tokens"]
    state, _ = tiny.prefill(model, params, INPUTS, TARGETS.shape[1])
    for start in range(0, TARGETS.shape[1], 7):
        found, state = tiny.extend(model, params, state, fed[:, start : start + 7])
        np.testing.assert_allclose(found, expected[:, start : start + 7], **PARITY)


def test_exported_weights_give_our_logits_in_transformers(kind, tmp_path):
    model = tiny.MODELS[kind]
    params = tiny.params(model)
    tensors, config = hf.to_hf(model.config, params)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    network, report = transformers.T5ForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not report[problem]
    np.testing.assert_allclose(their_logits(network.eval()), our_logits(model.config, params), **PARITY)


def test_a_round_trip_from_ours_is_bit_equal(kind):
    model = tiny.MODELS[kind]
    config, params = hf.from_hf(*hf.to_hf(model.config, tiny.params(model)))
    assert config == model.config
    jax.tree.map(np.testing.assert_array_equal, params, tiny.params(model))


def test_a_round_trip_from_theirs_is_bit_equal(kind, network):
    theirs = state_dict(network)
    tensors, config = hf.to_hf(*hf.from_hf(theirs, written_config(kind)))
    for name, value in written_config(kind).items():
        assert config[name] == value, name
    assert config["tie_word_embeddings"] == (kind == "t5_1_0")
    repeated = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    assert theirs.keys() - tensors.keys() == repeated | ({"lm_head.weight"} if kind == "t5_1_0" else set())
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, theirs[name])


def test_what_transformers_saves_is_read_back(kind, network, tmp_path):
    """Its newer releases write a config.json in which `tie_word_embeddings` is always true."""
    network.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    config, params = hf.from_hf(load_file(tmp_path / "model.safetensors"), saved)
    np.testing.assert_allclose(our_logits(config, params), their_logits(network), **PARITY)


def test_raw_logits_of_a_shared_table_are_read(tmp_path):
    """A T5 1.1 that transformers made afresh: one table at both ends, and no scale."""
    network = transformers.T5ForConditionalGeneration(transformers.T5Config(**SIZES, **KINDS["t5_1_1"]))
    tensors = {n: t for n, t in state_dict(network.eval()).items() if n != "lm_head.weight"}
    config, params = hf.from_hf(tensors, network.config.to_dict())
    assert not config.logits_via_embedding
    np.testing.assert_allclose(our_logits(config, params), their_logits(network), **PARITY)


def tensors_of(kind="t5_1_0"):
    tensors, config = hf.to_hf(tiny.MODELS[kind].config, tiny.params(tiny.MODELS[kind]))
    return dict(tensors), config


def test_every_missing_and_every_unused_tensor_is_named():
    tensors, config = tensors_of()
    lost = ["shared.weight", "decoder.block.1.layer.1.EncDecAttention.k.weight"]
    for name in lost:
        del tensors[name]
    tensors |= {"encoder.block.0.layer.1.DenseReluDense.wi_1.weight": np.zeros((20, 16)), "x": np.zeros(1)}
    with pytest.raises(UsageError) as error:
        hf.from_hf(tensors, config)
    for name in (*lost, "x", "encoder.block.0.layer.1.DenseReluDense.wi_1.weight"):
        assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_every_misshaped_tensor_is_named():
    tensors, config = tensors_of()
    attention = "encoder.block.0.layer.0.SelfAttention"
    query, bias = f"{attention}.q.weight", f"{attention}.relative_attention_bias.weight"
    tensors[query], tensors[bias] = tensors[query].T, tensors[bias][:5]
    with pytest.raises(UsageError) as error:
        hf.from_hf(tensors, config)
    assert f"{query} is (16, 12), the config wants (12, 16)" in str(error.value)
    assert f"{bias} is (5, 3), the config wants (8, 3)" in str(error.value)


@pytest.mark.parametrize("name", ["lm_head.weight", "decoder.embed_tokens.weight"])
def test_a_tied_tensor_that_differs_is_refused(name):
    tensors, config = tensors_of()
    tensors[name] = tensors["shared.weight"] + 1
    with pytest.raises(UsageError, match=f"{name} differs from shared.weight"):
        hf.from_hf(tensors, config)


def test_the_tensor_that_old_t5_files_hold_by_mistake_is_let_pass():
    tensors, config = tensors_of()
    stray = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    _, params = hf.from_hf({**tensors, stray: np.ones((8, 3), np.float32)}, config)
    jax.tree.map(np.testing.assert_array_equal, params, tiny.params(tiny.T5_1_0))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("model_type", "mt7", "model_type is 'mt7', only 't5' is supported"),
        ("layer_norm_epsilon", 1e-5, "layer_norm_epsilon is 1e-05, only 1e-06"),
        ("pad_token_id", 3, "pad_token_id is 3, only 0"),
        ("feed_forward_proj", "gated-tanh", "unknown feed_forward_proj 'gated-tanh': did you mean 'gated-"),
        ("feed_forward_proj", "gelu", "unknown feed_forward_proj 'gelu'"),
        ("num_heads", 0, "num_heads is 0, must be at least 1"),
        ("feed_forward_proj", 3, "field feed_forward_proj: expected str, got 3"),
        ("d_model", None, "the config wants"),
        ("num_layers", 10**9, "num_encoder_layers is 1000000000, must be at most 1,000"),
        ("dropout_rate", "high", "field dropout_rate: expected "),
    ],
)
def test_a_configuration_that_cannot_be_followed_is_named(field, value, said):
    tensors, config = tensors_of()
    with pytest.raises(UsageError) as error:
        hf.from_hf(tensors, {**config, field: value})
    assert said in str(error.value)


def test_export_refuses_parameters_that_are_not_the_configurations():
    params = copy.deepcopy(jax.tree.map(np.asarray, tiny.params(tiny.T5_1_0)))
    params["decoder"]["decoder_norm"]["scale"] = np.ones(5, np.float32)
    with pytest.raises(UsageError) as error:
        hf.to_hf(tiny.T5_1_0.config, params)
    assert "decoder/decoder_norm/scale has shape (5,), the config wants (16,)" in str(error.value)
    del params["decoder"]["decoder_norm"]
    with pytest.raises(UsageError, match="missing tensors decoder/decoder_norm/scale"):
        hf.to_hf(tiny.T5_1_0.config, params)


def test_export_refuses_a_feed_forward_that_transformers_has_no_name_for():
    config = dataclasses.replace(tiny.T5_1_0.config, mlp_activations=("linear", "relu"))
    with pytest.raises(UsageError, match="have no name in transformers' T5"):
        hf.config_to_hf(config)
