"""Runs experiments: trains what they need, sweeps, and publishes rows and pages.

A killed run resumes without repeating finished work: a training from its last checkpoint, a sweep after its
last row.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import commands
from benchmarks.arms import Arm, Model, Models, Snapshot
from benchmarks.paper import in_turns, scales
from benchmarks.paper.experiment import Experiment, InTurns, Measurement
from benchmarks.paper.scales import Scale
from distillspec_jax import files
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import results
from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.evaluation.sweep import RESULTS
from distillspec_jax.models import zoo_manifest

MADE_OF = "made_of.json"
PAGE, FIGURE = "page.md", "figure.svg"


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of experiments at one scale, in a folder of its own.

    Attributes:
      scale: how much of each.
      root: the folder.
      tell: is told what is done next.
    """

    scale: Scale
    root: Path
    tell: Callable[[str], None] = print

    @property
    def models(self) -> Models:
        """Its trainings."""
        return Models(self.root / "models", self.scale.in_process, self.tell)

    def open(self) -> None:
        """Makes the folder, or checks that it holds this scale of these models.

        Raises:
          UsageError: it was made with other settings, or another zoo.
        """
        zoo = (zoo_manifest.ROOT / "zoo.json").read_bytes()
        ours = {"zoo": hashlib.sha256(zoo).hexdigest(), **dataclasses.asdict(self.scale)}
        path = self.root / MADE_OF
        if not path.exists():
            files.write_whole(path, files.as_json(ours, indent=1) + "\n")
            return
        there = files.read_json(path)
        for name, value in files.parse_json_object(files.as_json(ours), str(path)).items():
            if there.get(name) != value:
                raise UsageError(
                    f"{self.root} was made with another {name}: choose another --output, or remove it"
                )

    def measure(self, experiment: Experiment) -> list[ResultRow]:
        """Trains and sweeps what is missing of an experiment; returns its rows as they are published."""
        found: dict[str, list[ResultRow]] = {}
        known: list[Measurement | InTurns] = []
        for stage in range(experiment.stages):
            so_far = [row for rows in found.values() for row in rows] if stage else None
            for i, measurement in enumerate(experiment.measure(self.scale, so_far)):
                if measurement not in known:
                    known.append(measurement)
                    name = f"{stage}{i}-{measurement.task}"
                    if isinstance(measurement, InTurns):
                        found[name] = self._in_turns(
                            measurement, self.root / "rows" / experiment.letter / name
                        )
                        continue
                    found[name] = self._sweep(
                        experiment, measurement, self.root / "rows" / experiment.letter / name
                    )
        return [row for rows in found.values() for row in rows]

    def _sweep(self, experiment: Experiment, measurement: Measurement, folder: Path) -> list[ResultRow]:
        target = self.models.path(measurement.target)
        drafters = {label: self.models.path(model) for label, model in measurement.drafters.items()}
        self.tell(f"({experiment.letter}) measuring {measurement.task}: {', '.join(drafters)}")
        given = {
            "TARGET": target,
            "DRAFTERS": drafters,
            "TASK": measurement.task,
            "LIMIT": measurement.limit,
            "TIMING_PROMPTS": measurement.timed,
            "OUTPUT_DIR": folder,
            "sweep.sweep.repeats": self.scale.repeats,
            **measurement.bindings,
        }
        if self.scale.max_new_tokens is not None:
            given["sweep.sweep.max_new_tokens"] = self.scale.max_new_tokens
        argv = ["sweep", *commands.gin_flags([measurement.file], given)]
        commands.run(argv, str(folder), in_process=self.scale.in_process)
        rows = results.latest(results.read([folder / RESULTS]))
        return [self._published(row, measurement) for row in rows]

    def _in_turns(self, measurement: InTurns, folder: Path) -> list[ResultRow]:
        if not (folder / RESULTS).exists():
            targets = {name: self.models.path(model) for name, model in measurement.targets.items()}
            self.tell(f"timing targets in turns: {', '.join(targets)}")
            rows = commands.alone(
                functools.partial(
                    in_turns.measure,
                    targets,
                    measurement.task,
                    temperatures=measurement.temperatures,
                    timed=measurement.timed,
                    repeats=self.scale.repeats,
                    max_new_tokens=self.scale.max_new_tokens,
                )
            )
            publish(rows, folder)
        names = {self.models.path(model): _named(model) for model in measurement.targets.values()}
        return [
            dataclasses.replace(row, target=names[row.target]) for row in results.read([folder / RESULTS])
        ]

    def _published(self, row: ResultRow, measurement: Measurement) -> ResultRow:
        """Adds what the draft cost, and takes out what names this machine or repeats itself."""
        more: dict[str, Any] = {}
        model = measurement.drafters.get(row.drafter)
        if model is not None and (cost := self.models.cost(model)):
            arm = model.arm if isinstance(model, Snapshot) else model
            assert isinstance(arm, Arm)
            trained = {"label": arm.label, "seed": arm.seed, "gin_files": list(arm.gin_files)}
            rate = dict(arm.bindings).get("LEARNING_RATE")
            more["trained"] = {**trained, "learning_rate": rate, "steps": cost.steps, "seconds": cost.seconds}
        if measurement.part is not None:
            more["part"] = measurement.part
        return dataclasses.replace(
            row,
            target=_named(measurement.target),
            drafter_path=None if model is None else _named(model),
            command=None,
            unknown={**row.unknown, **more},
        )


