"""What gin's exceptions mean, in one line with the nearest valid choice.

gin 0.5 tells its errors apart only by their text, so the patterns below are that text; a test provokes each
of them.
"""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Collection, Iterable
from typing import Any

from distillspec_jax.errors import UsageError, nearest

CONFIG_ERRORS = (AttributeError, ImportError, NameError, OSError, SyntaxError, ValueError)
"""What gin raises about a configuration. Or an imported module raised it: `explain` is then None."""

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
    """The innermost file and line that gin's error belongs to, or None if it came from a flag."""
    if isinstance(error, SyntaxError):
        return (error.filename, error.lineno or 0) if error.filename else None
    found = re.search(r'In file "(.+?)", line (\d+)', str(error))
    return (found[1], int(found[2])) if found else None


def explain(
    error: BaseException,
    imports: str,
    bound_parameters: Collection[str],
) -> str | None:
    """gin's message as one line.

    Args:
      error: one of CONFIG_ERRORS.
      imports: the import statements in force where it was raised, one a line (other lines are ignored).
      bound_parameters: parameters that the configuration binds, as valid choices.

    Returns:
      None if the error does not speak of the configuration: an imported module failed.
    """
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    first, *rest = text.splitlines() or [""]
    symbols = _symbols(imports)

    if isinstance(error, UsageError):  # From our own reader of files.
        include = re.search(r"^\s*(include .+)$", text, re.MULTILINE)
        return f"{include[1]}: {first}" if include else first
    if match := re.match(r"Couldn't resolve selector (\S+?);", first):
        return f"there is no {match[1]!r}: {nearest(match[1], _members(match[1], symbols))}"
    if match := re.match(r"'(\w+)' was not provided by an import statement", first):
        hint = _nearest_import(match[1], rest, symbols, bound_parameters)
        return f"no gin file imports {match[1]!r}: {hint}"
    if match := re.match(r"No configurable matching (?:reference )?'@?(.+?)(?:\(\))?'", first):
        functions = {parameter.rpartition(".")[0] for parameter in bound_parameters}
        return f"there is no function {match[1]!r}: {nearest(match[1], functions)}"
    if match := re.match(r"Configurable '(.+?)' doesn't have a parameter named '(.+?)'", first):
        if match[2] in _RENAMED and match[1].endswith(("finetune", "distill")):
            hint = f"write {_RENAMED[match[2]]}"
        else:
            hint = nearest(match[2], _parameters(match[1], symbols))
        return f"{match[1]} has no parameter {match[2]!r}: {hint}"
    if match := re.search(r"Failed to parse token '(.+)'", text):
        return f"{match[1]} is no Python literal, @function or %MACRO (a string needs quotes)"
    imported = any(_IMPORT.match(line.strip()) for line in rest)
    if isinstance(error, SyntaxError) or (isinstance(error, ImportError) and imported):
        return first[:1].lower() + first[1:]
    return None


def explain_unfinished(error: BaseException, macros: Collection[str]) -> str | None:
    """The same for what `gin.finalize` finds: a macro that is used, or is required, and has no value."""
    first = str(error).splitlines()[0]
    if match := re.match(r"(.+?)/(?:gin\.)?macro\.value set to `%gin.REQUIRED`", first):
        return f"the macro {match[1]} needs a value: give --gin.{match[1]}=VALUE"
    if match := re.match(r"(.+?) set to `%gin.REQUIRED`", first):
        return f"{match[1]} needs a value: give --gin.{match[1]}=VALUE"
    if match := re.match(r"No bindings specified for '(.+?)/gin\.macro'", first):
        close = difflib.get_close_matches(match[1], set(macros) - {match[1]}, n=1, cutoff=0.8)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        give = f"give --gin.{match[1]}=VALUE or a gin file that sets it"
        return f"the macro {match[1]} needs a value{hint}: {give}"
    return None


def _symbols(imports: str) -> dict[str, Any]:
    """What each import statement binds: name -> module."""
    bound = {}
    for match in _IMPORT.finditer(imports):
        package, name, alias = match["package"], match["name"], match["alias"]
        module = f"{package}.{name}" if package else name
        if alias or package:
            bound[alias or name] = sys.modules.get(module)
        else:
            top = name.partition(".")[0]
            bound[top] = sys.modules.get(top)
    return {name: module for name, module in bound.items() if module is not None}


def _nearest_import(
    symbol: str, quoted: list[str], symbols: dict[str, Any], parameters: Collection[str]
) -> str:
    """A hint for a name whose first part nothing imports: `train.seed` where files say `loop.train.seed`."""
    statement = re.search(r"^\s*([\w./]+)", quoted[-1]) if quoted else None
    name = statement[1] if statement else symbol
    longer = [parameter for parameter in parameters if parameter.endswith(f".{name}")]
    return f"did you mean {longer[0]!r}?" if longer else nearest(symbol, symbols)


def _members(selector: str, symbols: dict[str, Any]) -> Iterable[str]:
    """Full names of what a selector could have meant: members of the module or class where it went astray."""
    prefix, value = "", None
    for part in selector.split("."):
        following = symbols.get(part) if value is None else getattr(value, part, None)
        if following is None:
            break
        prefix, value = f"{prefix}{part}.", following
    for name, member in vars(value).items() if value is not None else ():
        defined_here = not inspect.ismodule(value) or getattr(member, "__module__", None) == value.__name__
        if not name.startswith("_") and callable(member) and defined_here:
            yield prefix + name


def _parameters(selector: str, symbols: dict[str, Any]) -> list[str]:
    value: Any = None
    for part in selector.split("."):
        value = symbols.get(part) if value is None else getattr(value, part, None)
    try:
        return list(inspect.signature(value).parameters)
    except TypeError:  # A selector that only gin's registry knows.
        return []
