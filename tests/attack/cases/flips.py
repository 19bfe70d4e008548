"""Files with some bytes changed, cut off or doubled, seed by seed, for every reader."""

from __future__ import annotations

from tests.attack.case import EITHER, Case, call
from tests.attack.cases.commands import (
    DRAFT,
    FROM_GGUF,
    FROM_HF,
    FROM_ORBAX,
    FROM_T5X,
    REPORT,
    SHORTLIST,
    WATCH,
)

SEEDS = 500

_READ_ROWS = "of('distillspec_jax.reports.tables').print_table(of('distillspec_jax.evaluation.results').read(['results.jsonl']))"
_READ_ASKED = "of('distillspec_jax.generation.request_files').read_requests('asked.jsonl')"
_READ_TEXT = "of('distillspec_jax.tokenization.tokenizer').Tokenizer.from_file('chatty/tokenizer.json', [273]).encode('a cat')"
_READ_PIECES = (
    "of('distillspec_jax.tokenization.tokenizer').Tokenizer.from_file('spiece.model').encode('a cat')"
)

READERS: dict[str, tuple[str, ...]] = {
    # what is flipped: the calls that read it; beyond the first, a tenth as often
    "target/model.json": (
        "draft --target=target",
        f"{DRAFT} --output=out",
        "generate --model=target --input=asked.jsonl --output=out",
    ),
    "target/checkpoints": ("convert --to=hf --input=target --output=out",),
    "target/tokenizer.model": ("convert --to=hf --input=target --output=out",),
    "texts/set.json": (f"{SHORTLIST} --output=out",),
    "texts/texts.jsonl": (f"{SHORTLIST} --output=out",),
    "texts/logprobs/00000.npz": (f"{SHORTLIST} --output=out",),
    "results.jsonl": (f"api {_READ_ROWS}", REPORT),
    "metrics.jsonl": ("api of('distillspec_jax.training_log').read('metrics.jsonl')", REPORT),
    "served.jsonl": (WATCH,),
    "asked.jsonl": (f"api {_READ_ASKED}", "generate --model=target --input=asked.jsonl --output=out"),
    "chatty/tokenizer.json": (f"api {_READ_TEXT}",),
    "spiece.model": (f"api {_READ_PIECES}",),
    "hf/model.safetensors": (f"{FROM_HF} --output=out",),
    "hf/config.json": (f"{FROM_HF} --output=out",),
    "hf/tokenizer.json": (f"{FROM_HF} --output=out",),
    "tiny.gguf": (f"{FROM_GGUF} --output=out",),
    "t5x": (f"{FROM_T5X} --output=out",),
    "orbax": (f"{FROM_ORBAX} --output=out",),
}


def cases() -> list[Case]:
    found = []
    for name, (first, *others) in READERS.items():
        for seed in range(SEEDS):
            found.append(_flipped(first, name, seed))
        for line in others:
            found += [_flipped(line, name, seed) for seed in range(SEEDS, SEEDS + SEEDS // 10)]
    return found


def _flipped(line: str, name: str, seed: int) -> Case:
    if line.startswith("api "):
        return Case("flips", ("api", line.removeprefix("api ")), (("flip", name, seed),), EITHER)
    return call("flips", line, ("flip", name, seed), may=EITHER)
