"""Command-line flags: argparse that fails in one line, and T5X's gin flags.

    --gin_file=PATH             repeated; later files override earlier ones
    --gin.NAME=VALUE            a macro (--gin.TRAIN_STEPS=100) or a parameter (--gin.loop.train.seed=1)
    --gin_search_paths=A,B      where --gin_file and `include` look, after the current folder

Parsing here only collects them; `distillspec_jax.cli.bindings` gives them to gin, which `--help` never waits
for.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

from distillspec_jax.cli.gin_flags import GinFlags
from distillspec_jax.errors import UsageError, nearest

_GIN_PREFIX = "--gin."
DTYPE_HELP = (
    "data type of weights, activations and KV caches: bfloat16, or int8 (decoder weights only); default: "
    "float32, as stored. Write MODEL@int8 to set it for one model"
)

COMPILATION_CACHE_HELP = "keep compiled programs here: the next run with the same shapes starts faster"
DRAFTER_HELP = "a draft model (a checkpoint directory or zoo:NAME), or a drafter without a model ({drafters})"

RULE_HELP = "how drafts are verified (default: token): {rules}"

TASK_HELP = (
    "task whose prompts are used (default: the target's, if it is zoo:TASK/...); with --inputs: task whose "
    "prefix and lengths they get, as in generate"
)


SHARD_HELP = (
    "compute shard I (from 0) of N, in a folder next to the output; auto/N takes I from the environment of "
    "SLURM or Kubernetes, auto takes both from SLURM or from several hosts. `distillspec merge` combines them"
)


def _drafter_names() -> str:
    from distillspec_jax.decoding import named_drafters

    return ", ".join(named_drafters.names())


def _rules() -> str:
    from distillspec_jax.decoding import rules

    return rules.described()


_LATE_WORDS: Mapping[str, Callable[[], str]] = {"{drafters}": _drafter_names, "{rules}": _rules}
"""Words of help texts that a registry knows: filled in when help is printed."""


class CommandParser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises UsageError instead of printing its usage and leaving.

    Args:
      command: the command's name, `finetune`.
      description: its help text; a command passes its module's `HELP`.
      gin: accept the gin flags; `parse` then sets `gin` (a `GinFlags`) on the namespace.
      gin_sets_flags: gin files may also set the command's flags, under the command's name:
        `generate.block_size = 3`. The command line overrides them.
      may_be_empty: names of flags for which the empty text is a value.
      macros: that the command reads itself, see `bindings.macro`.
    """

    def __init__(
        self,
        command: str,
        description: str,
        *,
        gin: bool = False,
        gin_sets_flags: bool = False,
        may_be_empty: Collection[str] = (),
        macros: Collection[str] = (),
    ) -> None:
        super().__init__(
            prog=f"distillspec {command}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._command, self._gin_sets_flags, self._macros = command, gin_sets_flags, macros
        self._may_be_empty = frozenset(may_be_empty)
        self._gin = gin or gin_sets_flags
        if self._gin:
            group = self.add_argument_group("configuration (gin)")
            group.add_argument(
                "--gin_file",
                action="append",
                default=[],
                metavar="PATH",
                help="repeatable; later files override earlier ones",
            )
            group.add_argument(
                "--gin_search_paths",
                action="append",
                default=[],
                metavar="DIR,DIR",
                help="folders to search for gin files, before the ones that ship with the package",
            )
            group.add_argument(
                "--gin.NAME",
                dest="_binding",
                metavar="VALUE",
                help="set a macro or a parameter of the gin files",
            )

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parses a command line.

        Raises:
          UsageError: an unknown flag (the message names the nearest one), a missing, an empty or a bad value.
        """
        _check_unicode(argv)
        bindings, rest = _split_bindings(argv) if self._gin else ((), list(argv))
        # Before argparse, which calls a misspelt required flag missing, and takes --block for --block_size.
        flags = {option for action in self._actions for option in action.option_strings}
        for argument in rest:
            flag = argument.split("=", 1)[0]
            if flag.startswith("--") and flag not in flags:
                raise UsageError(f"unknown flag {flag}: {nearest(flag, flags - {'-h'})}")
        self._refuse_empty_values()
        if self._gin_sets_flags:
            rest = [*self._from_gin(rest, bindings), *rest]
        namespace, unknown = self.parse_known_args(rest)
        if unknown:
            raise UsageError(
                f"unexpected argument {unknown[0]!r}: values belong to a flag, --flag={unknown[0]}"
            )
        if self._gin:
            namespace.gin = _gin_flags(namespace, bindings)
        return namespace

    def _refuse_empty_values(self) -> None:
        for action in self._actions:
            kind = action.type or str
            if action.nargs != 0 and action.dest not in self._may_be_empty and callable(kind):
                action.type = _not_empty(kind)

    def _from_gin(self, argv: list[str], bound: tuple[tuple[str, str], ...]) -> list[str]:
        """The flags that gin files set and the command line does not, as arguments."""
        reader = argparse.ArgumentParser(add_help=False, exit_on_error=False)
        for name in ("--gin_file", "--gin_search_paths"):
            reader.add_argument(name, action="append", default=[])
        try:
            flags = _gin_flags(reader.parse_known_args(argv)[0], bound)
        except argparse.ArgumentError as error:
            raise UsageError(str(error)) from error
        if not flags.files and not flags.bindings:
            return []
        from distillspec_jax.cli import bindings

        gin_own = ("help", "_binding", "gin_file", "gin_search_paths")
        options = {a.dest: a.option_strings[0] for a in self._actions if a.dest not in gin_own}
        texts = {a.dest for a in self._actions if getattr(a.type, "__wrapped__", a.type) is str}
        repeatable = {action.dest for action in self._actions if isinstance(action, argparse._AppendAction)}
        given = {argument.split("=", 1)[0] for argument in argv}
        found = []
        for name, value in bindings.flag_values(self._command, tuple(options), flags, self._macros).items():
            option = options[name]
            if option in given or value is None or value is False:
                continue
            values = value if isinstance(value, (list, tuple)) else [value]
            if name in texts and not all(isinstance(one, str) for one in values):
                raise UsageError(f"{self._command}.{name}={value!r}: must be a text in quotes")
            if value is True:
                found.append(option)
            elif name in repeatable:
                found += [f"{option}={one}" for one in values]
            else:
                found.append(f"{option}={','.join(map(str, values))}")
        return found

    def format_help(self) -> str:
        """The help text, with the names that registries know."""
        for action in self._actions:
            for word, names in _LATE_WORDS.items():
                if word in (action.help or ""):
                    action.help = str(action.help).replace(word, names())
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Called by argparse for every mistake on the command line."""
        raise UsageError(message)


def one_of(*choices: str) -> Callable[[str], str]:
    """An argparse `type` that accepts these words and names the nearest of them when given another."""

    def choose(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of them: {nearest(text, choices)}")
        return text

    return choose


def _not_empty(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """A `type` of argparse that takes no empty text, and else is the given one."""

    @functools.wraps(kind, updated=())
    def parse(text: str) -> Any:
        if not text:
            raise argparse.ArgumentTypeError("the value is empty: give one, or leave the flag out")
        return kind(text)

    return parse


def _check_unicode(argv: Sequence[str]) -> None:
    """Refuses bytes that are no UTF-8: what names a file there could be written into no card and no table."""
    for argument in argv:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{argument}: the command line holds bytes that are no UTF-8 text") from error


def refuse_idle(flags: argparse.Namespace) -> None:
    """Refuses `--split`, which is a task's, beside `--inputs`; and what is about `--inputs` without it."""
    by_gin = "gin" in flags and (flags.gin.files or flags.gin.bindings)  # may set inputs
    for name in ("metric", "truncate_inputs"):
        if getattr(flags, name, None) and not flags.inputs and not by_gin:
            raise UsageError(f"--{name} is about the lines of --inputs: give such a file, or leave it out")
    if flags.inputs and flags.split:
        raise UsageError(f"--split={flags.split}: the lines of --inputs have no splits, leave it out")


def _gin_flags(namespace: argparse.Namespace, bindings: tuple[tuple[str, str], ...]) -> GinFlags:
    paths = [path for group in namespace.gin_search_paths for path in group.split(",") if path]
    return GinFlags(tuple(namespace.gin_file), bindings, tuple(paths))


def _split_bindings(argv: Sequence[str]) -> tuple[tuple[tuple[str, str], ...], list[str]]:
    """Takes `--gin.NAME=VALUE` out of a command line, since argparse cannot know the names."""
    bindings, rest = [], []
    for argument in argv:
        if not argument.startswith(_GIN_PREFIX):
            rest.append(argument)
            continue
        name, equals, value = argument.removeprefix(_GIN_PREFIX).partition("=")
        if not name or not equals:
            raise UsageError(f"{argument}: write --gin.NAME=VALUE, with the equals sign and no spaces")
        bindings.append((name, value))
    return tuple(bindings), rest


def list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """The type of a flag that takes values between commas."""

    def parse(text: str) -> list[Any]:
        parts = [kind(part) for part in text.split(",") if part.strip()]
        if not parts:
            raise argparse.ArgumentTypeError(f"{text!r} names no value: give one, or leave the flag out")
        return parts

    parse.__name__ = f"list of {kind.__name__}"  # argparse names it in its message
    return parse
