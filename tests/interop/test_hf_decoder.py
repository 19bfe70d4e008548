"""Every decoder-only kind against transformers' own networks, on random weights, in both directions."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
import transformers

from distillspec_jax.errors import UsageError
from distillspec_jax.interop import hf_decoder, hf_decoder_config, hf_folder
from distillspec_jax.models.decoder_only import DecoderOnly
from tests import tiny

PARITY = {"rtol": 0, "atol": 1e-4}
LLAMA = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 40,
}
STRETCHED = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 40,
}
GPT2 = {"vocab_size": tiny.VOCAB, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 40}
KINDS = {
    "llama": transformers.LlamaConfig(**LLAMA, head_dim=6, attention_bias=True, mlp_bias=True),
    "llama_tied": transformers.LlamaConfig(**LLAMA, tie_word_embeddings=True, rope_parameters=STRETCHED),
    "mistral": transformers.MistralConfig(**LLAMA, sliding_window=5),
    "qwen2": transformers.Qwen2Config(**LLAMA),
    "qwen3": transformers.Qwen3Config(**LLAMA, head_dim=6),
    "gemma3": transformers.Gemma3TextConfig(
        **LLAMA | {"num_hidden_layers": 3},
        head_dim=6,
        query_pre_attn_scalar=5,
        sliding_window=4,
        sliding_window_pattern=2,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10.0},
        },
    ),
    "gpt2": transformers.GPT2Config(**GPT2),
}

# The vocabulary has 23 words here; the rows of the table past them are padding, and have logits like others.
LENGTHS = (9, 4)
PROMPTS = tiny.ragged(0, LENGTHS, 9, vocab=23)
TARGETS = tiny.tokens(1, 2, 7, vocab=23)


@pytest.fixture(params=KINDS, scope="module")
def network(request):
    """transformers' network with random weights."""
    network = transformers.AutoModelForCausalLM.from_config(KINDS[request.param]).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            norm = "norm" in name or ".ln_" in name
            around = 1.0 if norm and name.endswith("weight") else 0.0
            weight.normal_(around, 0.3, generator=generator)
    return network


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    """What transformers saves of it."""
    path = tmp_path_factory.mktemp("hf")
    network.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def imported(folder):
    return hf_folder.read(folder)


def their_logits(network, left):
    """At the targets' positions: prompts and targets in one line, padded on either side."""
    width = PROMPTS.shape[1] + TARGETS.shape[1]
    tokens, mask = np.zeros((2, width), np.int64), np.zeros((2, width), np.int64)
    ends = []
    for row, length in enumerate(LENGTHS):
        whole = np.concatenate([PROMPTS[row, :length], TARGETS[row]])
        start = width - len(whole) if left else 0
        tokens[row, start : start + len(whole)], mask[row, start : start + len(whole)] = whole, 1
        ends.append(start + length)
    position = np.maximum(mask.cumsum(1) - 1, 0)
    with torch.inference_mode():
        logits = network(
            input_ids=torch.from_numpy(tokens),
            attention_mask=torch.from_numpy(mask),
            position_ids=torch.from_numpy(position),
        ).logits.numpy()
    return np.stack(
        [row[end - 1 : end - 1 + TARGETS.shape[1]] for row, end in zip(logits, ends, strict=True)]
    )


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_imported_weights_give_their_logits_for_either_padding(network, imported, left):
    found = tiny.logits(*imported, tiny.teacher_batch(PROMPTS, TARGETS))
    np.testing.assert_allclose(found, their_logits(network, left), **PARITY)


def test_imported_weights_decode_to_their_logits(network, imported):
    model, params = imported
    expected = their_logits(network, left=False)
    state, pending = tiny.prefill(model, params, PROMPTS, 8)
    fed = np.concatenate([np.asarray(pending)[:, None], TARGETS[:, :-1]], axis=1)
    first, state = tiny.extend(model, params, state, fed[:, :4])
    rest, _ = tiny.extend(model, params, state, fed[:, 4:])
    np.testing.assert_allclose(np.concatenate([first, rest], axis=1), expected, **PARITY)


def test_a_round_trip_from_theirs_is_bit_equal(network, imported):
    tensors, config = hf_decoder.to_hf(imported[0].config, imported[1])
    theirs = {name: weight.numpy() for name, weight in network.state_dict().items()}
    tied = {"lm_head.weight"} if network.config.tie_word_embeddings else set()
    assert theirs.keys() - tensors.keys() == tied
    assert tensors.keys() <= theirs.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, theirs[name])
    again, params = hf_decoder.from_hf(tensors, config)
    assert again == imported[0].config
    jax.tree.map(np.testing.assert_array_equal, params, imported[1])


def test_exported_weights_give_our_logits_in_transformers(imported, tmp_path):
    hf_folder.write(tmp_path, *imported)
    # A server that runs as another user reads the weights, too: safetensors alone gives them to its caller.
    assert len({file.stat().st_mode for file in tmp_path.iterdir()}) == 1
    network, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not report[problem]
    found = their_logits(network.eval(), left=False)
    ours = tiny.logits(*imported, tiny.teacher_batch(PROMPTS, TARGETS))
    np.testing.assert_allclose(found, ours, **PARITY)


