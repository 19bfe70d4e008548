"""The main functions of the package, which `import distillspec_jax as ds` provides at the top level.

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
from distillspec_jax.errors import UsageError, find, shown
from distillspec_jax.evaluation import paired, results
from distillspec_jax.evaluation.paired import Clusters, Interval
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
    """Completes texts with `target`, optionally sped up by `drafter`; exact rules keep its distribution.

    Args:
      target, drafter: loaded models, directories or `zoo:NAME`; `lookup` drafts without a model; several
        drafters offer their candidate blocks together.
      block_size: drafts per round, or `auto`; rule, epsilon, candidates: how they are verified; see
        `decoding.rules`.
      stop: strings that end an output, which is cut before them.
      texts: raw inputs; `task` or `prefix` override the target's own prefix; `chat` wraps the texts in its
        chat template.

    Returns:
      One `Generation` per text, in order.

    Raises:
      UsageError: there is no such model, task or rule; a value is invalid; a text is too long; there is no
        tokenizer or chat template; or a draft has a different vocabulary.
    """
    if isinstance(texts, str):
        raise UsageError("texts is one text: give a list of them, [text]")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UsageError(f"texts[{number}] is {shown(text)}: must be a text")
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
      target, draft: as in `generate`; loaded models are read again from their directories.
      task: an embedded or registered task, or a mixture; `data.tasks.jsonl_task` registers your own files.
      data: alternative to `task`, a `data.data_config.DataConfig`, e.g. for other lengths or a stored set of
        the target's texts.
      output: checkpoint directory to write; an unfinished run there is resumed.
      steps, batch_size, learning_rate: settings of AdamW, with a short warm-up and a cosine decay.
      divergence: a name in `distillation.divergences.DIVERGENCES`, or an instance such as
        `JensenShannon(beta=0.1)`.
      source: a name in `distillation.sources.SOURCES`, or an instance; by default the draft's own samples, or
        the stored texts.
      seed: seed of the order of rows and of all draws.

    Returns:
      The distilled draft, loaded from `output`.

    Raises:
      UsageError: both or neither of task and data are given; there is no such model, task, divergence or
        source; a value is invalid; the draft has a different vocabulary; or `output` holds another run.
      Preempted: SIGTERM or ^C, after a save; the same call continues the run (`training.preemption`).
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
    """Sweeps block size × temperature for every drafter, paired with autoregressive decoding in the same run.

    Args:
      drafters: maps labels to models, or to `lookup`.
      task: its held-out rows are the prompts; the default for a `zoo:TASK/...` target is its task. Your own
        files do not need a task: `inputs="prompts.jsonl"`; with both, the task gives prefix and lengths.
      output: folder for `results.jsonl`; cells that already exist are not run again.
      options: see `evaluation.sweep.sweep`.

    Returns:
      One `ResultRow` per cell; `to_json` gives its line of `results.jsonl`.

    Raises:
      UsageError: there is neither a task nor `inputs`; there is no such model or task; a value is invalid;
        a draft has a different vocabulary; or a file has a malformed line.
    """
    from distillspec_jax.evaluation import sweep as sweep_module

    if not isinstance(drafters, Mapping):
        raise UsageError("drafters: give a mapping of labels to models, {'draft': model}")
    for name in ("block_sizes", "temperatures", "rules", "batch_sizes"):
        if isinstance(options.get(name, ()), (str, int, float)):
            raise UsageError(f"{name} is {options[name]!r}: give a list, [{options[name]!r}]")
    return sweep_module.sweep(target, drafters, task=task, output_dir=output, **options)


def read_results(*paths: str | Path) -> list[ResultRow]:
    """Reads the rows of some `results.jsonl` files, in order.

    Raises:
      UsageError: a file is unreadable, a line is malformed (names file and line), or there are no rows.
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
      The value and the interval's ends, which are NaN for fewer than five different prompts.

    Raises:
      UsageError: the ratio is unknown, or there are no texts.
    """
    find("ratio", ratio, acceptance.RATIOS)
    return paired.of_records(_records(outputs), ratio, clusters=_clusters(outputs))


def compare(ours: Outputs, theirs: Outputs, ratio: str = "block_efficiency") -> Interval:
    """Divides one system's ratio of counts by another's on the same prompts, paired by prompt.

    Args:
      ours, theirs: rows of a sweep, or results of `generate`, for the same prompts in the same order.
      ratio: as in `interval`.

    Returns:
      The quotient with its 95 % interval, NaN if a count is unknown. The systems differ significantly if the
      interval excludes 1.

    Raises:
      UsageError: the ratio is unknown, there are no texts, or the prompts differ.
    """
    find("ratio", ratio, acceptance.RATIOS)
    if _prompts(ours) != _prompts(theirs):
        raise UsageError("compare: the two are of different prompts; only the same ones pair")
    return paired.quotient_of_records(_records(ours), _records(theirs), ratio, clusters=_clusters(ours))


def _records(outputs: Outputs) -> list[Record]:
    if isinstance(outputs, ResultRow):
        return outputs.per_prompt.records
    if not outputs:
        raise UsageError("no texts to count")
    return [generation.record for generation in outputs]


def _clusters(outputs: Outputs) -> Clusters:
    """Labels the prompts; texts of one prompt depend on each other."""
    if isinstance(outputs, ResultRow):
        return outputs.per_prompt.cluster
    return [generation.inputs for generation in outputs]


def _prompts(outputs: Outputs) -> object:
    """Returns a value that is equal for outputs of the same prompts."""
    if isinstance(outputs, ResultRow):
        return outputs.task, outputs.prompts_digest, outputs.prompts
    return [generation.inputs for generation in outputs]
