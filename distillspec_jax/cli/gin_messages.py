"""gin's exceptions, each as one line with the nearest valid choice.

gin 0.5 tells its errors apart only by their text, so the patterns below are that text; a test provokes each
of them.
"""

from __future__ import annotations

import difflib
import inspect
import re
import sys
import tokenize
from collections.abc import Collection
from typing import Any

from distillspec_jax.errors import UsageError, nearest

CONFIG_ERRORS = (
    AttributeError,
    ImportError,
    NameError,
    OSError,
    SyntaxError,
    ValueError,
    tokenize.TokenError,
)
"""gin's exceptions about a configuration. Or an imported module raised it: `explain` is then None."""

_RENAMED = {
    "learning_rate": "the macro LEARNING_RATE, or optimizers.warmup_cosine.learning_rate",
    "warmup_steps": "the macro WARMUP_STEPS, or optimizers.warmup_cosine.warmup_steps",
    "hold_until": "the macro HOLD_UNTIL, or optimizers.warmup_cosine.hold_until",
    "final_fraction": "optimizers.warmup_cosine.final_fraction",
}
"""The training jobs' parameters in 0.1, and what has taken their place."""

_IMPORT = re.compile(
    r"^(?:from\s+(?P<package>[\w.]+)\s+)?import\s+(?P<name>[\w.]+)(?:\s+as\s+(?P<alias>\w+))?", re.M
)


def location(error: BaseException) -> tuple[str, int] | None:
    """Finds the innermost file and line that gin's error belongs to; None if it came from a flag."""
    if isinstance(error, SyntaxError):
        return (error.filename, error.lineno or 0) if error.filename else None
    found = re.search(r'In file "(.+?)", line (\d+)', str(error))
    return (found[1], int(found[2])) if found else None


def explain(error: BaseException, imports: str, bound_parameters: Collection[str]) -> str | None:
    """Says gin's message in one line.

    Args:
      error: one of CONFIG_ERRORS.
      imports: the import statements in force where it was raised, one a line (other lines are ignored).
      bound_parameters: parameters that the configuration binds, as valid choices.

    Returns:
      None if the error does not speak of the configuration: an imported module failed.
    """
    if isinstance(error, tokenize.TokenError):  # the only thing that it says is where the file ends
        return "a bracket or a string is not closed"
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    first, *rest = text.splitlines() or [""]
    known = _importable(imports)
    if isinstance(error, UsageError):  # from `bindings`' reader of files
        include = re.search(r"^\s*(include .+)$", text, re.MULTILINE)
        return f"{include[1]}: {first}" if include else first
    if match := re.match(r"Couldn't resolve selector (\S+?);", first):
        return f"there is no {match[1]!r}: {nearest(match[1], known)}"
    if match := re.match(r"'(\w+)' was not provided by an import statement", first):
        statement = re.search(r"^\s*([\w./]+)", rest[-1]) if rest else None
        ending = f".{statement[1]}" if statement else ""  # `train.seed` where files say `loop.train.seed`
        longer = [name for name in bound_parameters if ending and name.endswith(ending)]
        modules = {name.partition(".")[0] for name in known}
        hint = f"did you mean {longer[0]!r}?" if longer else nearest(match[1], modules)
        return f"no gin file imports {match[1]!r}: {hint}"
    if match := re.match(r"No configurable matching (?:reference )?'@?(.+?)(?:\(\))?'", first):
        functions = {parameter.rpartition(".")[0] for parameter in bound_parameters}
        return f"there is no function {match[1]!r}: {nearest(match[1], functions)}"
    if match := re.match(r"Configurable '(.+?)' doesn't have a parameter named '(.+?)'", first):
        function, parameter = match.groups()
        if parameter in _RENAMED and function.endswith(("finetune", "distill")):
            hint = f"write {_RENAMED[parameter]}"
        else:
            parameters = inspect.signature(known[function]).parameters if function in known else ()
            hint = nearest(parameter, parameters)
        return f"{function} has no parameter {parameter!r}: {hint}"
    if match := re.search(r"Failed to parse token '(.+)'", text):
        return f"{match[1]} is no Python literal, @function or %MACRO (a string needs quotes)"
    imported = any(_IMPORT.match(line.strip()) for line in rest)
    if isinstance(error, SyntaxError) or (isinstance(error, ImportError) and imported):
        return first[:1].lower() + first[1:]
    return None


def explain_unfinished(error: BaseException, macros: Collection[str]) -> str | None:
    """Says likewise what `gin.finalize` finds: a macro that is used, or is required, and has no value."""
    first = str(error).splitlines()[0]
    if match := re.match(r"(.+?)(/(?:gin\.)?macro\.value)? set to `%gin.REQUIRED`", first):
        macro = "the macro " if match[2] else ""
        return f"{macro}{match[1]} needs a value: give --gin.{match[1]}=VALUE"
    if first.startswith("No bindings specified for 'gin.macro'"):
        return "@gin.macro is no value: write %NAME"
    if match := re.match(r"No bindings specified for '(.+?)/gin\.macro'", first):
        close = difflib.get_close_matches(match[1], set(macros) - {match[1]}, n=1, cutoff=0.8)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        give = f"give --gin.{match[1]}=VALUE or a gin file that sets it"
        return f"the macro {match[1]} needs a value{hint}: {give}"
    return None


def _importable(imports: str) -> dict[str, Any]:
    """The public classes and functions of the modules that are imported, by their names in a gin file."""
    found = {}
    for match in _IMPORT.finditer(imports):
        full = ".".join(filter(None, (match["package"], match["name"])))
        module, name = sys.modules.get(full), match["alias"] or match["name"]
        for member, value in vars(module).items() if module else ():
            defined_there = getattr(value, "__module__", None) == full
            if callable(value) and defined_there and not member.startswith("_"):
                found[f"{name}.{member}"] = value
    return found
