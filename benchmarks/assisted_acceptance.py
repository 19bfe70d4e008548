"""An exported pair's acceptance in transformers' assisted generation, beside ours."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measurement import Measurement
from distillspec_jax.data.examples import examples
from distillspec_jax.decoding import Engine, SamplingParams, StopOnEos
from distillspec_jax.decoding.drafter_registry import make_drafter
from distillspec_jax.evaluation import paired
from distillspec_jax.evaluation.acceptance import Tally
from distillspec_jax.generation.prompt_format import tokenizer_of
from distillspec_jax.models import pretrained

TASK, PROMPTS, NEW_TOKENS, BLOCK_SIZE = "wiki_leads", 48, 64, 5


@functools.cache
def assisted_acceptance() -> Measurement:
    """The zoo's distilled pair, exported to folders and loaded from them, against itself here.

    Both decode greedily with blocks of a constant size. They part in the last block before the limit, where
    transformers leaves room for a token of the target's; and after a refused draft, since transformers (5.23)
    then feeds an encoder-decoder assistant its whole text once more, behind what its cache kept. Of a
    decoder-only pair the counts are equal but for the last block: tests/interop/test_assisted.py.
    """
    # torch takes seconds to import and is needed nowhere else.
    from benchmarks.transformers_reference import assisted, exported

    names = f"zoo:{TASK}/target", f"zoo:{TASK}/distilled"
    target, draft = map(pretrained.load, names)
    prompts = [list(row.prompt) for row in examples(TASK, split="test", limit=PROMPTS)]
    tokenizer = tokenizer_of(target)
    distribution = SamplingParams(0.0).distribution(tokenizer.vocabulary)
    engine = Engine(
        target.model,
        target.params,
        *make_drafter([draft], vocab_size=tokenizer.vocab_size),
        block_size=BLOCK_SIZE,
        batch_size=8,
        stopping=StopOnEos(tokenizer.eos_ids),
    )
    completions = list(engine.generate(prompts, distribution, NEW_TOKENS, seed=0))
    ours = Tally.of(completions)
    with tempfile.TemporaryDirectory() as folder:
        writer, assistant = (exported(name, Path(folder) / str(i)) for i, name in enumerate(names))
        found = assisted(writer, assistant, prompts, NEW_TOKENS, BLOCK_SIZE)
    equal = sum(list(c.tokens) == text for c, (text, _) in zip(completions, found, strict=True))
    tested_N, accepted_N = (np.array([sum(one[i] for one in rounds) for _, rounds in found]) for i in (0, 1))
    calls = sum(len(rounds) for _, rounds in found)
    same = int(((tested_N == ours.tested_N) & (accepted_N == ours.accepted_N)).sum())
    here, there = paired.ratio(ours.accepted_N, ours.tested_N), paired.ratio(accepted_N, tested_N)
    share = paired.ratio_of_ratios(accepted_N, tested_N, ours.accepted_N, ours.tested_N)
    what = (
        "acceptance in transformers' assisted generation over ours, zoo pair exported to its folders, "
        f"T = 0, blocks of {BLOCK_SIZE}, {NEW_TOKENS} tokens of {PROMPTS} test prompts of {TASK}: there "
        f"{there.value:.4f} of {tested_N.sum()} drafts in {calls} calls, here {here.value:.4f} "
        f"({here.low:.4f} – {here.high:.4f}) of {ours.tested_N.sum()} in {ours.target_calls_N.sum()}; "
        f"{equal} of {PROMPTS} texts equal, counts of {same} prompts equal"
    )
    return Measurement("assisted_acceptance", *share, what)
