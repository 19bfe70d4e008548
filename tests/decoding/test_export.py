"""The sampler lowers for accelerators on a machine that has none."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from distillspec_jax.decoding import (
    AutoregressiveLoop,
    BlockRule,
    CandidatesRule,
    HybridDrafter,
    Loop,
    ModelDrafter,
    PairParams,
    PromptLookup,
    RowSettings,
    SamplingParams,
    SpeculativeLoop,
    State,
    randomness,
)
from distillspec_jax.shapes import Array
from distillspec_jax.vocabulary import Vocabulary
from tests import tiny

MODEL = tiny.T5_1_1
MODEL_DRAFTER = ModelDrafter(MODEL)
SEVERAL = HybridDrafter((MODEL_DRAFTER, PromptLookup(tiny.VOCAB)), 3)
LOOPS: dict[str, tuple[Loop, bool]] = {
    "autoregressive": (AutoregressiveLoop(MODEL), False),
    "token rule": (SpeculativeLoop(MODEL, MODEL_DRAFTER, block_size=3), False),
    "block rule": (SpeculativeLoop(MODEL, MODEL_DRAFTER, BlockRule(), block_size=3), False),
    "several drafters": (SpeculativeLoop(MODEL, SEVERAL, CandidatesRule(), block_size=3), True),
    "decoder-only": (SpeculativeLoop(tiny.LLAMA, ModelDrafter(tiny.LLAMA), block_size=3), False),
}


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("name", LOOPS)
def test_reading_prompts_and_decoding_lower_for(name: str, platform: str) -> None:
    """With parameters as they are prepared there, top-k and top-p, and a temperature a row."""
    loop, several = LOOPS[name]
    model = loop.target
    prepared = jax.eval_shape(model.prepare, tiny.params(model))
    draft = (prepared, None) if several else prepared
    settings = RowSettings(
        keys_B=randomness.row_keys(randomness.seed_key(0), jnp.arange(4)),
        limit_B=jnp.full(4, 9),
        distribution=SamplingParams([0.0, 0.5, 1.0, 1.0], 5, 0.9)
        .distribution(Vocabulary(tiny.VOCAB, (1,), (0,)))
        .for_rows(4),
    )

    def decode(params: PairParams, prompt_BT: Array, settings: RowSettings) -> tuple[Array, Array]:
        state: State = loop.init(params, prompt_BT, settings, 9)
        rows = loop.run(params, state, 32, 1).rows
        return rows.output_BT, rows.emitted_B

    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), settings)
    prompt_BT = jax.ShapeDtypeStruct((4, 8), jnp.int32)
    lowered = jax.export.export(jax.jit(decode), platforms=[platform])(
        PairParams(prepared, draft), prompt_BT, shapes
    )
    assert lowered.platforms == (platform,)
    assert [out.shape for out in lowered.out_avals] == [(4, 9), (4,)]
    assert "stablehlo.while" in lowered.mlir_module()
