"""Block size × temperature for any number of drafters, paired with autoregressive decoding in one run."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

import distillspec_jax
from distillspec_jax import checkpoint
from distillspec_jax.data.tokenizer import Tokenizer
from distillspec_jax.decoding import Engine, ModelDrafter, SamplingLaw, StopOnEos, sampling_law
from distillspec_jax.decoding.text import tokenizer_of
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import cells, fingerprints, prompts, quality, results
from distillspec_jax.evaluation.cells import NO_DRAFTER, Measured, Workload
from distillspec_jax.evaluation.prompts import PromptSet
from distillspec_jax.evaluation.results import Row
from distillspec_jax.models import pretrained, zoo
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.shapes import Params

RESULTS = "results.jsonl"
_PROMPT_BUCKET = 32


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a sweep is; told before each group of cells and after each row.

    Attributes:
      done, total: cells, those found in the results file included.
      doing: what is measured now, in words.
      row: the row just finished, or None.
    """

    done: int
    total: int
    doing: str
    row: Row | None = None


@dataclasses.dataclass(frozen=True)
class Cell:
    """A point of the grid; `NO_DRAFTER` with block size 0 is the baseline."""

    drafter: str
    block_size: int
    temperature: float


def sweep(
    target: str | Pretrained,
    drafters: Mapping[str, str | Pretrained],
    *,
    output_dir: str | Path,
    task: str | None = None,
    split: str = "test",
    inputs: str | Path | None = None,
    metric: str = "none",
    limit: int | None = 64,
    block_sizes: Sequence[int] = (1, 3, 5, 7),
    temperatures: Sequence[float] = (0.0, 1.0),
    top_k: int = 0,
    top_p: float = 1.0,
    batch_size: int = 1,
    max_new_tokens: int | None = None,
    seed: int = 0,
    timing_prompts: int = 16,
    repeats: int = 2,
    measure_overlap: bool = False,
    assume_same_vocabulary: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> list[Row]:
    """Measures every cell of the grid and appends it to `output_dir/results.jsonl`.

    A cell that the file holds already, measured with the same models, prompts and settings on the same kind
    of device, is not measured again: an interrupted sweep goes on where it stopped.

    Args:
      target: the model whose law the outputs follow.
      drafters: label to draft model; the labels appear in every table.
      output_dir: made if it does not exist.
      task, split: whose held-out rows are the prompts; a `zoo:TASK/...` target names its task by itself.
      inputs: a JSONL file of prompts in place of a task; `metric` then says how to score its `targets`.
      limit: the first so many prompts; None takes all.
      block_sizes: drafts a round.
      temperatures, top_k, top_p: the sampling laws; 0 is greedy.
      batch_size: prompts decoded together, timed and untimed alike.
      max_new_tokens: longest output, EOS included; the task's target length by default.
      seed: of all draws, the same for every cell.
      timing_prompts: the first so many prompts are timed in turns with the baseline; 0 times nothing.
      repeats: runs of each timed batch, the fastest of which counts.
      measure_overlap: also record sum_v min(p, q) at the tested positions, in a second, untimed decoding of
        the same draws (recording it slows a small pair by a tenth or more).
      assume_same_vocabulary: vouch for a pair of which one tokenizer is unknown.
      progress: called as cells get done.

    Returns:
      The rows of this grid, baseline first for every temperature, whether measured now or found.

    Raises:
      UsageError: an impossible value, unknown task or model, drafts of another vocabulary, a bad line in
        the prompts or in the results file, a full disk.
    """
    temperatures = [float(temperature) for temperature in temperatures]
    _check_grid(drafters, block_sizes, temperatures)
    for temperature in temperatures:
        sampling_law(temperature, top_k, top_p)  # refuses what is impossible before anything is loaded
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("repeats", repeats, 1),
        ("timing_prompts", timing_prompts, 0),
        ("seed", seed, 0),
        ("max_new_tokens", 1 if max_new_tokens is None else max_new_tokens, 1),
        ("limit", 1 if limit is None else limit, 1),
    ):
        _at_least(name, value, least)

    path = Path(output_dir) / RESULTS
    before = results.reopen(path)
    target = _loaded(target)
    drafts = {label: _loaded(model) for label, model in drafters.items()}
    for draft in drafts.values():
        pretrained.check_pair(target, draft, assume_same_vocabulary)
    prompt_set = _prompt_set(target, task, split, inputs, metric, limit)
    workload = Workload(
        prompts=prompt_set.prompts,
        max_new_tokens=max_new_tokens or prompt_set.max_new_tokens,
        batch_size=batch_size,
        timed_prompts=timing_prompts,
        repeats=repeats,
        seed=seed,
    )
    grid = _Grid(
        target=target,
        drafts=drafts,
        cells=_grid_cells(drafts, block_sizes, temperatures),
        top_k=top_k,
        top_p=top_p,
        prompt_set=prompt_set,
        workload=workload,
        measure_overlap=measure_overlap,
        path=path,
        tell=progress or (lambda _: None),
    )
    return grid.run(before)


