"""A draft of some of its target's layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax import checkpoint, model_card
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import draft_shapes
from distillspec_jax.models import layer_subset, pretrained, registry
from distillspec_jax.models.pretrained import Pretrained
from tests import tiny

TOKENIZER = b"a tokenizer"
BATCH = tiny.teacher_batch(tiny.tokens(0, 2, 5), tiny.tokens(1, 2, 6))


def silenced(params, layer):
    """The same network with one decoder layer that adds nothing to what it is given."""

    def silence(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        adds = any(f"/layers_{layer}/{part}" in name for part in ("self_attention/out", "mlp/wo"))
        return (
            jnp.zeros_like(leaf) if adds or f"layers_{layer}/encoder_decoder_attention/out" in name else leaf
        )

    return jax.tree_util.tree_map_with_path(silence, params)


@pytest.mark.parametrize("kind", ["llama", "t5_1_1"])
@pytest.mark.parametrize("kept", [0, 1])
def test_a_draft_computes_what_the_target_does_with_the_other_layers_silenced(kind, kept):
    model = tiny.MODELS[kind]
    params = silenced(tiny.params(model), 1 - kept)
    small = layer_subset.shrink(model, [kept])
    found = tiny.logits(small, layer_subset.take(params, [kept]), BATCH)
    np.testing.assert_allclose(found, tiny.logits(model, params, BATCH), rtol=0, atol=1e-5)


def test_a_draft_is_a_checkpoint_that_goes_with_its_target(tmp_path):
    family, config = registry.describe(tiny.GPT)
    card = model_card.ModelCard(
        family,
        config,
        model_card.fingerprint(TOKENIZER),
        prefix="so: ",
        eos_ids=[3],
        chat={"template": "{{ messages }}"},
    )
    target = Pretrained("target", tiny.GPT, tiny.params(tiny.GPT), card, TOKENIZER)
    pretrained.save(layer_subset.cut(target, [1]), str(tmp_path / "draft"))
    draft = pretrained.load(str(tmp_path / "draft"))
    pretrained.check_pair(target, draft)
    assert layer_subset.num_layers(draft.model) == 1
    assert (draft.card.prefix, draft.card.eos_ids, draft.card.chat) == ("so: ", [3], card.chat)
    assert draft.card.provenance["layers"] == [1]
    jax.tree.map(np.testing.assert_array_equal, draft.params, layer_subset.take(target.params, [1]))
    with pytest.raises(UsageError, match="holds something already"):
        pretrained.save(target, str(tmp_path / "draft"))


@pytest.mark.parametrize("layers", [[], [2], [-1], [1, 0], [0, 0]])
def test_layers_that_are_not_there_are_named(layers):
    with pytest.raises(UsageError, match=r"layers are .*, must be some of 0 to 1, in ascending order"):
        layer_subset.shrink(tiny.LLAMA, layers)


def test_costs_and_gains_follow_from_the_parameters():
    """The Llama's layers are alike, and what is beside them is there once."""
    one, both = draft_shapes.of_layers(tiny.LLAMA, [0]), draft_shapes.of_layers(tiny.LLAMA, [0, 1])
    layer = checkpoint.count_parameters(tiny.params(tiny.LLAMA)["decoder"]["layers_0"])
    assert both.parameters - one.parameters == layer
    assert one.cost_ratio == pytest.approx(1 - layer / both.parameters)
    assert both.cost_ratio == 1
    # As dear as the target, a draft of blocks of one gains (1 + α) / 2, and more of them less.
    assert [size for size, _ in both.mbsu] == [1] * len(draft_shapes.ACCEPTANCE)
    np.testing.assert_allclose([gain for _, gain in both.mbsu], (1 + np.array(draft_shapes.ACCEPTANCE)) / 2)


def test_the_library_goes_from_one_layer_to_a_quarter(monkeypatch):
    monkeypatch.setattr(layer_subset, "num_layers", lambda model: 24)
    monkeypatch.setattr(draft_shapes, "of_layers", lambda model, layers, listed, rank: layers)
    assert draft_shapes.library(tiny.LLAMA) == [
        (0,),
        (0, 23),
        (0, 12, 23),
        (0, 1, 23),
        (0, 8, 15, 23),
        (0, 1, 22, 23),
        (0, 5, 9, 14, 18, 23),
        (0, 1, 2, 21, 22, 23),
    ]
