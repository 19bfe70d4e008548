"""An exported pair in transformers' assisted generation: it accepts there what it accepts here."""

import dataclasses

import jax
import numpy as np

from benchmarks.transformers_reference import assisted, exported
from distillspec_jax import acceptance
from distillspec_jax.acceptance import Record
from distillspec_jax.decoding import Engine, ModelDrafter, SamplingParams, StopOnEos
from distillspec_jax.model_card import ModelCard
from distillspec_jax.models import registry
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.vocabulary import Vocabulary
from tests import pair, tiny

BLOCK_SIZE, NEW_TOKENS = 4, 18


def test_drafts_are_accepted_there_as_they_are_here(tmp_path):
    """All but the last block, where transformers leaves room for a token of the target's."""
    model = tiny.LLAMA
    target = Pretrained("target", model, tiny.params(model), ModelCard(*registry.describe(model)))
    rng = np.random.default_rng(1)
    near = jax.tree.map(lambda x: x + rng.normal(0, 0.05, x.shape).astype(np.float32), target.params)
    draft = dataclasses.replace(target, params=near)
    prompts = [tiny.tokens(seed, 3 + seed).tolist() for seed in range(6)]
    distribution = SamplingParams(0.0).distribution(Vocabulary(None, (1,), ()))
    options = {"block_size": BLOCK_SIZE, "batch_size": len(prompts), "stopping": StopOnEos(())}
    engine = Engine(model, target.params, ModelDrafter(model), near, **options)
    completions = list(engine.generate(prompts, distribution, NEW_TOKENS, seed=0))

    folders = [pair.write(tmp_path / name, one) for name, one in (("target", target), ("draft", draft))]
    writer, assistant = (exported(folder, tmp_path / f"hf{i}") for i, folder in enumerate(folders))
    found = assisted(writer, assistant, prompts, NEW_TOKENS, BLOCK_SIZE)
    assert [text for text, _ in found] == [list(completion.tokens) for completion in completions]
    ours = acceptance.checked([completion.record for completion in completions])
    theirs = [Record.of_rounds((*one, 0) for one in rounds) for _, rounds in found]
    tested_N, accepted_N = (
        np.array([getattr(a, name) - getattr(b, name) for a, b in zip(ours, theirs, strict=True)])
        for name in ("tested", "accepted")
    )
    assert 0.3 < Record.total(ours).value("acceptance_tested") < 0.95
    assert [record.target_calls for record in ours] == [record.target_calls for record in theirs]
    assert set(tested_N) <= {0, 1}
    assert (accepted_N >= 0).all()
    assert (accepted_N <= tested_N).all()
