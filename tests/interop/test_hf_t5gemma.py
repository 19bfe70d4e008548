"""T5Gemma against transformers' own network, on random weights, in both directions."""

import jax
import numpy as np
import pytest
import torch
import transformers

from distillspec_jax.errors import UsageError
from distillspec_jax.interop import hf_folder, hf_t5gemma, hf_t5gemma_config
from tests import tiny

PARITY = {"rtol": 0, "atol": 1e-4}
DECODER = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 40,
    "query_pre_attn_scalar": 5,
    "sliding_window": 3,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 8.0,
}
SMALL = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
ENCODER = {**DECODER, **SMALL, "intermediate_size": 14, "head_dim": 4}
UNCAPPED = {**DECODER, "attn_logit_softcapping": None, "final_logit_softcapping": None}
KINDS = {
    "unequal": transformers.T5GemmaConfig(encoder=ENCODER, decoder=DECODER, vocab_size=tiny.VOCAB),
    "untied": transformers.T5GemmaConfig(
        encoder=UNCAPPED | {"layer_types": ["full_attention"] * 3},
        decoder=UNCAPPED | {"layer_types": ["full_attention"] * 3, "bos_token_id": 5},
        vocab_size=tiny.VOCAB,
        tie_word_embeddings=False,
    ),
}
PROMPTS = tiny.ragged(0, (9, 4), 9)
TARGETS = tiny.tokens(1, 2, 7)


@pytest.fixture(params=KINDS, scope="module")
def network(request):
    """transformers' network with random weights."""
    network = transformers.T5GemmaForConditionalGeneration(KINDS[request.param]).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(0.0, 0.3, generator=generator)
    return network


@pytest.fixture(scope="module")
def imported(network, tmp_path_factory):
    """What transformers saves of it, as we read it."""
    path = tmp_path_factory.mktemp("hf")
    network.save_pretrained(path)
    return hf_folder.read(path)


def their_logits(network):
    with torch.inference_mode():
        return network(
            input_ids=torch.from_numpy(PROMPTS).long(),
            attention_mask=torch.from_numpy(PROMPTS > 0),
            labels=torch.from_numpy(TARGETS).long(),  # which it shifts right behind its own first token
        ).logits.numpy()


def test_imported_weights_give_their_logits(network, imported):
    found = tiny.logits(*imported, tiny.teacher_batch(PROMPTS, TARGETS))
    np.testing.assert_allclose(found, their_logits(network), **PARITY)


def test_a_round_trip_from_theirs_is_bit_equal(network, imported):
    tensors, config = hf_t5gemma.to_hf(imported[0].config, imported[1])
    theirs = {name: weight.numpy() for name, weight in network.state_dict().items()}
    tied = {"lm_head.out_proj.weight"} if network.config.tie_word_embeddings else set()
    assert tensors.keys() == theirs.keys() - tied
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, theirs[name])
    again, params = hf_t5gemma.from_hf(tensors, config)
    assert again == imported[0].config
    jax.tree.map(np.testing.assert_array_equal, params, imported[1])


def test_exported_weights_give_our_logits_by_either_way(tmp_path):
    model, params = tiny.T5GEMMA, tiny.params(tiny.T5GEMMA)
    hf_folder.write(tmp_path, model, params)
    network = transformers.T5GemmaForConditionalGeneration.from_pretrained(tmp_path).eval()
    expected = their_logits(network)
    np.testing.assert_allclose(
        tiny.logits(model, params, tiny.teacher_batch(PROMPTS, TARGETS)), expected, **PARITY
    )
    state, pending_B = tiny.prefill(model, params, PROMPTS, 8)
    fed = np.concatenate([np.asarray(pending_B)[:, None], TARGETS[:, :-1]], axis=1)
    found, _ = tiny.extend(model, params, state, fed)
    np.testing.assert_allclose(found, expected, **PARITY)


@pytest.mark.parametrize(
    ("stack", "field", "value", "said"),
    [
        ("decoder", "attention_bias", True, "decoder.attention_bias is True, only False is supported"),
        ("encoder", "pad_token_id", 3, "encoder.pad_token_id is 3, only 0 is supported"),
        ("encoder", "sliding_window", 4, "sliding_window is 4 in the encoder and 3 in the decoder, only "),
        ("encoder", "layer_types", ["full_attention", "sliding_attention"], "layer_types is not 'full_att"),
        ("decoder", "num_key_value_heads", 3, "num_kv_heads is 3, must divide num_heads = 4"),
        ("encoder", "head_dim", 5, "encoder_head_dim is 5, must be even, since positions are rotary"),
        ("decoder", "hidden_size", "wide", "decoder: field hidden_size: expected int, got 'wide'"),
        ("decoder", "hidden_activation", "gelu", "unknown hidden_activation 'gelu'"),
    ],
)
def test_a_configuration_that_cannot_be_followed_is_named(stack, field, value, said):
    told = KINDS["unequal"].to_dict()
    shared = [stack] if stack == "encoder" or field != "hidden_activation" else ["encoder", "decoder"]
    changed = {name: {**told[name], field: value} for name in shared}
    with pytest.raises(UsageError) as error:
        hf_t5gemma_config.config_from_hf({**told, **changed})
    assert said in str(error.value)
