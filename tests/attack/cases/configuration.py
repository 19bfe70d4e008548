"""gin: files that are missing, broken or of another job, names that nothing has, values that nothing takes."""

from __future__ import annotations

import shlex

from tests.attack.case import EITHER, REFUSED, Case
from tests.attack.cases.commands import (
    ADVISE,
    COLLECT,
    DISTILL,
    DRYRUN,
    EVALUATE,
    FINETUNE,
    GENERATE,
    STORED,
    SWEEP,
)
from tests.attack.cases.gin_text import BINDINGS, FLAGS, OF_TRAINING

JOBS = {
    "finetune": f"{FINETUNE} --gin.MODEL_DIR=out",
    "distill": f"{DISTILL} --gin.MODEL_DIR=out",
    "stored": f"{STORED} --gin.MODEL_DIR=out",
    "dryrun": DRYRUN,
}
"""Training, and what it would cost."""
SET_BY_GIN = {
    "generate": f"{GENERATE} --output=out",
    "evaluate": EVALUATE,
    "advise": ADVISE,
    "collect": f"{COLLECT} --output=out",
    "sweep": f"{SWEEP} --output_dir=out",
}
"""Commands whose flags a gin file may set."""

GIN_FILES: tuple[tuple[str, str], ...] = (
    # content of a further gin file, how it may end
    ("", EITHER),
    ("# nothing\n", EITHER),
    ("SEED = 5\n", EITHER),
    ("SEED = \n", REFUSED),
    ("SEED = five\n", REFUSED),
    ("SEED == 5\n", REFUSED),
    ("= 5\n", REFUSED),
    ("SEED\n", REFUSED),
    ("SEED = (1,\n", REFUSED),
    ("SEED = '\n", REFUSED),
    ("SEED = 'a\x00b'\n", REFUSED),
    ("\x00\x00", REFUSED),
    ("\udcff", REFUSED),
    ("SEED = @nothing()\n", REFUSED),
    ("SEED = @nothing\n", REFUSED),
    ("SEED = %NOTHING\n", REFUSED),
    ("SEED = %SEED\n", REFUSED),
    ("A = %B\nB = %A\nSEED = %A\n", REFUSED),
    ("nothing.x = 5\n", REFUSED),
    ("a/b/c.x = 5\n", REFUSED),
    ("import nothing\n", REFUSED),
    ("from nothing import x\n", REFUSED),
    ("from __gin__ import dynamic_registration\nimport nothing\n", REFUSED),
    ("from __gin__ import dynamic_registration\nfrom distillspec_jax import nothing\n", REFUSED),
    ("from __gin__ import nothing\n", REFUSED),
    ("include 'nothing.gin'\n", REFUSED),
    ("include 'more.gin'\n", REFUSED),
    ("include '.'\n", REFUSED),
    ("include '/dev/null'\n", EITHER),
    ("include 'notes.txt'\n", REFUSED),
    ("include 5\n", REFUSED),
    ("include\n", REFUSED),
    ("  SEED = 5\n", EITHER),
    ("SEED = 5; OTHER = 6\n", REFUSED),
    ("[" * 10_000, REFUSED),
    ("SEED = " + "[" * 10_000 + "]" * 10_000, REFUSED),
    ("SEED = " + "9" * 5000 + "\n", REFUSED),
    ("SEED = " + "-" * 10_000 + "1\n", REFUSED),
    ("x" * 1_000_000, REFUSED),
    ("SEED = 5\n" * 2000, EITHER),
    ("SEED = {'a': 1, **{}}\n", REFUSED),
    ("SEED = [x for x in y]\n", REFUSED),
    ("SEED = 1 + 1\n", REFUSED),
    ("SEED = open('stolen', 'w')\n", REFUSED),
    ("macro.value = 5\n", EITHER),
    ("gin.macro.value = 5\n", EITHER),
    ("SEED = @gin.macro\n", EITHER),
    ("SEED = %gin.REQUIRED\n", EITHER),
    ("singleton.constructor = @x\n", REFUSED),
)
COMMAND_VALUES = (
    "5",
    "-1",
    "'x'",
    "None",
    "[]",
    "{}",
    "True",
    "1.5",
    "%X",
    "@x",
    "",
    "[1, 'a']",
    "'\\ud800'",
)


def cases() -> list[Case]:
    found = []
    for name, line in {**JOBS, **SET_BY_GIN}.items():
        argv, alone = tuple(shlex.split(line)), name == "dryrun"
        for flag in FLAGS:
            steps = (("symlink", "loop", "loop"),) if flag.endswith("=loop") else ()
            found.append(Case("configuration", (*argv, flag), steps, EITHER, alone=alone))
    for line in (JOBS["finetune"], SET_BY_GIN["generate"]):
        argv, alone = tuple(shlex.split(line)), False
        for content, may in GIN_FILES:
            may = may if line.startswith("finetune") else EITHER
            step = ("write", "more.gin", content)
            found.append(Case("configuration", (*argv, "--gin_file=more.gin"), (step,), may, alone=alone))
    for name, more in OF_TRAINING.items():
        argv = tuple(shlex.split(JOBS[name]))
        loop = (("symlink", "loop", "loop"),)
        for binding in (*more, *(BINDINGS if name in ("finetune", "distill") else BINDINGS[::4])):
            may = REFUSED if binding.startswith("MODEL_DIR='") and name != "finetune" else EITHER
            found.append(
                Case("configuration", (*argv, f"--gin.{binding}"), loop, may, alone=name == "dryrun")
            )
    for name, line in SET_BY_GIN.items():
        command = "sweep.sweep" if name == "sweep" else name
        from tests.attack.cases import numbers

        for action in numbers.flags(name):
            if action.dest.startswith(("gin", "_")):
                continue
            for value in COMMAND_VALUES[:: 1 if name == "generate" else 4]:
                bound = f"{command}.{action.dest} = {value}\n"
                imports = "from distillspec_jax.evaluation import sweep\n" if name == "sweep" else ""
                header = f"from __gin__ import dynamic_registration\n{imports}" if imports else ""
                kept = tuple(w for w in shlex.split(line) if w.split("=")[0] != action.option_strings[0])
                step = ("write", "more.gin", header + bound)
                file = Case(
                    "configuration", (*kept, "--gin_file=more.gin"), (step,), EITHER, makes=("x", "x/*")
                )
                found.append(file)
    return found
