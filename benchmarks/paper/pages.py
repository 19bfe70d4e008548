"""Pages of the experiments, made of published rows alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.attempts import Attempts
from benchmarks.paper import running, scales
from benchmarks.paper.experiment import Experiment
from distillspec_jax import files
from distillspec_jax.evaluation.sweep import RESULTS

PAGE, FIGURE = "page.md", "figure.svg"


def write(
    experiments: Sequence[Experiment], known: Sequence[Experiment], docs: Path, attempts: Attempts
) -> Iterator[str]:
    """Writes the page and the figure of each experiment; yields a line each.

    Args:
      experiments: those wanted.
      known: all, of which one may read another's rows.
      docs: holds a folder an experiment.
      attempts: a page that fails does not stop the others.
    """
    by_letter = {experiment.letter: experiment for experiment in known}
    for experiment in experiments:
        with attempts.at(f"the page of ({experiment.letter})"):
            yield f"({experiment.letter}) {_page(experiment, by_letter, docs)}"


def _page(experiment: Experiment, by_letter: Mapping[str, Experiment], docs: Path) -> str:
    source = by_letter[experiment.rows_of or experiment.letter]
    rows = running.published(docs / source.name)
    if not rows:
        return f"no rows yet: {docs / source.name / RESULTS}"
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
    return found.verdict


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
