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
BINDINGS: tuple[str, ...] = (
    *(
        "SEED",
        "SEED=",
        "=5",
        "SEED=x",
        "SEED=1.5",
        "SEED=-1",
        "SEED=None",
        "SEED=true",
        "SEED=nan",
        f"SEED={'9' * 30}",
    ),
    *(
        "SEEDS=1",
        "seed=1",
        "a.b.c=1",
        "a..b=1",
        ".a=1",
        "a.=1",
        "A/B=1",
        "SEED=@x",
        "SEED=@x()",
        "SEED=%X",
        "SEED=[1,",
    ),
    *(
        "SEED={'a': 1}",
        "SEED=(1, 2)",
        "SEED='x",
        "SEED=\ud800",
        "SEED=\x00",
        "SEED=\n5",
        "SEED=5 # five",
        "SE ED=5",
    ),
    *(
        "BATCH_SIZE=0",
        "BATCH_SIZE=-1",
        "BATCH_SIZE=1.5",
        "BATCH_SIZE=x",
        "BATCH_SIZE=None",
        "BATCH_SIZE=[4]",
        "BATCH_SIZE=True",
    ),
    *("BATCH_SIZE=1000000000", f"BATCH_SIZE={10**12}", f"BATCH_SIZE={'9' * 30}"),
    *("TRAIN_STEPS=0", "TRAIN_STEPS=-1", "TRAIN_STEPS=x", "TRAIN_STEPS=None", "TRAIN_STEPS=1.5"),
    *(
        "LEARNING_RATE=nan",
        "LEARNING_RATE=-1",
        "LEARNING_RATE=inf",
        "LEARNING_RATE=x",
        "LEARNING_RATE=None",
        "LEARNING_RATE=1e30",
    ),
    *("WARMUP_STEPS=-1", "WARMUP_STEPS=x", "WARMUP_STEPS=1000000", "WARMUP_STEPS=None"),
    *(
        "SAVE_PERIOD=0",
        "SAVE_PERIOD=-1",
        "SAVE_PERIOD=x",
        "EVAL_PERIOD=-1",
        "EVAL_PERIOD=x",
        "EVAL_PERIOD=1.5",
    ),
    *("MICROBATCHES=0", "MICROBATCHES=3", "MICROBATCHES=-1", "MICROBATCHES=x", "MICROBATCHES=1000000"),
    *("ON_NON_FINITE='x'", "ON_NON_FINITE=None", "REMAT='x'", "REMAT=None", "SCAN_LAYERS=x", "SCAN_LAYERS=5"),
    *(
        "NUM_PARTITIONS=0",
        "NUM_PARTITIONS=3",
        "NUM_PARTITIONS=-1",
        "NUM_PARTITIONS=x",
        "FULLY_SHARDED=x",
        "FULLY_SHARDED=True",
    ),
    *(
        "TASK_FEATURE_LENGTHS=5",
        "TASK_FEATURE_LENGTHS={}",
        "TASK_FEATURE_LENGTHS={'inputs': 0, 'targets': 0}",
    ),
    *(
        "TASK_FEATURE_LENGTHS={'inputs': -1, 'targets': 8}",
        "TASK_FEATURE_LENGTHS={'inputs': 'x', 'targets': 8}",
    ),
    *(
        "TASK_FEATURE_LENGTHS={'inputs': 10**9, 'targets': 8}",
        "TASK_FEATURE_LENGTHS={'inputs': 1000000000, 'targets': 8}",
    ),
    *(
        "TASK_FEATURE_LENGTHS={'input': 8, 'target': 8}",
        "TASK_FEATURE_LENGTHS=[8, 8]",
        "TASK_FEATURE_LENGTHS=None",
    ),
    *(
        "MIXTURE_OR_TASK_NAME=",
        "MIXTURE_OR_TASK_NAME='x'",
        "MIXTURE_OR_TASK_NAME=5",
        "MIXTURE_OR_TASK_NAME=None",
        "MIXTURE_OR_TASK_NAME=['a']",
    ),
    *(
        "TOKENIZER_OF='x'",
        "TOKENIZER_OF='chatty'",
        "TOKENIZER_OF=5",
        "CHAT=True",
        "CHAT=5",
        "DROPOUT_RATE=2",
        "DROPOUT_RATE=-1",
        "DROPOUT_RATE='x'",
    ),
    *(
        "OPTIMIZER=None",
        "OPTIMIZER='adam'",
        "OPTIMIZER=@optimizers.adamw",
        "OPTIMIZER=@optimizers.nothing()",
        "SCHEDULE=None",
        "SCHEDULE='x'",
    ),
    *(
        "MODEL_DIR=None",
        "MODEL_DIR=5",
        "MODEL_DIR=",
        "MODEL_DIR='gs://bucket/x'",
        "MODEL_DIR='s3://bucket'",
        "MODEL_DIR=['out']",
        "MODEL_DIR=zoo:target",
    ),
)
OF_TRAINING: dict[str, tuple[str, ...]] = {
    "finetune": (
        *(
            "MODEL=None",
            "MODEL='x'",
            "MODEL=@t5.EncoderDecoder",
            "MODEL=@t5.T5Config()",
            "MODEL=5",
            "PACK=5",
            "PACK=True",
        ),
        *(
            "INITIAL_CHECKPOINT_PATH='nothing'",
            "INITIAL_CHECKPOINT_PATH='chatty'",
            "INITIAL_CHECKPOINT_PATH='out'",
            "INITIAL_CHECKPOINT_PATH=5",
        ),
        *(
            "t5.T5Config.vocab_size=-1",
            "t5.T5Config.vocab_size=5",
            "t5.T5Config.vocab_size='x'",
            "t5.T5Config.vocab_size=10000000000",
        ),
        *(
            "t5.T5Config.num_decoder_layers=1000000000",
            "t5.T5Config.emb_dim=0",
            "t5.T5Config.emb_dim=1000000000",
            "t5.T5Config.nothing=1",
        ),
        *(
            "t5.T5Config.mlp_activations=('x',)",
            "t5.T5Config.mlp_activations='gelu'",
            "t5.T5Config.dtype='x'",
            "t5.T5Config.num_heads=1.5",
        ),
        *(
            "TASK_NAME=''",
            "TASK_NAME=5",
            "TASK_NAME='a b'",
            "TASK_NAME='../x'",
            "TASK_NAME='wiki_leads'",
            "TASK_NAME='[/b]'",
            "TASK_NAME='\\ud800'",
        ),
        *(
            "TRAIN_FILE='nothing.jsonl'",
            "TRAIN_FILE='notes.txt'",
            "TRAIN_FILE='full'",
            "TRAIN_FILE=5",
            "TRAIN_FILE=None",
            "TRAIN_FILE=''",
        ),
        *(
            "TRAIN_FILE='/dev/null'",
            "TRAIN_FILE='loop'",
            "VALIDATION_FILE='nothing'",
            "VALIDATION_FILE='train.jsonl'",
            "VALIDATION_FILE=5",
        ),
        *(
            "INPUTS_FIELD='nothing'",
            "INPUTS_FIELD=''",
            "INPUTS_FIELD='{'",
            "INPUTS_FIELD='{0.__class__}'",
            "INPUTS_FIELD=5",
            "PREFIX=5",
        ),
        *(
            "INPUTS_LENGTH=0",
            "INPUTS_LENGTH=-1",
            "INPUTS_LENGTH='x'",
            "INPUTS_LENGTH=1000000000",
            "TARGETS_LENGTH=0",
            "TARGETS_LENGTH=1.5",
        ),
        *(
            "METRIC='x'",
            "METRIC=None",
            "METRIC=5",
            "PROMPT_WORDS=-1",
            "PROMPT_WORDS='x'",
            "PROMPT_WORDS=1.5",
            "VOCABULARY_FILE='notes.txt'",
        ),
        *(
            "VOCABULARY_FILE='nothing'",
            "VOCABULARY_FILE=5",
            "VOCABULARY_FILE='chatty/tokenizer.json'",
            "VOCABULARY_FILE='full'",
        ),
        *(
            "loop.LoopConfig.keep=0",
            "loop.LoopConfig.keep=-1",
            "loop.LoopConfig.keep='x'",
            "loop.LoopConfig.log_period=0",
            "loop.LoopConfig.max_seconds=-1",
        ),
    ),
    "distill": (
        *(
            "TARGET='nothing'",
            "TARGET='draft'",
            "TARGET='chatty'",
            "TARGET=5",
            "TARGET=None",
            "TARGET='notes.txt'",
            "TARGET='target@int8'",
            "TARGET='target@x'",
        ),
        *(
            "DRAFT='nothing'",
            "DRAFT='target'",
            "DRAFT='chatty'",
            "DRAFT=5",
            "DRAFT=None",
            "DRAFT='out'",
            "DRAFT='draft@bfloat16'",
            "DRAFT='lookup'",
        ),
        *(
            "DIVERGENCE='x'",
            "DIVERGENCE=5",
            "DIVERGENCE=None",
            "DIVERGENCE='jsd'",
            "DIVERGENCE=@divergences.JensenShannon",
            "DIVERGENCE=@divergences.Nothing()",
        ),
        *(
            "divergences.JensenShannon.beta=2",
            "divergences.ForwardKL.temperature=0",
            "divergences.ForwardKL.temperature=-1",
            "divergences.ForwardKL.top_k=-1",
        ),
        *(
            "divergences.ForwardKL.temperature='x'",
            "divergences.ForwardKL.temperature=nan",
            "divergences.ForwardKL.nothing=1",
        ),
        *(
            "SOURCE='x'",
            "SOURCE=5",
            "SOURCE=None",
            "SOURCE=@sources.OnPolicy",
            "SOURCE=@sources.Nothing()",
            "SOURCE=@sources.Mixture()",
        ),
        *(
            "sources.OnPolicy.temperature=-1",
            "sources.OnPolicy.temperature='x'",
            "sources.OnPolicy.nothing=1",
            "NORMALIZATION='x'",
            "NORMALIZATION=5",
        ),
        *(
            "DEPLOYMENT=5",
            "DEPLOYMENT='x'",
            "DEPLOYMENT=@deployment.Deployment",
            "PATIENCE=-1",
            "PATIENCE='x'",
            "PATIENCE=1",
        ),
        *(
            "MODEL_DIR='target'",
            "MODEL_DIR='draft'",
            "MODEL_DIR='target/checkpoints'",
            "MODEL_DIR='texts'",
            "MODEL_DIR='out/../draft'",
        ),
    ),
    "stored": (
        *(
            "TARGET_SET='nothing'",
            "TARGET_SET='target'",
            "TARGET_SET=5",
            "TARGET_SET=None",
            "TARGET_SET='texts/texts.jsonl'",
            "HELD_OUT_SET='nothing'",
        ),
        *(
            "HELD_OUT_SET='texts'",
            "HELD_OUT_SET=5",
            "MODEL_DIR='texts'",
            "MODEL_DIR='texts/logprobs'",
            "DIVERGENCE='nll'",
            "SOURCE='on_policy'",
        ),
        *(
            "DRAFT='chatty'",
            "DRAFT='nothing'",
            "MIXTURE_OR_TASK_NAME='wiki_leads'",
            "MIXTURE_OR_TASK_NAME='nothing'",
            "TARGET='chatty'",
            "TARGET='draft'",
        ),
    ),
    "dryrun": (
        *(
            "MODEL=None",
            "MODEL='x'",
            "TARGET_MODEL=5",
            "TARGET_MODEL='target'",
            "t5.T5Config.vocab_size=10000000000",
            "t5.T5Config.num_decoder_layers=100000",
        ),
        *(
            "t5.T5Config.emb_dim=1000000000",
            "SOURCE='x'",
            "DIVERGENCE='x'",
            "dryrun.dryrun.nothing=1",
            "dryrun.dryrun.num_partitions=3",
        ),
    ),
}
FLAGS: tuple[str, ...] = (
    *(
        "--gin_file=",
        "--gin_file=nothing.gin",
        "--gin_file=notes.txt",
        "--gin_file=full",
        "--gin_file=/dev/null",
        "--gin_file=loop",
    ),
    *(
        "--gin_file=target/model.json",
        "--gin_file=locked/x.gin",
        "--gin_file=\ud800",
        "--gin_file=a\x00b",
        f"--gin_file={'n' * 300}",
    ),
    *(
        "--gin_file=runs/finetun.gin",
        "--gin_file=runs",
        "--gin_file=models/zoo_target.gin",
        "--gin_file=runs/sweep.gin",
        "--gin_file=../tiny.gin",
    ),
    *(
        "--gin_search_paths=",
        "--gin_search_paths=nothing",
        "--gin_search_paths=,,",
        "--gin_search_paths=notes.txt",
        "--gin_search_paths=/",
    ),
    *("--gin_search_paths=\x00", "--gin.", "--gin.=", "--gin.x", "--gin"),
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
                found.append(Case("configuration", (*kept, "--gin_file=more.gin"), (step,), EITHER))
    return found
