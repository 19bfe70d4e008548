"""Speculative output at temperature 0 beside autoregressive output, on every test prompt of a task."""

from __future__ import annotations

from benchmarks.measurement import Measurement
from distillspec_jax.data import catalog
from distillspec_jax.data.examples import examples
from distillspec_jax.evaluation.identity import TIE, greedy_differences
from distillspec_jax.models import pretrained

BATCH_SIZES = (1, 8)


def greedy_identity(task: str = "wiki_leads", block_size: int = 5) -> Measurement:
    """The share of prompts whose two outputs are equal up to a float tie; must be 1."""
    target, draft = (pretrained.load(f"zoo:{task}/{role}") for role in ("target", "draft"))
    prompts = [row.prompt for row in examples(task, split="test")]
    longest = catalog.find_task(task).feature_lengths["targets"]
    found = [
        (size, difference)
        for size in BATCH_SIZES
        for difference in greedy_differences(
            target, draft, prompts, block_size=block_size, max_new_tokens=longest, batch_size=size
        )
    ]
    unexplained = sum(not difference.is_tie for _, difference in found)
    ties = [f"batch {size}, row {d.prompt}, token {d.position}: {d.gap:.1e}" for size, d in found if d.is_tie]
    share = 1 - unexplained / len(prompts) / len(BATCH_SIZES)
    what = (
        f"share of the {len(prompts)} test prompts of {task} with equal tokens at T = 0 with and without the "
        f"zoo's draft, block size {block_size}, batches of {BATCH_SIZES}; float ties (top two logits within "
        f"{TIE:.0e}): {'; '.join(ties) or 'none'}"
    )
    return Measurement("greedy_identity", share, share, share, what)