def test_the_network_without_its_head_and_old_buffers_are_read():
    """As in the files of the first GPT-2."""
    network = transformers.GPT2Model(KINDS["gpt2"]).eval()
    tensors = {name: weight.numpy() for name, weight in network.state_dict().items()}
    buffers = {f"h.{i}.attn.bias": np.ones((1, 1, 40, 40), bool) for i in range(2)}
    config, params = hf_decoder.from_hf({**tensors, **buffers}, KINDS["gpt2"].to_dict())
    np.testing.assert_array_equal(params["token_embedder"]["embedding"], tensors["wte.weight"])
    assert config.dropout_rate == 0.1


def config_of(kind, **changed):
    return {**KINDS[kind].to_dict(), **changed}


@pytest.mark.parametrize(
    ("kind", "field", "value", "said"),
    [
        ("llama", "hidden_act", "gelu", "Hugging Face llama: unknown hidden_act 'gelu': "),
        ("llama", "rope_parameters", {"rope_type": "yarn"}, "rope_scaling is of type 'yarn', only 'default'"),
        ("llama", "num_key_value_heads", 3, "num_kv_heads is 3, must divide num_heads = 4"),
        ("mistral", "sliding_window", 41, "window is 41, must be between 0 (none) and max_positions = 40"),
        ("mistral", "sliding_window", "5", "field sliding_window: expected int, got '5'"),
        ("qwen2", "use_sliding_window", True, "use_sliding_window is True, only False is supported"),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True, "scale_attn_by_inverse_layer_idx is True, only"),
    ],
)
def test_a_configuration_that_cannot_be_followed_is_named(kind, field, value, said):
    with pytest.raises(UsageError) as error:
        hf_decoder_config.config_from_hf(config_of(kind, **{field: value}))
    assert said in str(error.value)


def test_old_and_new_ways_of_writing_rotary_positions_mean_the_same():
    old = {k: v for k, v in STRETCHED.items() if k not in ("rope_type", "rope_theta")} | {"type": "llama3"}
    written = {"model_type": "llama", **LLAMA, "rope_theta": 100.0, "rope_scaling": old}
    new = {"model_type": "llama", **LLAMA, "rope_parameters": STRETCHED}
    assert hf_decoder_config.config_from_hf(written) == hf_decoder_config.config_from_hf(new)
    assert hf_decoder_config.config_from_hf(new).rope_theta == 100.0


def test_a_window_of_null_is_none_and_one_left_out_is_the_first_release_s():
    written = config_of("mistral", max_position_embeddings=8192, sliding_window=None)
    config = hf_decoder_config.config_from_hf(written)
    assert (config.window, hf_decoder_config.config_to_hf(config)["model_type"]) == (0, "llama")
    del written["sliding_window"]
    assert hf_decoder_config.config_from_hf(written).window == 4096


def test_every_tensor_that_contradicts_the_config_is_named():
    tensors, config = hf_decoder.to_hf(tiny.GPT.config, tiny.params(tiny.GPT))
    moved = tensors | {"transformer.h.0.attn.c_attn.weight": np.zeros((12, 48), np.float32), "x": np.zeros(1)}
    with pytest.raises(UsageError, match=r"unused tensors x$"):
        hf_decoder.from_hf(moved, config)
    del moved["x"]
    with pytest.raises(UsageError) as error:
        hf_decoder.from_hf(moved, config)
    assert "c_attn.weight is (12, 48), the config wants (16, 48)" in str(error.value)


def test_a_head_of_its_own_contradicts_a_tied_config():
    tensors, config = hf_decoder.to_hf(tiny.GPT.config, tiny.params(tiny.GPT))
    own = tensors | {"lm_head.weight": tensors["transformer.wte.weight"] + 1}
    with pytest.raises(UsageError, match=r"lm_head\.weight differs from transformer\.wte\.weight"):
        hf_decoder.from_hf(own, config)


def test_a_network_without_a_name_in_transformers_is_not_exported():
    with pytest.raises(
        UsageError, match="transformers has no name for a decoder-only network of norm 'layer'"
    ):
        hf_decoder_config.config_to_hf(dataclasses.replace(tiny.LLAMA.config, norm="layer"))
    assert (
        DecoderOnly(hf_decoder_config.config_from_hf(hf_decoder_config.config_to_hf(tiny.LLAMA.config)))
        == tiny.LLAMA
    )


@pytest.mark.parametrize(
    ("kind", "field", "value", "said"),
    [
        ("gpt2", "n_head", 0, "num_heads is 0, must be at least 1"),
        ("gpt2", "n_layer", 10**9, "num_layers is 1000000000, must be at most 1,000"),
        ("gpt2", "n_embd", [16], "field n_embd: expected int, got a list of 1"),
        ("gpt2", "activation_function", 3, "field activation_function: expected str, got 3"),
        ("llama", "num_attention_heads", "four", "field num_attention_heads: expected int, got 'four'"),
        ("llama", "num_hidden_layers", True, "field num_hidden_layers: expected int, got True"),
        ("llama", "rope_parameters", "fast", "field rope_parameters: expected object | null, got 'fast'"),
        ("llama", "rope_parameters", {"rope_type": "llama3"}, "it has no field 'factor'"),
        ("llama", "rope_parameters", {"rope_theta": "1"}, "field rope_theta: expected "),
        ("qwen2", "tie_word_embeddings", "yes", "field tie_word_embeddings: expected bool, got 'yes'"),
        ("qwen2", "use_sliding_window", [[]], "use_sliding_window is a list of 1, only False"),
    ],
)
def test_a_configuration_of_other_types_is_one_line(kind, field, value, said):
    """All but the unfollowable were tracebacks, or hung."""
    with pytest.raises(UsageError) as error:
        hf_decoder_config.config_from_hf(config_of(kind, **{field: value}))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
