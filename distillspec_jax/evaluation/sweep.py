"""Measures a grid of cells for several drafters, paired with autoregressive decoding in the same run."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from distillspec_jax import bounds, outputs, provenance, shards
from distillspec_jax.decoding import (
    Engine,
    SamplingDistribution,
    SamplingParams,
    StopOnEos,
    drafter_registry,
)
from distillspec_jax.decoding.drafter_registry import NamedDraft, make_drafter
from distillspec_jax.evaluation import grid, measured, prompts, results, rows
from distillspec_jax.evaluation.grid import Cell
from distillspec_jax.evaluation.measured import Measured, Workload, failures
from distillspec_jax.evaluation.prompts import PromptSet
from distillspec_jax.evaluation.result_row import NO_DRAFTER, SCHEMA_VERSION, ResultRow
from distillspec_jax.generation.prompt_format import tokenizer_of
from distillspec_jax.models import fingerprints, pretrained
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.tokenization.tokenizer import Tokenizer
from distillspec_jax.version import __version__

RESULTS = results.RESULTS
_PROMPT_BUCKET = 32


@dataclasses.dataclass(frozen=True)
class SweepProgress:
    """Progress of a sweep, reported before each group of cells, after each row, and when prompts fail.

    Attributes:
      done, total: numbers of cells, including those found in the results file.
      doing: description of the current measurement.
      row: the row just finished, or None.
    """

    done: int
    total: int
    doing: str
    row: ResultRow | None = None


@outputs.one_run
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
    chat: bool = False,
    truncate_inputs: bool = False,
    block_sizes: Sequence[int] = (1, 3, 5, 7),
    temperatures: Sequence[float] = (0.0, 1.0),
    rules: Sequence[str] = ("token",),
    batch_sizes: Sequence[int] = (1,),
    top_k: int = 0,
    top_p: float = 1.0,
    max_new_tokens: int | None = None,
    seed: int = 0,
    timing_prompts: int = 16,
    repeats: int = 2,
    measure_overlap: bool = False,
    assume_same_vocabulary: bool = False,
    dtype: str | None = None,
    shard: str | None = None,
    progress: Callable[[SweepProgress], None] | None = None,
) -> list[ResultRow]:
    """Measures every cell of the grid and appends it to `output_dir/results.jsonl`.

    A cell that is already in the file, measured with the same models, prompts and settings on the same kind
    of device, is not measured again, so an interrupted sweep resumes where it stopped.

    Args:
      target: the model whose distribution the outputs follow.
      drafters: maps a label to a draft model, or to the name of a drafter without a model (`lookup`, see
        `decoding.drafter_registry`); the labels appear in every table.
      output_dir: created if it does not exist.
      task, split: their held-out rows are the prompts; a `zoo:TASK/...` target implies its task.
      inputs: a JSONL file of prompts instead of a task's; they get the prefix of `task` if given.
        `metric` scores the file's `targets`.
      limit: use only the first prompts; None: all.
      chat: wrap prompts in the target's chat template.
      truncate_inputs: truncate `inputs` that are too long; a task's always are.
      block_sizes: drafts per round.
      temperatures, top_k, top_p: the sampling distributions; 0 is greedy.
      rules: how drafts are verified, `NAME` or `NAME:EPSILON` (see `decoding.rules`).
      batch_sizes: prompts decoded together, both timed and untimed.
      max_new_tokens: maximum output length, including EOS; default: the task's target length.
      seed: of all draws, the same for every cell.
      timing_prompts: time this many prompts, from the first, alternately with the baseline; 0: none.
      repeats: runs of each timed batch; the fastest counts.
      measure_overlap: also record sum_v min(p, q) at the tested positions, in a second, untimed decoding of
        the same draws (recording it slows a small pair by a tenth or more).
      assume_same_vocabulary: assert that vocabularies agree although a tokenizer is unknown.
      dtype: of the models given by name, see `pretrained.load`.
      shard: `I/N`, see `shards.parse`: measure the I-th of N shares of the grid's groups of cells (a block
        size at a temperature with all drafters, or a baseline); `result_shards.merge_rows`
        merges them.
      progress: called as cells finish.

    Returns:
      The rows of this grid, baseline first for each temperature, whether measured now or found.

    Raises:
      UsageError: a value out of range, an unknown task or model, drafts of another vocabulary, a malformed
        line of prompts or results, a target whose logits are never finite, or a full disk.
      Unavailable: another sweep is writing to `output_dir`.
    """
    points = grid.cells(drafters, block_sizes, list(map(float, temperatures)), rules, batch_sizes)
    for cell in points:
        SamplingParams(cell.temperature, top_k, top_p)  # rejects invalid values before anything is loaded
    for name, value, least, most in (
        ("repeats", repeats, 1, bounds.REPEATS),
        ("timing_prompts", timing_prompts, 0, bounds.COUNT),
        ("seed", seed, 0, bounds.SEED),
        ("max_new_tokens", 1 if max_new_tokens is None else max_new_tokens, 1, bounds.COUNT),
        ("limit", 1 if limit is None else limit, 1, bounds.COUNT),
    ):
        grid.check_whole(name, value, least, most)

    groups = grid.groups(points)
    own = None if shard is None else shards.parse(shard)
    if own is not None:
        share = own.of(len(groups), "groups of cells")
        output_dir = own.folder(output_dir)
        points = [cell for number in share for cell in groups[number]]
    path = Path(outputs.place(output_dir, folder=True)) / RESULTS
    with results.alone(path):
        before = results.reopen(path)
        target = pretrained.load(target, dtype=dtype) if isinstance(target, str) else target
        drafts = {label: drafter_registry.load(draft, dtype) for label, draft in drafters.items()}
        drafter_registry.check_pairs(target, list(drafts.values()), assume_same_vocabulary)
        prompt_set = prompts.from_task_or_file(
            target,
            task=task,
            split=split,
            inputs=inputs,
            limit=limit,
            metric=metric,
            chat=chat,
            truncate=truncate_inputs,
        )
        workload = Workload(
            prompts=prompt_set.prompts,
            max_new_tokens=max_new_tokens or prompt_set.max_new_tokens,
            batch_size=1,
            timed_prompts=timing_prompts,
            repeats=repeats,
            seed=seed,
        )
        job = _Sweep(
            target=target,
            drafts=drafts,
            cells=points,
            top_k=top_k,
            top_p=top_p,
            prompt_set=prompt_set,
            workload=workload,
            measure_overlap=measure_overlap,
            path=path,
            tell=progress or (lambda _: None),
        )
        if own is not None:
            every = [fingerprints.of_json(dataclasses.astuple(cell)) for group in groups for cell in group]
            settings = {
                **job.settings,
                "measure_overlap": measure_overlap,
                "models": job.models,
                "cells": fingerprints.of_json(every),
            }
            part = shards.Part("sweep", own.index, own.count, len(every), {RESULTS: len(points)}, settings)
            part.check(path.parent)
            part.begin(path.parent)
        measured_rows = job.run(before)
        outputs.publish(path)
        return measured_rows


@dataclasses.dataclass(frozen=True)
class _Sweep:
    """A sweep with validated arguments; each cell replaces the workload's batch size."""

    target: Pretrained
    drafts: Mapping[str, NamedDraft]
    cells: Sequence[Cell]
    top_k: int
    top_p: float
    prompt_set: PromptSet
    workload: Workload
    measure_overlap: bool
    path: Path
    tell: Callable[[SweepProgress], None]
    done: dict[Cell, ResultRow] = dataclasses.field(default_factory=dict)
    baselines: dict[int, Engine] = dataclasses.field(default_factory=dict)

    def run(self, before: Sequence[ResultRow]) -> list[ResultRow]:
        found = {row.fingerprint: row for row in before}
        self.done.update({c: found[f] for c, f in self._fingerprints.items() if f in found})
        for group in grid.groups(self.cells):
            missing = [cell for cell in group if cell not in self.done]
            if missing and missing[0].is_baseline:
                self._run_baseline(*missing)
            elif missing:
                self._run_group(missing)
        return [self.done[cell] for cell in self.cells]

    def _run_baseline(self, cell: Cell) -> None:
        for known, row in self.done.items():  # decoding without a draft verifies nothing
            if dataclasses.replace(known, rule=cell.rule) == cell:
                self._write(cell, dataclasses.replace(row, **self._conditions(cell)))
                return
        self._announce(f"no draft, {cell.conditions}")
        distribution, workload = self._distribution(cell.temperature), self._workload(cell)
        engine = self._baseline(cell.batch_size)
        once = dataclasses.replace(workload, repeats=1)  # each group times the baseline again
        timed = measured.in_turns([engine], distribution, once)[0]
        complete = self._finite(measured.completed(timed, engine, distribution, workload))
        row = rows.autoregressive_row(complete, self._quality(complete), self._conditions(cell))
        self._write(cell, row)

    def _run_group(self, missing: Sequence[Cell]) -> None:
        """Measures several drafters under the same conditions, timed alternately with the baseline."""
        first = missing[0]
        labels = ", ".join(cell.drafter for cell in missing)
        self._announce(f"block size {first.block_size}, {first.conditions}: {labels}")
        distribution, workload = self._distribution(first.temperature), self._workload(first)
        engines = [self._engine(cell) for cell in missing]
        baseline, *timed = measured.in_turns(
            [self._baseline(first.batch_size), *engines], distribution, workload
        )
        for cell, engine, part in zip(missing, engines, timed, strict=True):
            if self.measure_overlap:
                recorder = self._engine(cell, measure_overlap=True)
                complete = measured.again(part, recorder, distribution, workload)
            else:
                complete = measured.completed(part, engine, distribution, workload)
            self._finite(complete)
            draft = self.drafts[cell.drafter]
            ratio = draft.cost_ratio(self.target, cell.block_size) if isinstance(draft, Pretrained) else 0.0
            row = rows.drafted_row(
                cell.drafter,
                cell.block_size,
                ratio,
                complete,
                baseline,
                self._quality(complete),
                self._conditions(cell),
            )
            self._write(cell, row)

    def _finite(self, complete: Measured) -> Measured:
        """Reports failed prompts; raises if all failed."""
        failed, asked = failures(self.target.name, complete.completions), len(complete.completions)
        if failed:
            self._announce(f"{failed} of {asked} prompts failed: the target's logits were not finite")
        return complete

    def _workload(self, cell: Cell) -> Workload:
        return dataclasses.replace(self.workload, batch_size=cell.batch_size)

    def _distribution(self, temperature: float) -> SamplingDistribution:
        return SamplingParams(temperature, self.top_k, self.top_p).distribution(self._tokenizer.vocabulary)

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        return tokenizer_of(self.target)

    def _baseline(self, batch_size: int) -> Engine:
        if batch_size not in self.baselines:
            self.baselines[batch_size] = self._engine(Cell(NO_DRAFTER, 0, 0.0, "token", batch_size))
        return self.baselines[batch_size]

    def _engine(self, cell: Cell, measure_overlap: bool = False) -> Engine:
        drafter, params = None, None
        if not cell.is_baseline:
            drafter, params = make_drafter(
                [self.drafts[cell.drafter]], vocab_size=self._tokenizer.vocab_size, block_size=cell.block_size
            )
        longest = max(map(len, self.workload.prompts))
        return Engine(
            self.target.model,
            self.target.params,
            drafter,
            params,
            verifier=grid.verifier(cell.rule),
            stopping=StopOnEos(self._tokenizer.eos_ids),
            block_size=max(cell.block_size, 1),
            batch_size=cell.batch_size,
            # One width for all prompts, so each loop compiles once.
            prompt_bucket=-(-longest // _PROMPT_BUCKET) * _PROMPT_BUCKET,
            measure_overlap=measure_overlap,
        )

    def _quality(self, complete: Measured) -> prompts.Quality | None:
        return prompts.score(self.prompt_set, complete.completions, self._tokenizer)

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """Fields that all rows of this sweep share and that affect their numbers."""
        return {
            "task": self.prompt_set.task,
            "split": self.prompt_set.split,
            "target": self.target.name,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "seed": self.workload.seed,
            "prompts": len(self.workload.prompts),
            "prompts_digest": self.prompt_set.fingerprint,
            "max_new_tokens": self.workload.max_new_tokens,
            "timing_prompts": self.workload.timed_prompts,
            "repeats": self.workload.repeats,
            "dtype": self.target.dtype,
            "device": device(),
            "version": __version__,
        }

    @functools.cached_property
    def models(self) -> tuple[str, dict[str, Any]]:
        """Digests of the target's weights and of each drafter's."""
        drafts = {
            label: [
                fingerprints.of_params(draft.params),
                draft.card.shortlist,
                *([] if draft.card.mask_id is None else [draft.card.mask_id]),
            ]
            if isinstance(draft, Pretrained)
            else draft
            for label, draft in self.drafts.items()
        }
        return fingerprints.of_params(self.target.params), drafts

    @functools.cached_property
    def _fingerprints(self) -> dict[Cell, str]:
        """Digests of everything that each cell's numbers depend on."""
        target, drafts = self.models
        fixed = [{"schema_version": SCHEMA_VERSION, **self.settings}, target, self.measure_overlap]
        return {
            cell: fingerprints.of_json([fixed, drafts.get(cell.drafter), dataclasses.astuple(cell)])
            for cell in self.cells
        }

    @functools.cached_property
    def _provenance(self) -> dict[str, Any]:
        return provenance.of_process()

    def _conditions(self, cell: Cell) -> dict[str, Any]:
        """Returns the fields of a cell's row that are not measured."""
        draft = self.drafts.get(cell.drafter)
        return {
            **self.settings,
            "timing_prompts": max(self.workload.timed_prompts, sum(map(len, self._workload(cell).units))),
            "verifier": cell.rule,
            "batch_size": cell.batch_size,
            "temperature": cell.temperature,
            "drafter_path": draft.name if isinstance(draft, Pretrained) else draft,
            **self._provenance,
            "fingerprint": self._fingerprints[cell],
        }

    def _write(self, cell: Cell, row: ResultRow) -> None:
        baseline = row if cell.is_baseline else self.done.get(cell.baseline)  # None: another shard has it
        if cell.temperature == 0 and baseline is not None:
            row = dataclasses.replace(row, matches_autoregressive=row.same_outputs(baseline))
        results.append(self.path, row)
        self.done[cell] = row
        self._announce("", row)

    def _announce(self, doing: str, row: ResultRow | None = None) -> None:
        self.tell(SweepProgress(len(self.done), len(self.cells), doing, row))


def device() -> str:
    """Describes the hardware of this process."""
    devices = jax.devices()
    kind = devices[0].device_kind
    return f"{devices[0].platform}: {len(devices)} × {kind}, {os.cpu_count()} CPU cores"