def _named(model: Model) -> str:
    """How a published row calls a model: its name in the zoo, or that of its folder."""
    if isinstance(model, str):
        return model
    return f"{model.arm.name}/step-{model.step}" if isinstance(model, Snapshot) else model.name


def publish(rows: Iterable[ResultRow], folder: Path) -> None:
    """Writes an experiment's `results.jsonl`, whole or not at all."""
    text = "".join(files.as_json(row.to_json()) + "\n" for row in rows)
    files.write_whole(folder / RESULTS, text)


def pages(experiments: Sequence[Experiment], known: Sequence[Experiment], docs: Path) -> Iterator[str]:
    """Writes the page and the figure of each experiment from published rows alone; yields a line each.

    Args:
      experiments: those wanted.
      known: all, of which one may read another's rows.
      docs: holds a folder an experiment.
    """
    by_letter = {experiment.letter: experiment for experiment in known}
    for experiment in experiments:
        source = by_letter[experiment.rows_of or experiment.letter]
        path = docs / source.name / RESULTS
        if not path.exists():
            yield f"({experiment.letter}) no rows yet: {path}"
            continue
        rows = results.read([path])
        found = experiment.page(rows)
        folder = docs / experiment.name
        folder.mkdir(parents=True, exist_ok=True)
        found.figure.savefig(folder / FIGURE, metadata={"Date": None, "Creator": None})
        place = RESULTS if source is experiment else f"../{source.name}/{RESULTS}"
        text = "\n\n".join(
            (
                f"# ({experiment.letter}) {experiment.title}",
                f"{experiment.claim} {found.verdict}",
                f"![{experiment.title}]({FIGURE})",
                found.table,
                "Intervals are of 95 % over prompts, paired: prompts are what is resampled, seeds are added "
                "up. Bold, and not null: the interval excludes no difference, and so does Benjamini–Hochberg "
                "at 5 % over all of the kind. By chance: how many would without it if none differed.",
                f"From [{RESULTS}]({place}); `python -m benchmarks.paper --pages` makes it again.",
            )
        )
        files.write_whole(folder / PAGE, text + "\n")
        yield f"({experiment.letter}) {found.verdict}"


def index(known: Sequence[Experiment], docs: Path) -> None:
    """Writes the page that leads to the others, with the settings of each scale."""
    there = [experiment for experiment in known if (docs / experiment.name / PAGE).exists()]
    lines = [
        "# The paper's experiments on the embedded tasks",
        "    make paper                              # small setting\n"
        "    make paper SCALE=full                   # the same command resumes after a kill\n"
        "    python -m benchmarks.paper --only=a,f   # some of them\n"
        f"    python -m benchmarks.paper --pages --docs={docs}   # these pages again",
        "DistillSpec (Zhou et al., arXiv 2310.08461), on tasks of the same shapes with models of a few "
        "million parameters: what is tested is whether its findings hold at this size, not its numbers.",
        "\n".join(
            f"- [({one.letter}) {one.title}]({one.name}/{PAGE}): {_verdict(docs / one.name / PAGE)}"
            for one in there
        ),
        "## Settings",
        scales.table(),
    ]
    files.write_whole(docs / "README.md", "\n\n".join(lines) + "\n")


def _verdict(page: Path) -> str:
    """The second paragraph of a page."""
    return page.read_text(encoding="utf-8").split("\n\n")[1]
