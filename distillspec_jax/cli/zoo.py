"""`distillspec zoo`: what is shipped, and how to make it again."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import CommandParser

HELP = """Lists the models that ship with the package. Use `zoo:NAME` wherever a command takes a model.

  distillspec zoo                             list them, with sizes and held-out quality
  distillspec zoo --build                     train every model again (hours; resumes where it stopped)
  distillspec zoo --build --family=decoder    train one family again
"""

STAGES: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("finetune", "target_first", {}),
    ("finetune", "target", {"INITIAL_CHECKPOINT_PATH": "target_first"}),
    ("finetune", "draft_first", {}),
    ("finetune", "draft", {"INITIAL_CHECKPOINT_PATH": "draft_first"}),
    ("distill", "distilled", {"TARGET": "target", "DRAFT": "draft"}),
)
"""(command, name, its parents' macros) in the order of training; `experiments/zoo/NAME.gin` configures each,
with its family's prefix before the name."""
GREEDY_STEPS = {"wiki_leads": (1500,), "gsm_symbolic": (1500, 1000), "office_help_ende": (1500, 2500)}
"""Of each task's draft for temperature 0: a part goes on from the one before, the first from `distilled`."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("zoo", HELP)
    parser.add_argument("--build", action="store_true", help="train, measure and export the zoo")
    parser.add_argument("--family", help="t5 or decoder: the family that --build trains (default: both)")
    parser.add_argument("--directory", default="runs/zoo", help="where --build trains (default: runs/zoo)")
    parser.add_argument(
        "--export", default=None, metavar="DIR", help="where --build exports (default: the package)"
    )
    parser.add_argument("--limit", type=int, default=None, help="held-out examples per task (default: all)")
    flags = parser.parse(argv)

    from distillspec_jax.models import zoo_manifest

    if flags.build:
        for family in [flags.family] if flags.family else zoo_manifest.FAMILIES:
            _build(family, flags.directory, flags.export, flags.limit)
        return 0
    listed = zoo_manifest.manifest()
    if not listed["models"]:
        print("the zoo is empty: `distillspec zoo --build` trains it", file=sys.stderr)
        return 0
    from distillspec_jax.reports.zoo_listing import print_zoo

    print_zoo(listed)
    return 0


def stage_flags(family: str, name: str, parents: Mapping[str, str], directory: str) -> list[str]:
    """What a stage's command is called with."""
    from distillspec_jax.models import zoo_manifest

    places = {
        macro: zoo_manifest.member(family, one) for macro, one in {"MODEL_DIR": name, **parents}.items()
    }
    macros = [f"--gin.{macro}={directory}/{place}" for macro, place in places.items()]
    return [f"--gin_file=experiments/zoo/{zoo_manifest.member(family, name)}.gin", *macros]


def _build(family: str, directory: str, export: str | None, limit: int | None) -> None:
    import importlib

    from distillspec_jax.showcase import zoo_export

    for command, name, parents in STAGES:
        stage = importlib.import_module(f"distillspec_jax.cli.{command}")
        stage.main(stage_flags(family, name, parents, directory))
    print(zoo_export.export(family, list(zoo_export.DESCRIPTIONS), directory, export, limit))
    if family == "t5":
        for task in GREEDY_STEPS:
            for command, argv in greedy_stages(task, directory):
                importlib.import_module(f"distillspec_jax.cli.{command}").main(argv)
        print(zoo_export.export_greedy(GREEDY_STEPS, directory, export, limit))


def greedy_stages(task: str, directory: str) -> list[tuple[str, list[str]]]:
    """(command, its flags), in order, of a task's draft for temperature 0."""
    from distillspec_jax.models import zoo_manifest

    name, texts = zoo_manifest.greedy(task), zoo_manifest.greedy_texts(directory, task)
    collected = [f"--model={directory}/target", f"--task={task}", "--temperature=0", "--top_logprobs=32"]
    stages = [
        ("collect", [*collected, f"--output={texts}"]),
        ("collect", [*collected, f"--output={texts}_held_out", "--split=validation", "--limit=96"]),
    ]
    parent, parts = "distilled", GREEDY_STEPS[task]
    for i, steps in enumerate(parts, 1):
        part = name if i == len(parts) else f"{name}_part_{i}"
        macros = {
            "MIXTURE_OR_TASK_NAME": task,
            "TARGET_SET": texts,
            "HELD_OUT_SET": f"{texts}_held_out",
            "DRAFT": f"{directory}/{parent}",
            "MODEL_DIR": f"{directory}/{part}",
            "TRAIN_STEPS": str(steps),
        }
        flags = [f"--gin.{macro}={value}" for macro, value in macros.items()]
        stages.append(("distill", ["--gin_file=experiments/zoo/greedy.gin", *flags]))
        parent = part
    return stages


if __name__ == "__main__":
    sys.exit(errors.run(main, command="zoo"))
