"""What works: a small call of every command, to which the attacks are put."""

from __future__ import annotations

READ = {"inputs": "asked.jsonl", "limit": 2, "max_new_tokens": 4}

GENERATE = "generate --model=target --drafter=draft --input=asked.jsonl --max_new_tokens=4 --batch_size=2"
CHAT = "generate --model=chatty --input=asked.jsonl --max_new_tokens=4 --batch_size=2 --chat"
EVALUATE = "evaluate --model=target --task=office_help_ende --limit=2"
SWEEP = (
    "sweep --target=target --drafter=d=draft --inputs=asked.jsonl --limit=2 --max_new_tokens=4 "
    "--timing_prompts=0 --block_sizes=2 --temperatures=0"
)
ADVISE = (
    "advise --target=target --drafter=draft --inputs=asked.jsonl --limit=2 --max_new_tokens=4 --block_sizes=2"
)
COLLECT = "collect --model=target --task=office_help_ende --limit=2 --max_new_tokens=4 --batch_size=2"
MERGE = "merge out"
REPORT = "report results.jsonl --training=distilled=metrics.jsonl"
WATCH = "watch served.jsonl --window=5"
JUDGE = "watch served.jsonl --at_least=0.1"
CHECK = "check results.jsonl served.jsonl --record"
POWER = "power results.jsonl --change=10"
DRAFT = "draft --target=target --layers=0"
SHORTLIST = "draft --target=target --draft=draft --shortlist=9 --texts=texts"
FROM_HF = "convert --from=hf --input=hf"
FROM_GGUF = "convert --from=gguf --input=tiny.gguf"
FROM_T5X = "convert --from=t5x --input=t5x --mlp_activations=gelu,linear"
FROM_ORBAX = "convert --from=t5x --input=orbax --mlp_activations=gelu,linear"
TO_HF = "convert --to=hf --input=chatty"
TO_GGUF = "convert --to=gguf --input=chatty"
REGISTRY, ROLLOUT = "registry check --registry=drafts", "rollout advance --registry=drafts --log=served.jsonl"
REDISTILL = "redistill --registry=drafts --log=served.jsonl"
PILOT = (
    "pilot --target=target --draft=draft --data=mine.jsonl --steps=4 --pilot_steps=2 --prompts=5 "
    "--least_prompts=5"
)
PILOTED = f"{PILOT} --output=piloted"
"""One that has ended, and is told again."""
DEPLOY = "deploy --engine=llama.cpp --target=chatty --draft=chatty"
_TASK = (
    "--gin_file=tasks/jsonl.gin --gin.TASK_NAME=mine --gin.TRAIN_FILE=train.jsonl "
    "--gin.VALIDATION_FILE=valid.jsonl --gin.INPUTS_LENGTH=16 --gin.TARGETS_LENGTH=8"
)
FINETUNE = (
    f"finetune --gin_file=tiny.gin --gin_file=runs/finetune.gin {_TASK} --gin.BATCH_SIZE=4 --gin.TRAIN_STEPS=1 "
    "--gin.WARMUP_STEPS=0"
)
DISTILL = (
    f"distill --gin_file=runs/distill.gin {_TASK} --gin.TARGET=target --gin.DRAFT=draft --gin.BATCH_SIZE=4 "
    "--gin.TRAIN_STEPS=1 --gin.WARMUP_STEPS=0 --check_prompts=0"
)
STORED = (
    "distill --gin_file=runs/distill_stored.gin --gin.TARGET_SET=texts --gin.DRAFT=draft --gin.BATCH_SIZE=2 "
    "--gin.MIXTURE_OR_TASK_NAME=office_help_ende --gin.TRAIN_STEPS=1 --gin.WARMUP_STEPS=0 --check_prompts=0"
)
DRYRUN = "dryrun --gin_file=tiny.gin --gin_file=runs/dryrun.gin --gin.BATCH_SIZE=2 --mesh=1x1"

FILES = {
    "generate": f"{GENERATE} --output={{}}",
    "evaluate": f"{EVALUATE} --output={{}}",
    "advise": f"{ADVISE} --output={{}}",
    "report": f"{REPORT} --output={{}}",
    "watch, state": f"{JUDGE} --state={{}}",
    "watch, metrics": f"{JUDGE} --prometheus={{}}",
    "watch, page": f"{JUDGE} --html={{}}",
    "convert to gguf": f"{TO_GGUF} --output={{}}",
}
"""Commands whose output is a file."""

INPUTS = {
    "generate": ("asked.jsonl", "target/model.json", "target/tokenizer.model", "draft/model.json"),
    "evaluate": ("target/model.json", "target/tokenizer.model"),
    "advise": ("asked.jsonl", "target/model.json", "draft/tokenizer.model"),
    "report": ("results.jsonl", "metrics.jsonl"),
    "watch, state": ("served.jsonl",),
    "watch, metrics": ("served.jsonl",),
    "watch, page": ("served.jsonl",),
    "convert to gguf": ("chatty/model.json", "chatty/tokenizer.json"),
}
"""What they read."""

FOLDERS = {
    "sweep": f"{SWEEP} --output_dir={{}}",
    "collect": f"{COLLECT} --output={{}}",
    "draft": f"{DRAFT} --output={{}}",
    "draft, shortlist": f"{SHORTLIST} --output={{}}",
    "convert hf": f"{FROM_HF} --output={{}}",
    "convert gguf": f"{FROM_GGUF} --output={{}}",
    "convert to hf": f"{TO_HF} --output={{}}",
    "registry, init": "registry init --registry={} --target=target --draft=draft",
}
"""Commands whose output is a folder; training, which takes longer to start, apart."""

TRAINING = {"finetune": f"{FINETUNE} --gin.MODEL_DIR={{}}", "distill": f"{DISTILL} --gin.MODEL_DIR={{}}"}

EVERY = {
    **{name: line.format("out") for name, line in FILES.items()},
    **{name: line.format("out") for name, line in FOLDERS.items()},
    **{name: line.format("out") for name, line in TRAINING.items()},
    "convert t5x": f"{FROM_T5X} --output=out",
    "convert orbax": f"{FROM_ORBAX} --output=out",
    "generate, shard": f"{GENERATE} --output=out/lines --shard=1/3",
    "collect, shard": f"{COLLECT} --output=out/texts --shard=0/2",
    "sweep, shard": f"{SWEEP} --output_dir=out/sweep --shard=1/2",
    "evaluate, shard": f"{EVALUATE} --batch_size=1 --output=out/numbers --shard=1/2",
    "merge": MERGE,
    "watch": WATCH,
    "check": CHECK,
    "power": f"{POWER} --against=supervised --power=0.9 --level=0.01 --block_size=5",
    "dryrun": DRYRUN,
    "distill from a set": f"{STORED} --gin.MODEL_DIR=out",
    "registry, list": "registry list --registry=drafts",
    "registry, check": f"{REGISTRY} --target=target",
    "pilot": PILOTED,
    "redistill": REDISTILL,
    "rollout": ROLLOUT,
    "deploy": DEPLOY,
    "draft, choices": "draft --target=target",
    "generate, chat": f"{CHAT} --output=out",
    "zoo": "zoo",
}
"""A call of every command that ends well; of `demo`, which takes minutes, there is none."""

ALONE = ("dryrun", "demo", "zoo --build")
"""Commands that get a process of their own: they set up JAX, or would train for hours."""
