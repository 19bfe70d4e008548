"""Flags and the training of the commands that train on prompts that were asked: `pilot`, `redistill`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distillspec_jax import bounds
from distillspec_jax.cli.flags import COMPILATION_CACHE_HELP, CommandParser
from distillspec_jax.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from distillspec_jax.operations.asked_training import Train

OWN = ("TARGET", "DRAFT", "MODEL_DIR", "MIXTURE_OR_TASK_NAME", "TRAIN_STEPS", "CHAT")
"""Macros that these commands set."""
_FLAGS = {"TARGET": "--target", "TRAIN_STEPS": "--steps", "CHAT": "--chat"}
"""Flags that set the same."""


def add(parser: CommandParser, *, pilot_steps: str, prompts: str, temperature: str) -> None:
    """Adds the flags that both commands have.

    Args:
      pilot_steps, prompts, temperature: what each is here; the default stands behind it.
    """
    flag = parser.add_argument
    flag("--steps", type=int, default=300, metavar="N", help="training steps (default: 300)")
    flag("--pilot_steps", type=int, metavar="N", help=pilot_steps)
    flag("--prompts", type=int, default=200, metavar="N", help=f"{prompts} (default: 200)")
    flag("--temperature", type=float, metavar="T", help=f"temperature of the service ({temperature})")
    flag(
        "--block_size",
        type=int,
        default=5,
        metavar="N",
        help="drafted tokens per round, as in the service (default: 5)",
    )
    flag("--chat", action="store_true", help="wrap prompts in the target's chat template")
    flag(
        "--least_gain",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="minimum relative gain in block efficiency on new prompts, at the interval's lower end "
        "(default: 0.01)",
    )
    flag(
        "--pay_back_requests",
        type=int,
        default=100_000,
        metavar="N",
        help="requests within which the saving must pay for the training (default: 100,000)",
    )
    flag("--restart", action="store_true", help="discard the unfinished run of an earlier call")
    flag("--compilation_cache", metavar="DIR", help=COMPILATION_CACHE_HELP)


def check(flags: argparse.Namespace) -> None:
    """Refuses impossible values.

    Raises:
      UsageError: names the flag.
    """
    gin: Any = flags.gin
    for name, _ in gin.bindings:
        if name in OWN:
            instead = f"give {_FLAGS[name]}" if name in _FLAGS else "leave it out"
            raise UsageError(f"--gin.{name} is set by this command: {instead}")
    for name in ("steps", "pilot_steps", "prompts"):
        bounds.check_most(f"--{name}", getattr(flags, name), bounds.COUNT)
    if flags.prompts < 1:
        raise UsageError(f"--prompts={flags.prompts}: must be at least 1")
    if flags.prompts < flags.least_prompts:  # the gate would never have enough
        raise UsageError(f"--prompts={flags.prompts}: must be at least --least_prompts={flags.least_prompts}")
    if not 1 <= flags.block_size <= bounds.BLOCK_SIZE:
        raise UsageError(f"--block_size={flags.block_size}: must be from 1 to {bounds.BLOCK_SIZE}")
    if flags.temperature is not None and not 0 <= flags.temperature < 1e30:
        raise UsageError(f"--temperature={flags.temperature}: must be at least 0")


def plan(flags: argparse.Namespace) -> dict[str, Any]:
    """The fields of `asked_training.TrainingPlan`."""
    names = ("steps", "pilot_steps", "temperature", "block_size", "prompts", "chat")
    recipe = [*flags.gin.files, *(f"{name}={value}" for name, value in flags.gin.bindings)]
    return {**{name: getattr(flags, name) for name in names}, "recipe": recipe}


def trainer(flags: argparse.Namespace, target: str) -> Train:
    """Makes the training, as `distill` does it by the same recipe."""

    def train(draft: str, directory: Path, task: str, steps: int) -> Path:
        from distillspec_jax.cli import bindings
        from distillspec_jax.cli.gin_flags import GinFlags
        from distillspec_jax.distillation.distill import distill

        gin: GinFlags = flags.gin
        values = map(repr, (target, draft, str(directory), task, steps, flags.chat))
        given = GinFlags(
            ("runs/distill.gin", *gin.files),
            (*gin.bindings, *zip(OWN, values, strict=True)),
            gin.search_paths,
        )
        job, configuration = bindings.bind(distill, given, given=("gin",))
        return job(gin=configuration)

    return train
