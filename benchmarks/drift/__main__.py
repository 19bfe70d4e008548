"""`python -m benchmarks.drift`: when to distil again, on a stream that switches task and drifts.

A stream of 20,000 requests switches from arithmetic to German and back, and then drifts within the Wikipedia
leads from one end of their topics to the other. The draft is distilled again never, at fixed intervals, or on
the alarm of `watch`, each time by `redistill` with its pilot and its gate. Rows go to OUT/results.jsonl, from
which alone OUT.md and the figure are made. Run it again to resume, or to write the page again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.drift import greedy, page, traffic
from benchmarks.drift.rows import RESULTS, Rows
from benchmarks.drift.service import Drafts, Service
from benchmarks.drift.setting import FULL, SMALL, START, Setting
from benchmarks.drift.training import Trainer
from distillspec_jax import checkpoint
from distillspec_jax.cli import compilation, errors
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import profiling
from distillspec_jax.models import pretrained
from distillspec_jax.operations import asked_training, prompts
from distillspec_jax.operations.prompts import Prompt

TARGET, DRAFT = "zoo:target", "zoo:draft"
_PROFILED = 100


def run(setting: Setting, rows: Rows, work: Path) -> None:
    """Runs what the rows do not have.

    Args:
      work: folder for texts, drafts and registries.

    Raises:
      UsageError: the rows are of another setting.
    """
    fields: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(setting)))
    asked, words = traffic.pools(setting)
    known = rows.one("setting") or rows.add("setting", **fields, words=words)
    for name, value in fields.items():
        if name not in ("seeds", "intervals") and known[name] != value:  # policies do not meet each other
            raise UsageError(f"{rows.path} has rows of another setting ({name}): choose another --out")
    target = _target(setting, work)
    model = pretrained.load(str(target))
    texts = {pool: greedy.write_texts(model, asked[pool], work / "texts" / f"{pool}.jsonl") for pool in asked}
    for pool in setting.pools:
        if rows.one("texts", pool=pool) is None:
            held_out = [int(Prompt(inputs=one.inputs).held_out) for one in texts[pool]]
            rows.add("texts", pool=pool, emitted=[len(one.tokens) for one in texts[pool]], held_out=held_out)
    trained_with = work / "trained_with.jsonl"
    prompts.write(trained_with, [Prompt(inputs=one.inputs, outputs=one.outputs) for one in texts[START]])
    drafts = Drafts(rows, greedy.Passes(model, setting.block_size), dict(texts))
    for seed in setting.seeds:
        start = _start(setting, target, trained_with, work / f"start-{seed}", seed)
        names, stream_R2 = traffic.stream(setting, seed)
        if rows.one("stream", seed=seed) is None:
            rows.add(
                "stream",
                seed=seed,
                names=names,
                pool=stream_R2[:, 0].tolist(),
                number=stream_R2[:, 1].tolist(),
            )
        if seed == setting.seeds[0]:
            _check(setting, rows, drafts, str(target), start)
        for policy in setting.policies:
            folder = work / "policies" / f"{seed}-{policy}".replace(" ", "_").replace(",", "")
            Service(
                setting,
                rows,
                drafts,
                folder,
                str(target),
                start,
                trained_with,
                seed,
                policy,
                names,
                stream_R2,
            ).run()


def _target(setting: Setting, work: Path) -> Path:
    """The zoo's target with the lengths of the service on its card."""
    folder = work / "target"
    if not folder.is_dir():
        model = pretrained.load(TARGET)
        card = dataclasses.replace(model.card, feature_lengths=dict(setting.lengths))
        pretrained.save(dataclasses.replace(model, card=card), str(folder))
    return folder


def _start(setting: Setting, target: Path, trained_with: Path, folder: Path, seed: int) -> str:
    """The draft that every policy begins with: distilled on the first task alone, by the same recipe."""
    if checkpoint.latest_step(folder) is None or not (folder / "profile.json").is_file():
        known = prompts.read_sample(trained_with)
        files = [trained_with.with_name(f"{folder.name}-{name}.jsonl") for name in ("train", "judge")]
        for path, held_out in zip(files, (False, True), strict=True):
            prompts.write(path, [one for one in known if one.held_out == held_out])
        task = asked_training.task(pretrained.load(str(target)), *files)
        # Twice what a redistillation has: it starts from a draft that was never distilled. And by its
        # program, so that the first redistillation does not pay for compiling what the others find.
        trainer = Trainer(str(target), setting, seed)
        once = trainer(DRAFT, folder.with_name(f"{folder.name}-once"), task, setting.steps)
        trainer(str(once), folder, task, setting.steps)
        profiling.profile(folder, prompts=_PROFILED, block_size=setting.block_size)
    return str(folder)


def _check(setting: Setting, rows: Rows, drafts: Drafts, target: str, start: str) -> None:
    for pool in setting.pools:
        if rows.one("check", pool=pool) is not None or pool == START:
            continue
        texts = drafts.texts[pool][: setting.checked]
        draft = pretrained.load(start)
        counted = drafts.passes.records(draft, texts)
        found = greedy.check(pretrained.load(target), draft, texts, counted, setting.block_size)
        rows.add("check", pool=pool, **found)


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/drift"), help="folder of the rows and the page"
    )
    parser.add_argument("--work", type=Path, help="folder of texts and drafts (default: runs/drift/work)")
    parser.add_argument("--small", action="store_true", help="minutes, to see that it works; proves nothing")
    parser.add_argument("--page", action="store_true", help="run nothing; write the page again")
    parser.add_argument("--json", action="store_true", help="print the numbers of the page as JSON")
    flags = parser.parse_args(argv)
    rows = Rows.read(flags.out / RESULTS)
    if not flags.page:
        work = flags.work or Path("runs/drift/small" if flags.small else "runs/drift/work")
        work.mkdir(parents=True, exist_ok=True)
        compilation.keep(str(work / "programs"))
        run(SMALL if flags.small else FULL, rows, work)
    written, numbers = page.write(rows, flags.out)
    print(json.dumps(numbers, indent=1) if flags.json else written)
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="drift"))
