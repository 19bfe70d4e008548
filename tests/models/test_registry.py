"""Models from the configurations of cards: which are refused, and before what."""

import dataclasses
import json

import jax
import pytest

from distillspec_jax import checkpoint, memory
from distillspec_jax.errors import UsageError
from distillspec_jax.models import pretrained, registry
from tests import pair, tiny


@pytest.mark.parametrize("name", tiny.MODELS)
def test_parameters_are_reckoned_as_they_are_traced(name):
    """A part that is left out would let too large a network through, one too many refuse a good one."""
    model = tiny.MODELS[name]
    assert model.config.num_parameters == checkpoint.count_parameters(registry.shapes(model))


def test_a_part_that_no_tiny_model_has_is_reckoned_too():
    for changes in (
        {"out_bias": True},
        {"mlp_bias": True},
        {"norm": "layer"},
        {"logits_via_embedding": True},
    ):
        model = dataclasses.replace(tiny.LLAMA, config=dataclasses.replace(tiny.LLAMA.config, **changes))
        assert model.config.num_parameters == checkpoint.count_parameters(registry.shapes(model)), changes


def family_and_config(name, **changes):
    family, config = registry.describe(tiny.MODELS[name])
    return family, json.loads(json.dumps(config)) | changes


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("t5_1_1", {"emb_dim": "wide"}, "t5 model: field emb_dim: expected int, got 'wide'"),
        ("t5_1_1", {"emb_dim": None}, "field emb_dim: expected int, got None"),
        ("t5_1_1", {"emb_dim": True}, "field emb_dim: expected int, got True"),
        ("t5_1_1", {"num_heads": 2.5}, "field num_heads: expected int, got 2.5"),
        ("t5_1_1", {"num_decoder_layers": 10**9}, "num_decoder_layers is 1000000000, must be at most 1,000"),
        ("t5_1_1", {"vocab_size": 10**30}, "vocab_size is 1000000000000000000000000000000, must be at most"),
        ("t5_1_1", {"vocab_size": 2**31 - 1, "emb_dim": 2**31 - 1}, "num_parameters is "),
        ("t5_1_1", {"relpos_buckets": 10**12}, "relpos_buckets is 1000000000000, must be at most"),
        ("t5_1_1", {"decoder_start_id": 1.5}, "field decoder_start_id: expected int, got 1.5"),
        ("t5_1_1", {"dropout_rate": [0.1]}, "field dropout_rate: expected float, got a list of 1"),
        ("t5_1_1", {"mlp_activations": "gelu"}, "field mlp_activations: expected array, got 'gelu'"),
        ("t5_1_1", {"mlp_activations": ["gelu", 3]}, "field mlp_activations[1]: expected str, got 3"),
        ("t5_1_1", {"mlp_activations": ["gelu"] * 10**5}, "must name at most 4"),
        ("t5_1_1", {"logits_via_embedding": 1}, "field logits_via_embedding: expected bool, got 1"),
        ("llama", {"num_layers": 10**9}, "num_layers is 1000000000, must be at most 1,000"),
        (
            "llama",
            {"rope_scaling": {"factor": 2.0}},
            "decoder_only model, rope_scaling: it has no field 'low_freq_factor'",
        ),
        (
            "llama",
            {"rope_scaling": [1]},
            "decoder_only model, rope_scaling: expected a JSON object, got list",
        ),
        ("llama", {"rope_theta": -1.0}, "rope_theta is -1.0, must be above 0"),
    ],
)
def test_a_configuration_that_no_network_can_have_is_one_line(name, change, said):
    """All were tracebacks, or were traced for ever."""
    with pytest.raises(UsageError) as caught:
        registry.build(*family_and_config(name, **change))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_stretched_positions_that_stretch_nothing_are_one_line():
    _, config = family_and_config("llama")
    flat = config["rope_scaling"] | {"high_freq_factor": 1.0}
    with pytest.raises(UsageError, match=r"high_freq_factor is 1.0, must be above low_freq_factor = 1.0"):
        registry.build(*family_and_config("llama", rope_scaling=flat))


def test_what_memory_cannot_hold_is_refused_before_anything_is_traced(tmp_path, monkeypatch):
    """Ten billion layers' worth would be traced, and a table of terabytes allocated."""
    name = pair.write(tmp_path / "large", pair.target())
    path = tmp_path / "large" / "model.json"
    card = json.loads(path.read_text())
    card["config"] |= {"emb_dim": 2**20}
    path.write_text(json.dumps(card))
    monkeypatch.setattr(memory, "available", lambda: 8 * 10**9)
    monkeypatch.setattr(jax, "eval_shape", None)
    with pytest.raises(UsageError) as caught:
        pretrained.load(name)
    count = pretrained.network(name, pretrained.read_card(name)).config.num_parameters
    said = f"{name}: a network of {count:,} parameters needs at least {memory.text(4 * count)} of memory"
    assert str(caught.value) == f"{said}, and there are 8.0 GB"
