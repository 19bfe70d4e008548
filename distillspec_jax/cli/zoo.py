"""`distillspec zoo`: what is shipped, and how to make it again."""

from __future__ import annotations

import sys

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import CommandParser

HELP = """Lists the models that come with the package; `zoo:NAME` stands for one wherever a model is wanted.

  distillspec zoo                      the list, with sizes and held-out quality
  distillspec zoo --build              train every model again (hours; resumes where it stopped)
"""

STAGES = (
    ("finetune", "target_first", ()),
    ("finetune", "target", ("INITIAL_CHECKPOINT_PATH={}/target_first",)),
    ("finetune", "draft_first", ()),
    ("finetune", "draft", ("INITIAL_CHECKPOINT_PATH={}/draft_first",)),
    ("distill", "distilled", ("TARGET={}/target", "DRAFT={}/draft")),
)
"""(command, name, macros) in the order of training; `experiments/zoo/NAME.gin` configures each."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("zoo", HELP)
    parser.add_argument("--build", action="store_true", help="train, measure and export the zoo")
    parser.add_argument("--directory", default="runs/zoo", help="where --build trains (default: runs/zoo)")
    parser.add_argument(
        "--export", default=None, metavar="DIR", help="where --build exports (default: the package)"
    )
    parser.add_argument("--limit", type=int, default=None, help="held-out examples a task (default: all)")
    flags = parser.parse(argv)
    if flags.build:
        return _build(flags.directory, flags.export, flags.limit)

    from distillspec_jax.models import zoo

    listed = zoo.manifest()
    if not listed["models"]:
        print("the zoo is empty: `distillspec zoo --build` trains it", file=sys.stderr)
        return 0
    for name, model in listed["models"].items():
        print(f"zoo:{name:<10} {model['parameters'] / 1e6:6.2f} M parameters  {model['description']}")
        for task, quality in model.get("quality", {}).items():
            print(f"    {task:<18} " + "  ".join(f"{k} {v['value']:.3g}" for k, v in quality.items()))
        for found in model.get("agreement", ()):
            print(
                f"    under {found['law']}: {found['accepted']:.3f} of drafts accepted; sum of min(p, q) "
                f"{found['recorded']:.3f} by the sampler, {found['recomputed']:.3f} by teacher forcing"
            )
    print("\nAliases: " + ", ".join(f"zoo:{alias}" for alias in listed["aliases"]))
    return 0


def _build(directory: str, export: str | None, limit: int | None) -> int:
    import importlib

    from distillspec_jax.evaluation import zoo_export

    for command, name, macros in STAGES:
        stage = importlib.import_module(f"distillspec_jax.cli.{command}")
        bindings = [f"MODEL_DIR={directory}/{name}", *(macro.format(directory) for macro in macros)]
        stage.main([f"--gin_file=experiments/zoo/{name}.gin", *(f"--gin.{b}" for b in bindings)])
    print(zoo_export.export(list(zoo_export.DESCRIPTIONS), directory, export, limit))
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="zoo"))
