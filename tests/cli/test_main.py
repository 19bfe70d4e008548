"""The console script: help at once, unknown commands by name."""

import json
import os
import platform
import subprocess
import sys

import pytest

from distillspec_jax import __version__
from distillspec_jax.cli import main as console

# Runs the console script as `python -m` would and tells what it imported and how much processor time it took.
PROBE = """
import json, resource, sys
from distillspec_jax.cli.main import main
try:
    status = main(sys.argv[1:])
except SystemExit as left:
    status = left.code
used = resource.getrusage(resource.RUSAGE_SELF)
modules = [name for name in sys.modules if "." not in name]
print(json.dumps([status, used.ru_utime + used.ru_stime, modules]), file=sys.stderr)
"""


def probe(*argv: str) -> tuple[int, float, set[str], str]:
    done = subprocess.run([sys.executable, "-c", PROBE, *argv], capture_output=True, text=True, check=True)
    status, seconds, modules = json.loads(done.stderr.splitlines()[-1])
    return status, seconds, set(modules), done.stdout


@pytest.mark.parametrize(
    "argv", [["--help"], *([command, "--help"] for command in console.COMMANDS)], ids=" ".join
)
def test_help_answers_without_jax_tensorflow_and_gin(argv):
    status, seconds, modules, output = probe(*argv)
    assert status in (0, None)
    assert "usage: distillspec" in output
    assert not modules & {"jax", "flax", "tensorflow", "seqio", "gin", "matplotlib", "scipy"}
    assert seconds < 1.5


def test_help_lists_every_command_with_a_line(capsys):
    assert console.main(["--help"]) == 0
    output = capsys.readouterr().out
    assert all(f"  {name}" in output and text in output for name, text in console.COMMANDS.items())
    statuses = " ".join(output.split())
    # Any other command just ends, but those below ask a question.
    assert "75 from `finetune`, `distill`, `redistill`, `pilot`, `demo` and `zoo --build`" in statuses
    assert "1 and 3 from `watch`" in statuses
    assert "1 and 3 from `redistill`" in statuses
    assert "1 and 3 from `pilot`" in statuses
    assert "1, 3 and 4 from `rollout`" in statuses


def test_no_command_is_bad_usage(capsys):
    assert console.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "usage: distillspec" in captured.err


def test_an_unknown_command_names_the_nearest(capsys):
    assert console.main(["distil"]) == 2
    assert capsys.readouterr().err.startswith(
        "distillspec distil: error: unknown command 'distil': did you mean 'distill'?"
    )


def test_version(capsys):
    assert console.main(["--version"]) == 0
    assert capsys.readouterr().out == f"distillspec_jax {__version__}\n"


@pytest.mark.parametrize("command", console.COMMANDS)
def test_a_commands_module_runs_by_itself(command):
    done = subprocess.run(
        [sys.executable, "-m", f"distillspec_jax.cli.{command}", "--no_such_flag"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"distillspec {command}: error: unknown flag --no_such_flag")
    assert done.stderr.count("\n") == 1


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, distillspec_jax; print(sorted({'jax', 'numpy', 'tensorflow', 'gin'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_training_program_starts_again_with_memory_that_is_kept(monkeypatch):
    """Once, by itself alone, and not where the user has settled it."""
    started = []
    monkeypatch.setattr(os, "execve", lambda *given: started.append(given))
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "argv", ["distillspec", "finetune"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "distillspec_jax.cli.main", "finetune"])
    monkeypatch.setattr(console, "_dispatch", lambda command, flags: 0)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert console.main(["finetune"]) == 0
    assert not started, "a call from Python"
    assert console.main() == 0
    ((program, argv, environment),) = started
    assert (program, argv) == (sys.executable, [sys.executable, *sys.orig_argv[1:]])
    assert "glibc.malloc.hugetlb=1" in environment["GLIBC_TUNABLES"]
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    console.main()
    assert len(started) == 1