@dataclasses.dataclass(frozen=True)
class _Grid:
    """A sweep whose arguments are known to be good."""

    target: Pretrained
    drafts: Mapping[str, Pretrained]
    cells: Sequence[Cell]
    top_k: int
    top_p: float
    prompt_set: PromptSet
    workload: Workload
    measure_overlap: bool
    path: Path
    tell: Callable[[Progress], None]
    rows: dict[Cell, Row] = dataclasses.field(default_factory=dict)

    def run(self, before: Sequence[Row]) -> list[Row]:
        found = {row.get("fingerprint"): row for row in before}
        self.rows.update({c: found[f] for c, f in self._fingerprints.items() if f in found})
        temperatures = list(dict.fromkeys(cell.temperature for cell in self.cells))
        for temperature in temperatures:
            self._run_baseline(Cell(NO_DRAFTER, 0, temperature))
        # By block size first: that is what compiles.
        for block_size in sorted({cell.block_size for cell in self.cells} - {0}):
            for temperature in temperatures:
                self._run_group(block_size, temperature)
        return [self.rows[cell] for cell in self.cells]

    def _run_baseline(self, cell: Cell) -> None:
        if cell in self.rows:
            return
        self._announce(f"no draft, T = {cell.temperature:g}")
        law = self._law(cell.temperature)
        once = dataclasses.replace(self.workload, repeats=1)  # every group below times it again
        timed = cells.in_turns([self._baseline], law, once)[0]
        measured = cells.completed(timed, self._baseline, law, self.workload)
        self._write(cell, cells.autoregressive_row(measured, self._quality(measured)))

    def _run_group(self, block_size: int, temperature: float) -> None:
        """All drafters at one block size and temperature, timed in turns with the baseline."""
        group = [c for c in self.cells if (c.block_size, c.temperature) == (block_size, temperature)]
        missing = [cell for cell in group if cell not in self.rows]
        if not missing:
            return
        labels = ", ".join(cell.drafter for cell in missing)
        self._announce(f"block size {block_size}, T = {temperature:g}: {labels}")
        law = self._law(temperature)
        engines = [self._engine(self.drafts[cell.drafter], block_size) for cell in missing]
        baseline, *timed = cells.in_turns([self._baseline, *engines], law, self.workload)
        for cell, engine, part in zip(missing, engines, timed, strict=True):
            if self.measure_overlap:
                recorder = self._engine(self.drafts[cell.drafter], block_size, measure_overlap=True)
                measured = cells.again(part, recorder, law, self.workload)
            else:
                measured = cells.completed(part, engine, law, self.workload)
            ratio = _bytes(self.drafts[cell.drafter].params) / _bytes(self.target.params)
            row = cells.drafted_row(
                cell.drafter, block_size, ratio, measured, baseline, self._quality(measured)
            )
            self._write(cell, row)

    def _law(self, temperature: float) -> SamplingLaw:
        vocabulary = self._tokenizer
        return sampling_law(
            temperature,
            self.top_k,
            self.top_p,
            vocab_size=vocabulary.vocab_size,
            excluded_ids=vocabulary.padding_ids,
        )

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        return tokenizer_of(self.target)

    @functools.cached_property
    def _baseline(self) -> Engine:
        return self._engine(None, 1)

    def _engine(self, draft: Pretrained | None, block_size: int, measure_overlap: bool = False) -> Engine:
        longest = max(map(len, self.workload.prompts))
        return Engine(
            self.target.model,
            self.target.params,
            None if draft is None else ModelDrafter(draft.model),
            None if draft is None else draft.params,
            stopping=StopOnEos(self._tokenizer.eos_ids),
            block_size=block_size,
            batch_size=self.workload.batch_size,
            # One width for all prompts: each loop compiles once.
            prompt_bucket=-(-longest // _PROMPT_BUCKET) * _PROMPT_BUCKET,
            measure_overlap=measure_overlap,
        )

    def _quality(self, measured: Measured) -> quality.Quality | None:
        return quality.score(self.prompt_set, measured.completions, self._tokenizer)

    @functools.cached_property
    def _settings(self) -> Row:
        """What all rows of this sweep share and what decides their numbers."""
        return {
            "schema_version": results.SCHEMA_VERSION,
            "task": self.prompt_set.task,
            "split": self.prompt_set.split,
            "target": self.target.name,
            "verifier": "token",
            "top_k": self.top_k,
            "top_p": self.top_p,
            "batch_size": self.workload.batch_size,
            "seed": self.workload.seed,
            "prompts": len(self.workload.prompts),
            "prompts_digest": self.prompt_set.fingerprint,
            "max_new_tokens": self.workload.max_new_tokens,
            "timing_prompts": self.workload.timed_prompts,
            "repeats": self.workload.repeats,
            "device": device(),
            "version": distillspec_jax.__version__,
        }

    @functools.cached_property
    def _fingerprints(self) -> dict[Cell, str]:
        """A name for all that a cell's numbers depend on."""
        target = fingerprints.of_params(self.target.params)
        drafts = {label: fingerprints.of_params(draft.params) for label, draft in self.drafts.items()}
        fixed = [self._settings, target, self.measure_overlap]
        return {
            cell: fingerprints.of_json([fixed, drafts.get(cell.drafter), dataclasses.astuple(cell)])
            for cell in self.cells
        }

    @functools.cached_property
    def _provenance(self) -> Row:
        return checkpoint.provenance()

    def _write(self, cell: Cell, measured: Row) -> None:
        draft = self.drafts.get(cell.drafter)
        row = {
            **self._settings,
            "temperature": cell.temperature,
            "drafter_path": None if draft is None else draft.name,
            **measured,
            "matches_autoregressive": self._matches(cell, measured),
            **self._provenance,
            "fingerprint": self._fingerprints[cell],
        }
        results.append(self.path, row)
        self.rows[cell] = row
        self._announce("", row)

    def _matches(self, cell: Cell, measured: Row) -> int | None:
        """At temperature 0, how many prompts have the baseline's very tokens."""
        if cell.temperature != 0:
            return None
        baseline = self.rows.get(Cell(NO_DRAFTER, 0, 0.0), measured)
        pairs = zip(
            measured["per_prompt"]["output_digest"], baseline["per_prompt"]["output_digest"], strict=True
        )
        return sum(ours == theirs for ours, theirs in pairs)

    def _announce(self, doing: str, row: Row | None = None) -> None:
        self.tell(Progress(len(self.rows), len(self.cells), doing, row))


def device() -> str:
    """What this process computes on, in words."""
    devices = jax.devices()
    kind = devices[0].device_kind
    return f"{devices[0].platform}: {len(devices)} × {kind}, {os.cpu_count()} CPU cores"


def _grid_cells(
    drafters: Mapping[str, Any], block_sizes: Sequence[int], temperatures: Sequence[float]
) -> list[Cell]:
    grid = []
    for temperature in temperatures:
        grid.append(Cell(NO_DRAFTER, 0, temperature))
        grid += [Cell(label, size, temperature) for label in drafters for size in block_sizes]
    return grid


def _check_grid(
    drafters: Mapping[str, Any], block_sizes: Sequence[int], temperatures: Sequence[float]
) -> None:
    if NO_DRAFTER in drafters:
        raise UsageError(f"drafter label {NO_DRAFTER!r} means decoding without a draft: choose another label")
    for name, values in (("block_sizes", block_sizes), ("temperatures", temperatures)):
        if not values and (drafters or name == "temperatures"):
            raise UsageError(f"{name} is empty, need at least one")
        if len(set(values)) != len(values):
            raise UsageError(f"{name} is {list(values)}: a value occurs twice")
    for block_size in block_sizes:
        _at_least("block_size", block_size, 1)


def _at_least(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name} is {value!r}, must be a whole number of at least {least}")


def _prompt_set(
    target: Pretrained,
    task: str | None,
    split: str,
    inputs: str | Path | None,
    metric: str,
    limit: int | None,
) -> PromptSet:
    if inputs is not None:
        if task is not None:
            raise UsageError("give a task or a file of inputs, not both")
        return prompts.from_file(target, inputs, limit, metric)
    task = task or zoo.task_of(target.name)
    if task is None:
        raise UsageError(f"{target.name} speaks of no task: name one, or give a file of inputs")
    return prompts.from_task(target, task, split, limit)


def _loaded(model: str | Pretrained) -> Pretrained:
    return pretrained.load(model) if isinstance(model, str) else model


def _bytes(params: Params) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(params))
