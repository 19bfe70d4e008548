"""How the zoo is made again: the commands of its stages, in order, and the export."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from distillspec_jax import outputs
from distillspec_jax.models import zoo_manifest
from distillspec_jax.showcase import zoo_export

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
"""Steps of the parts of each task's draft for temperature 0. A part starts from the one before, the first
from `distilled`."""


def build(
    family: str,
    directory: str,
    export: str | None,
    limit: int | None,
    run: Callable[[str, list[str]], object],
    say: Callable[[str], object],
) -> None:
    """Trains, measures and exports a family; goes on with what the directory holds.

    Args:
      family: one of `zoo_manifest.FAMILIES`.
      directory: where its models are trained.
      export: where they are exported; None: the package.
      limit: held-out examples per task; None: all.
      run: runs a command with its arguments.
      say: is given what was exported, a text for each export.
    """
    outputs.take_folder(directory)  # no model's, and no set's
    outputs.check_writable(directory)  # before JAX starts
    exported = [zoo_manifest.member(family, role) for role in zoo_export.DESCRIPTIONS]
    if family == "t5":
        exported += [zoo_manifest.greedy(task) for task in GREEDY_STEPS]
    zoo_export.check_destination(exported, export)
    for command, name, parents in STAGES:
        run(command, stage_flags(family, name, parents, directory))
    say(zoo_export.export(family, list(zoo_export.DESCRIPTIONS), directory, export, limit))
    if family == "t5":
        for task in GREEDY_STEPS:
            for command, argv in greedy_stages(task, directory):
                run(command, argv)
        say(zoo_export.export_greedy(GREEDY_STEPS, directory, export, limit))


def stage_flags(family: str, name: str, parents: Mapping[str, str], directory: str) -> list[str]:
    """Returns the arguments of a stage's command."""
    places = {
        macro: zoo_manifest.member(family, one) for macro, one in {"MODEL_DIR": name, **parents}.items()
    }
    macros = [f"--gin.{macro}={directory}/{place}" for macro, place in places.items()]
    return [f"--gin_file=experiments/zoo/{zoo_manifest.member(family, name)}.gin", *macros]


def greedy_stages(task: str, directory: str) -> list[tuple[str, list[str]]]:
    """Returns (command, its arguments), in order, for a task's draft for temperature 0."""
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
