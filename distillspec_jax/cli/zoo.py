"""`distillspec zoo`: what is shipped, and how to make it again."""

from __future__ import annotations

import importlib
import sys

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import CommandParser

HELP = """Lists the models that ship with the package. Use `zoo:NAME` wherever a command takes a model.

  distillspec zoo                             list them, with sizes and held-out quality
  distillspec zoo --build                     train every model again (hours; resumes where it stopped)
  distillspec zoo --build --family=decoder    train one family again
"""


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
        from distillspec_jax.showcase import zoo_building

        for family in [flags.family] if flags.family else zoo_manifest.FAMILIES:
            zoo_building.build(family, flags.directory, flags.export, flags.limit, run=_run, say=print)
        return 0
    listed = zoo_manifest.manifest()
    if not listed["models"]:
        print("the zoo is empty: `distillspec zoo --build` trains it", file=sys.stderr)
        return 0
    from distillspec_jax.reports.zoo_listing import print_zoo

    print_zoo(listed)
    return 0


def _run(command: str, argv: list[str]) -> None:
    importlib.import_module(f"distillspec_jax.cli.{command}").main(argv)


if __name__ == "__main__":
    sys.exit(errors.run(main, command="zoo"))
