"""From gin flags to a function that has its arguments: the only module that talks to gin.

Library code holds no gin. A gin file that opens with `from __gin__ import dynamic_registration` imports the
modules that it configures, and `bind` gives the command its job with every argument in place:

    # Parses, checks and explains mistakes; the configuration goes into the checkpoint's provenance.
    job, configuration = bind(finetune.finetune, flags.gin, given=("gin",))
    job(gin=configuration)

Names in `--gin.NAME=VALUE` are the names that the gin files use. Flags are applied after all files.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import io
import os
import re
import tokenize
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

import gin

import distillspec_jax
from distillspec_jax import outputs
from distillspec_jax.cli import gin_messages, gin_values
from distillspec_jax.cli.gin_flags import GinFlags
from distillspec_jax.errors import UsageError, nearest

Result = TypeVar("Result")

_REMOVED = {"PROFILE": "trace a run with jax.profiler"}
"""Macros of 0.1 that are no more, each with what to do in its place."""

_MEANT = {"TASK": ("TASK_NAME", "MIXTURE_OR_TASK_NAME")}
"""Names that are near to others than those they mean: the first of these that the files know is meant."""

_MOVED = {"experiments/sweep.gin": "runs/sweep.gin"}
"""Where the gin files of 0.1 lie now."""


def packaged_configs() -> Path:
    """The gin files of this project: inside an installed wheel, beside the package in a checkout."""
    package = Path(distillspec_jax.__file__).parent
    inside = package / "gin_configs"
    return inside if inside.is_dir() else package.parent / "gin_configs"


def bind(
    job: Callable[..., Result], flags: GinFlags, *, given: Collection[str] = (), macros: Collection[str] = ()
) -> tuple[Callable[..., Result], str]:
    """Configures `job` from gin files and flags, forgetting any configuration before.

    Args:
      job: a library function; its parameters are what gin may set.
      flags: from `CommandParser.parse`.
      given: parameters that the caller passes itself, which gin need not know.
      macros: names that the caller reads itself; flags may set them without a file, else they are None.

    Returns:
      The job with its arguments supplied by gin, and the whole configuration as gin text.

    Raises:
      UsageError: a missing file, an unknown function, parameter or macro, a value that is none or of another
        type, a macro or a parameter left without a value, a class or function without its parentheses. The
        message names the flag or the line, and the nearest valid choice.
    """
    gin.clear_config()
    for name in macros:
        gin.parse_config(f"{name} = None")
    with _gin_files.searching([*map(Path, flags.search_paths), packaged_configs()]):
        for path in flags.files:
            _parse_file(path)
        _register(job)
        for name, value in flags.bindings:
            _parse_flag(name, value)
    _finalize()
    _check_complete(job, given)
    gin_values.check(job)
    return gin.get_configurable(job), gin.config_str()


def value(job: Callable[..., Any], parameter: str) -> Any:
    """The value that `bind` has given one parameter of a job, or None; nothing else is made."""
    bound = gin.get_bindings(job, resolve_references=False).get(parameter)
    return copy.deepcopy(bound)  # gin resolves in copying


def flag_values(
    command: str, names: tuple[str, ...], flags: GinFlags, macros: Collection[str] = ()
) -> dict[str, Any]:
    """Reads what gin files set of a command's own flags: `generate.block_size = 3`.

    Args:
      command: the command's name.
      names: its flags, without dashes.
      flags: from the command line.
      macros: see `bind`.

    Raises:
      UsageError: see `bind`.
    """
    gin.clear_config()  # which unlocks gin's registry, too
    job, _ = bind(_flags_of(command, names), flags, macros=macros)
    given: dict[str, Any] = job()
    return given


@functools.cache
def _flags_of(command: str, names: tuple[str, ...]) -> Callable[..., dict[str, Any]]:
    """A function with a command's flags for parameters, known to gin by the command's name."""

    def flags(**given: Any) -> dict[str, Any]:
        return given

    flags.__name__ = flags.__qualname__ = command
    flags.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names]
    )
    gin.external_configurable(flags, name=command)
    return flags


def task(flags: GinFlags) -> str | None:
    """Makes the task that gin files name, as `MIXTURE_OR_TASK_NAME`, for a command that asks only for that.

    Returns:
      Its name; None without gin flags.

    Raises:
      UsageError: see `bind`.
    """
    if not flags.files and not flags.bindings:
        return None
    found = macro("MIXTURE_OR_TASK_NAME", flags)
    if found is None:
        raise UsageError("no gin file sets MIXTURE_OR_TASK_NAME: give one of gin_configs/tasks")
    return str(found)


def macro(name: str, flags: GinFlags) -> Any:
    """Makes the value of a macro that a command reads itself; None where neither a file nor a flag sets it.

    Raises:
      UsageError: see `bind`.
    """
    return macros(flags, name)[0]


def macros(flags: GinFlags, *names: str) -> list[Any]:
    """Makes the values of several macros, see `macro`.

    Raises:
      UsageError: see `bind`.
    """
    read, _ = bind(gin.config.macro, flags, given=("value",), macros=names)
    found = []
    for name in names:
        with gin.config_scope(name):  # a macro is gin's function `macro`, in a scope of its name
            found.append(read())
    return found


def gin_value(name: str, text: str) -> str:
    """A flag's value as gin text.

    A Python literal, `@function`, `@function()` and `%MACRO` stay as they are; anything else is a string.

    >>> gin_value("TRAIN_STEPS", "100"), gin_value("MODEL", "@t5.tiny()"), gin_value("MODEL_DIR", "runs/a")
    ('100', '@t5.tiny()', "'runs/a'")

    Raises:
      UsageError: a container that does not parse, or `true`, `false`, `null`, since any string passes for
      true.
    """
    if text.startswith(("@", "%")):
        return text
    with contextlib.suppress(SyntaxError, tokenize.TokenError, RecursionError):
        parser = gin.config_parser.ConfigParser(text, _AnyReference())
        parser.parse_value()
        if parser.current_token.type in (tokenize.NEWLINE, tokenize.COMMENT, tokenize.ENDMARKER):
            return text
    python = {"true": "True", "false": "False", "null": "None", "none": "None"}.get(text)
    if python:
        raise UsageError(
            f"--gin.{name}={text}: did you mean {python}? (the word itself needs quotes inside quotes)"
        )
    if text.startswith(("[", "(", "{")):
        raise UsageError(f"--gin.{name}={text}: no Python literal (strings inside it need quotes)")
    return repr(text)


class _AnyReference(gin.config_parser.ParserDelegate):
    """Accepts every @reference and %macro, to ask only whether a text is a value at all."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> None:
        """Any name will do."""

    def macro(self, macro_name: str) -> None:
        """Any name will do."""


