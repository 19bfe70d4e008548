"""The package in a few verbs; `import distillspec_jax as ds` finds them on the top level.

target, draft = ds.load("zoo:wiki_leads/target"), ds.load("zoo:wiki_leads/draft")
print(ds.generate(target, ["Some text."], drafter=draft)[0].outputs)
better = ds.distill(target, draft, task="wiki_leads", output="runs/better", steps=200)
rows = ds.sweep(target, {"before": draft, "after": better}, task="wiki_leads", output="runs/sweep")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillspec_jax import acceptance
from distillspec_jax.acceptance import Record
from distillspec_jax.decoding import drafter_registry
from distillspec_jax.errors import UsageError, find
from distillspec_jax.evaluation import paired, results
from distillspec_jax.evaluation.paired import Interval
from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.generation.prompt_format import prompt_format
from distillspec_jax.generation.text_generator import Generation, TextGenerator
from distillspec_jax.models import pretrained
from distillspec_jax.models.pretrained import Pretrained, load
from distillspec_jax.partitioning import own_meshes

if TYPE_CHECKING:
    from distillspec_jax.data.data_config import DataConfig
    from distillspec_jax.distillation.divergences import Divergence
    from distillspec_jax.distillation.sources import DataSource

__all__ = [
    "Generation",
    "Interval",
    "Pretrained",
    "ResultRow",
    "UsageError",
    "compare",
    "distill",
    "generate",
    "interval",
    "load",
    "read_results",
    "sweep",
]

Model = str | Pretrained


def _loaded(model: Model) -> Pretrained:
    return load(model) if isinstance(model, str) else model


@own_meshes
def generate(
    target: Model,
    texts: Sequence[str],
    *,
    drafter: Model | Sequence[Model] | None = None,
    block_size: int | str = 5,
    rule: str = "token",
    epsilon: float | None = None,
    candidates: int = 1,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    max_new_tokens: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    task: str | None = None,
    prefix: str | None = None,
    stop: Sequence[str] = (),
    truncate_inputs: bool = False,
    chat: bool = False,
) -> list[Generation]:
    """Completes texts with `target`, sped up by `drafter` if there is one; the distribution is the target's.

    Args:
      target, drafter: loaded models, directories or `zoo:NAME`; `lookup` drafts without a model; several
        drafters lay their blocks side by side.
      block_size: drafts a round, or `auto`; rule, epsilon, candidates: how they are verified; see
        `decoding.rules`.
      stop: strings that end an output, which is cut before them.
      texts: raw inputs; `task` or `prefix` override the prefix that the target brings;
        `chat` wraps them in its chat template.

    Returns:
      One `Generation` a text, in order.

    Raises:
      UsageError: no such model, task or rule, an impossible value, a text that is too long, no tokenizer or
        chat template, or a draft of another vocabulary.
    """
    model = _loaded(target)
    drafters = [drafter] if isinstance(drafter, (str, Pretrained)) else drafter or ()
    generator = TextGenerator(
        model,
        [drafter_registry.load(one) for one in drafters],
        form=prompt_format(model, task=task, prefix=prefix, truncate=truncate_inputs, chat=chat),
        block_size=block_size,
        rule=rule,
        epsilon=epsilon,
        candidates=candidates,
        batch_size=batch_size,
        stop=stop,
    )
    return list(
        generator.stream(
            texts, temperature=temperature, top_k=top_k, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed
        )
    )


@own_meshes
def distill(
    target: Model,
    draft: Model,
    *,
    task: str | None = None,
    data: DataConfig | None = None,
    output: str,
    steps: int = 200,
    batch_size: int = 24,
    divergence: str | Divergence = "fkl",
    source: str | DataSource | None = None,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> Pretrained:
    """Distils `draft` from `target` on a task's prompts and loads the result.

    Args:
      target, draft: as in `generate`; loaded ones are read again from where they came.
      task: an embedded or registered task, or a mixture; `data.tasks.jsonl_task` registers files of your own.
      data: in its place, a `data.data_config.DataConfig`: other lengths, a stored set of the target's texts.
      output: checkpoint directory to write; an unfinished run there is resumed.
      steps, batch_size, learning_rate: of AdamW, with a short warm-up and a cosine cool-down.
      divergence: a name in `distillation.divergences.DIVERGENCES`, or a value, as `JensenShannon(beta=0.1)`.
      source: a name in `distillation.sources.SOURCES`, or a value; by default the draft's own samples, or the
        stored texts.
      seed: of the order of rows, and of all draws.

    Returns:
      The distilled draft, as `output` now holds it.

    Raises:
      UsageError: both or neither of task and data, no such model, task, divergence or source, an impossible
        value, a draft of another vocabulary, or an `output` that holds another run.
      Preempted: SIGTERM or ^C, after a save; the same call goes on (`training.preemption`).
    """
    from distillspec_jax.data.data_config import DataConfig
    from distillspec_jax.distillation import distill as job_module
    from distillspec_jax.training import optimizers
    from distillspec_jax.training.loop import LoopConfig

    if data is None and task is not None:
        data = DataConfig(task)
    elif data is None or task is not None:
        raise UsageError("distill: give either task or data")
    directory = job_module.distill(
        target if isinstance(target, str) else target.name,
        draft if isinstance(draft, str) else draft.name,
        output,
        data,
        LoopConfig(total_steps=steps, batch_size=batch_size, seed=seed, log_period=10, save_period=100),
        divergence=divergence,
        source=source,
        optimizer=optimizers.adamw(optimizers.warmup_cosine(learning_rate, steps, warmup_steps=20)),
    )
    return pretrained.load(str(directory))


@own_meshes
def sweep(
    target: Model,
    drafters: Mapping[str, Model],
    *,
    task: str | None = None,
    output: str,
    **options: Any,
) -> list[ResultRow]:
    """Block size × temperature for every drafter, paired with autoregressive decoding in the same run.

    Args:
      drafters: label to model, or to `lookup`.
      task: whose held-out rows are the prompts; a `zoo:TASK/...` target names its own. Files of your own need
        none: `inputs="prompts.jsonl"`; beside one, its prefix and lengths are used.
      output: folder for `results.jsonl`; cells that are there already are not run again.
      options: see `evaluation.sweep.sweep`.

    Returns:
      A `ResultRow` a cell; `to_json` gives its line of `results.jsonl`.

    Raises:
      UsageError: neither a task nor `inputs`, no such model or task, an impossible value, drafts of
        another vocabulary, or a bad line in a file.
    """
    from distillspec_jax.evaluation import sweep as sweep_module

    return sweep_module.sweep(target, drafters, task=task, output_dir=output, **options)


def read_results(*paths: str | Path) -> list[ResultRow]:
    """Reads the rows of some `results.jsonl`, in their order.

    Raises:
      UsageError: an unreadable file, a malformed line, by file and line; no rows.
    """
    return results.read(paths)


Outputs = ResultRow | Sequence[Generation]
"""A cell of a sweep, or the texts of one call of `generate`."""


def interval(outputs: Outputs, ratio: str = "block_efficiency") -> Interval:
    """Computes a ratio of counts with its 95 % interval over prompts; `f"{interval:.2f}"` writes both.

    Args:
      outputs: a row of a sweep, or texts.
      ratio: `block_efficiency`, `acceptance_tested`, `acceptance_drafted`, `accepted_length` or `overlap`
        (`docs/acceptance.md`).

    Returns:
      Value and ends, which are NaN for fewer than five prompts.

    Raises:
      UsageError: an unknown ratio, or no texts.
    """
    find("ratio", ratio, acceptance.RATIOS)
    return paired.of_records(_records(outputs), ratio)


def compare(ours: Outputs, theirs: Outputs, ratio: str = "block_efficiency") -> Interval:
    """Divides a ratio of counts of one system by that of another on the same prompts, paired by prompt.

    Args:
      ours, theirs: rows of a sweep, or texts of `generate`, of the same prompts in the same order.
      ratio: as in `interval`.

    Returns:
      The quotient with its 95 % interval, NaN where a count is not known. A quotient whose interval
      excludes 1 is a difference.

    Raises:
      UsageError: an unknown ratio, no texts, or other prompts.
    """
    find("ratio", ratio, acceptance.RATIOS)
    if _prompts(ours) != _prompts(theirs):
        raise UsageError("compare: the two are of different prompts; only the same ones pair")
    return paired.quotient_of_records(_records(ours), _records(theirs), ratio)


def _records(outputs: Outputs) -> list[Record]:
    if isinstance(outputs, ResultRow):
        return outputs.per_prompt.records
    if not outputs:
        raise UsageError("no texts to count")
    return [generation.record for generation in outputs]


def _prompts(outputs: Outputs) -> object:
    """Equal for outputs of the same prompts."""
    if isinstance(outputs, ResultRow):
        return outputs.task, outputs.prompts_digest, outputs.prompts
    return [generation.inputs for generation in outputs]
