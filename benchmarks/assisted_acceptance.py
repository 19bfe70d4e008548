"""An exported pair's acceptance in transformers' assisted generation, beside ours."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measurement import Measurement
from distillspec_jax import acceptance
from distillspec_jax.acceptance import Record
from distillspec_jax.data.examples import examples
from distillspec_jax.decoding import Engine, SamplingParams, StopOnEos
from distillspec_jax.decoding.drafter_registry import make_drafter
from distillspec_jax.evaluation import paired
from distillspec_jax.generation.prompt_format import tokenizer_of
from distillspec_jax.models import pretrained

TASK, PROMPTS, NEW_TOKENS, BLOCK_SIZE = "wiki_leads", 48, 64, 5


@functools.cache
def assisted_acceptance() -> Measurement:
    """The zoo's distilled pair, exported to folders and loaded from them, against itself here."""
    prompts = [list(row.prompt) for row in examples(TASK, split="test", limit=PROMPTS)]
    names = f"zoo:{TASK}/target", f"zoo:{TASK}/distilled"
    where = f"zoo pair exported to its folders, T = 0, {PROMPTS} test prompts of {TASK}"
    return beside_ours(names, prompts, NEW_TOKENS, BLOCK_SIZE, where)


def beside_ours(
    names: tuple[str, str], prompts: Sequence[list[int]], new_tokens: int, block_size: int, where: str
) -> Measurement:
    """Any pair, exported to folders and loaded from them, against itself here.

    Both decode greedily with blocks of a constant size. They part in the last block before the limit, where
    transformers leaves room for a token of the target's; and after a refused draft, since transformers (5.23)
    then feeds an encoder-decoder assistant its whole text once more, behind what its cache kept. Of a
    decoder-only pair the counts are equal but for the last block: tests/interop/test_assisted.py.
    """
    # torch takes seconds to import and is needed nowhere else.
    from benchmarks.transformers_reference import assisted, exported

    target, draft = map(pretrained.load, names)
    tokenizer = tokenizer_of(target)
    distribution = SamplingParams(0.0).distribution(tokenizer.vocabulary)
    engine = Engine(
        target.model,
        target.params,
        *make_drafter([draft], vocab_size=tokenizer.vocab_size),
        block_size=block_size,
        batch_size=8,
        stopping=StopOnEos(tokenizer.eos_ids),
    )
    completions = list(engine.generate(prompts, distribution, new_tokens, seed=0))
    ours = acceptance.checked([completion.record for completion in completions])
    with tempfile.TemporaryDirectory() as folder:
        writer, assistant = (exported(name, Path(folder) / str(i)) for i, name in enumerate(names))
        found = assisted(writer, assistant, prompts, new_tokens, block_size)
    equal = sum(list(c.tokens) == text for c, (text, _) in zip(completions, found, strict=True))
    theirs = [
        Record.of_rounds((*one, 0) for one in rounds) for _, rounds in found
    ]  # no text of theirs is counted
    same = sum((a.tested, a.accepted) == (b.tested, b.accepted) for a, b in zip(ours, theirs, strict=True))
    here, there = (paired.of_records(records, "acceptance_tested") for records in (ours, theirs))
    accepted_N, tested_N, our_accepted_N, our_tested_N = (
        [getattr(record, name) for record in records]
        for records in (theirs, ours)
        for name in ("accepted", "tested")
    )
    share = paired.ratio_of_ratios(accepted_N, tested_N, our_accepted_N, our_tested_N)
    total, own = Record.total(theirs), Record.total(ours)
    what = (
        f"acceptance in transformers' assisted generation over ours, {where}, blocks of {block_size}, "
        f"{new_tokens} tokens: there "
        f"{there.value:.4f} of {total.tested} drafts in {total.target_calls} calls, here {here.value:.4f} "
        f"({here.low:.4f} – {here.high:.4f}) of {own.tested} in {own.target_calls}; "
        f"{equal} of {len(prompts)} texts equal, counts of {same} prompts equal"
    )
    return Measurement("assisted_acceptance", *share, what)