class _GinFiles:
    """Finds what --gin_file and `include` name: in the current folder, then in the search paths."""

    def __init__(self) -> None:
        self._roots: list[Path] = []
        # Before gin's own readers: the one for packaged files fails on any path that begins with a folder's
        # name, and `register_file_reader` only appends.
        gin.config._FILE_READERS.insert(0, (self.open, self._is_searching))

    @contextlib.contextmanager
    def searching(self, paths: list[Path]) -> Iterator[None]:
        """Serves gin's requests for files while the context lasts, and leaves them alone after it."""
        self._roots = [Path(), *paths]
        try:
            yield
        finally:
            self._roots = []

    def _is_searching(self, path: str) -> bool:
        return bool(self._roots)

    def open(self, path: str) -> io.TextIOWrapper:
        """Opens the first file of that name; raises UsageError with the nearest one if there is none."""
        for name in (path, _MOVED.get(path, path)):
            for root in self._roots:
                if (root / name).is_file():
                    outputs.reads(root / name)
                    return (root / name).open(encoding="utf-8")
        if os.path.isdir(path):
            raise UsageError("is a folder, name a file in it")
        # Not all of the current folder, which may be a home folder.
        found = [(Path(), f) for f in Path().glob("*/*.gin")]
        found += [(root, f) for root in self._roots[1:] for f in root.rglob("*.gin")]
        known = [str(f.relative_to(root)) for root, f in found]
        raise UsageError(
            f"no such file: {nearest(path, known)}; looked in {', '.join(map(str, self._roots))}"
        )


_gin_files = _GinFiles()


def _parse_file(path: str) -> None:
    try:
        gin.parse_config_file(path)
    except RecursionError as error:
        raise UsageError(f"--gin_file={path}: nested too deep") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--gin_file={path}: not UTF-8 text") from error
    except gin_messages.CONFIG_ERRORS as error:
        place = gin_messages.location(error)
        imports = Path(place[0]).read_text(encoding="utf-8") if place else ""
        message = gin_messages.explain(error, imports, _known_names()[1])
        if message is None:
            raise
        where = f"{place[0]} line {place[1]}" if place else f"--gin_file={path}"
        raise UsageError(f"{where}: {message}") from error


def _register(job: Callable[..., Any]) -> None:
    try:
        gin.get_configurable(job)
    except ValueError:  # No file mentions it.
        gin.external_configurable(job, module=job.__module__)


def _parse_flag(name: str, text: str) -> None:
    flag = f"--gin.{name}={text}"
    value = gin_value(name, text)
    macros, parameters = _known_names()
    if name in _REMOVED and name not in macros:
        raise UsageError(f"{flag}: {name} was removed: {_REMOVED[name]}")
    if "." not in name and name not in macros:
        meant = [one for one in _MEANT.get(name, ()) if one in macros]
        near = f"did you mean {meant[0]!r}?" if meant else nearest(name, macros)
        raise UsageError(f"{flag}: no gin file sets or uses a macro {name}: {near}")
    # The imports of the files make a flag's names mean what they mean there.
    imports = [line for line in gin.config_str().splitlines() if line.startswith(("import ", "from "))]
    try:
        gin.parse_config([*imports, f"{name} = {value}"])
    except gin_messages.CONFIG_ERRORS as error:
        message = gin_messages.explain(error, "\n".join(imports), parameters)
        if message is None:
            raise
        raise UsageError(f"{flag}: {message}") from error


def _known_names() -> tuple[set[str], set[str]]:
    """Macros that are set or used, and parameters that are bound, so far."""
    config = gin.config_str()
    bound = set(re.findall(r"^([\w./]+) =", config, re.MULTILINE))
    used = set(re.findall(r"%([\w/]+)(?![\w./])", config))
    return {name for name in bound if "." not in name} | used, {name for name in bound if "." in name}


def _finalize() -> None:
    try:
        gin.finalize()
    except ValueError as error:
        message = gin_messages.explain_unfinished(error, _known_names()[0])
        if message is None:
            raise
        raise UsageError(message) from error


def _check_complete(job: Callable[..., Any], given: Collection[str]) -> None:
    """Refuses a job with a parameter that nobody gives a value, before anything costly is made."""
    bound = gin.get_bindings(job, resolve_references=False)
    for name, parameter in inspect.signature(job).parameters.items():
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if parameter.default is parameter.empty and not variadic and name not in bound and name not in given:
            raise UsageError(
                f"{job.__name__} needs a value for {name!r}: give --gin.{job.__name__}.{name}=VALUE,"
                f" or a --gin_file that binds it"
            )
