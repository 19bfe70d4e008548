"""`python -m benchmarks.same_behaviour --reference=CHECKOUT`: the same texts and losses, bit for bit.

A checkout of an earlier commit and this one run the same commands on the zoo's pairs, each in a process of
its own, and all that they write but times is compared: texts and counts at temperature 0 and sampled, losses
of 50 steps of every source and divergence, a stored set of texts, sweeps, held-out losses, converted weights.
Nothing is imported from either tree, so that any refactoring can be held against its start.

    git worktree add /tmp/reference 8ef6fc7
    nice python -m benchmarks.same_behaviour --reference=/tmp/reference --only=generate,sweep

What the reference wrote is kept in the cache folder by commit and machine, and compiled programs beside it: a
change that leaves a program as it was does not compile it again. Ends with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parents[1]
RENAMED: Mapping[str, str] = {"logprobs": "laws", "top_logprobs": "law_ids"}
"""Fields and folders that have another name since: new name to the reference's."""
LEFT_OUT = (
    *("tokens_per_s", "step_s", "processor_s", "input_wait", "flops_utilisation"),
    *("seconds", "baseline_seconds", "first_call_seconds", "speedup", "speedup_ci95"),
    *("command", "git_revision", "provenance", "device", "version", "fingerprint"),
    *("drafted", "tested_at", "accepted_at"),
)
"""Fields of the clock, of the process, of the tree and its layout, and those that 0.1 lacks."""
COMPARED = ("*.jsonl", "*.npz", "*.safetensors", "out.json", "config.json", "set.json")
"""Files that are read, wherever a command leaves them."""
INPUTS = (
    "It is a genus of flowering plants in the daisy family.",
    "The village lies in the north of the district, near the border. It has a population of 1,204.",
    "He played as a midfielder for several clubs and scored 12 goals for the national team.",
    "The album was released in 1998.",
    "She studied law at the university and was elected to parliament in 2005, where she served two terms.",
    "It flows through three counties before joining the main river.",
    "The species is found in Brazil and Peru. Its natural habitat is tropical forest. It is threatened.",
    "The station opened in 1912 and closed in 1965.",
)
SAMPLING: list[dict[str, Any]] = [
    {"temperature": 0},
    {},
    {"top_k": 40},
    {"temperature": 0.7, "top_p": 0.9},
]
"""Of the prompts of `mixed.txt`, in turn; `plain.txt` has the same prompts without."""


def cases() -> dict[str, list[str]]:
    """Name to the commands that run one after another in a folder; a name begins with what it is about."""
    found: dict[str, list[str]] = {}
    for family, zoo, cells in (
        ("t5", "zoo:wiki_leads/", "--block_sizes=2,4 --rules=token,block --batch_sizes=2"),
        ("decoder", "zoo:wiki_leads/decoder_", "--block_sizes=3 --top_k=50 --measure_overlap"),
    ):
        greedy, mixed = "--input=plain.txt", "--input=mixed.txt --temperature=1 --seed=7"
        sampled, draft = f"{greedy} --temperature=1 --seed=7", f"--drafter={zoo}distilled"
        flags = {
            "greedy without draft": greedy,
            "greedy": f"{greedy} {draft}",
            "mixed without draft": mixed,
            "token rule": f"{mixed} {draft}",
            "block rule with shortlist": f"{sampled} --drafter={zoo}shortlisted --rule=block",
            "exponential rule": f"{sampled} {draft} --rule=exponential --epsilon=0.5",
            "3 candidates": f"{mixed} {draft} --candidates=3",
            "lookup": f"{mixed} --drafter=lookup",
            "int8": f"{mixed} {draft} --dtype=int8",
        }
        if family == "t5":
            flags |= {
                "linear rule": f"{sampled} {draft} --rule=linear --epsilon=0.5",
                "greedy draft with stop": f"{greedy} --drafter={zoo}greedy --stop=also --stop=born",
                "two drafters with samples": f"{sampled} {draft} --drafter=lookup --num_samples=2",
                "int8 draft": f"{sampled} {draft}@int8",
            }
        generate = f"generate --model={zoo}target --output=out.jsonl --max_new_tokens=24 --batch_size=4"
        found |= {f"generate {family}: {name}": [f"{generate} {more}"] for name, more in flags.items()}
        few = "--limit=8 --max_new_tokens=24 --timing_prompts=4 --repeats=1 --output_dir=out"
        found[f"sweep {family}"] = [f"sweep --target={zoo}target {draft} {cells} {few}"]
        found[f"evaluate {family}"] = [f"evaluate --model={zoo}target --limit=8 --output=out.json"]
        ways = (f"to=hf --input={zoo}draft --output=hf", "from=hf --input=hf --output=a")
        found[f"convert {family}"] = [f"convert --{way}" for way in (*ways, "to=hf --input=a --output=b")]
    return found | training_cases()


def training_cases() -> dict[str, list[str]]:
    """Every source and divergence, the decoder-only pair, a stored set, and supervised steps."""
    sources = {name: f"--gin.SOURCE=@sources.{name}()" for name in ("Fixed", "TargetGenerated", "OnPolicy")}
    parts = "[@sources.Fixed(),@sources.TargetGenerated(),@sources.OnPolicy()]"
    mixture = f"--gin.sources.Mixture.sources={parts} --gin.sources.Mixture.weights=[0.25,0.25,0.5]"
    sources["Mixture"] = f"--gin.SOURCE=@sources.Mixture() {mixture}"
    lengths = """--gin.TASK_FEATURE_LENGTHS="{'inputs': %d, 'targets': 16}" """
    run = "--gin.MODEL_DIR=out --gin.MIXTURE_OR_TASK_NAME=wiki_leads --gin.BATCH_SIZE=4"
    run += " --gin.loop.LoopConfig.log_period=1 --gin.data_config.DataConfig.eval_limit=4"
    distill = f"distill --check_prompts=0 --gin.TRAIN_STEPS=50 {run} --gin_file=runs/distill"
    pair = f".gin {lengths % 32} --gin.TARGET=zoo:wiki_leads/target --gin.DRAFT=zoo:wiki_leads/draft"
    found = {
        f"distill {source} {name}": [f"{distill}{pair} {flags} --gin.DIVERGENCE=@divergences.{name}()"]
        for source, flags in sources.items()
        for name in ("ForwardKL", "ReverseKL", "JensenShannon", "TotalVariation")
    }
    weights = "convert --to=hf --input=out --output=hf"
    found["distill decoder"] = [distill + pair.replace("leads/", "leads/decoder_"), weights]
    collect = "collect --model=zoo:wiki_leads/target --drafter=zoo:wiki_leads/distilled --task=wiki_leads"
    collect += " --limit=16 --max_new_tokens=16 --law_ids=8 --seed=5 --output=set"
    stored = f"_stored.gin {lengths % 192} --gin.TARGET_SET=set --gin.DRAFT=zoo:wiki_leads/draft"
    found["distill stored"] = [collect, distill + stored, weights]
    finetune = "finetune --gin_file=models/zoo_draft.gin --gin_file=runs/finetune.gin --gin.TRAIN_STEPS=20"
    found["finetune"] = [f"{finetune} {run} {lengths % 32}", weights]
    return found


def read(path: Path) -> Any:
    """A file as JSON values; arrays by type, shape and digest."""
    if path.suffix == ".npz":
        return {n: [str(x.dtype), list(x.shape), digest(x.tobytes())] for n, x in np.load(path).items()}
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        start = 8 + int.from_bytes(content[:8], "little")
        tensors = {n: t for n, t in json.loads(content[8:start]).items() if n != "__metadata__"}
        slices = {n: slice(*(start + at for at in t["data_offsets"])) for n, t in tensors.items()}
        return {n: [t["dtype"], t["shape"], digest(content[slices[n]])] for n, t in tensors.items()}
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in content.split(b"\n") if line]
    return json.loads(content)


def digest(content: bytes) -> str:
    """Half of a sha256."""
    return hashlib.sha256(content).hexdigest()[:32]


def leaves(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every value that is compared, as JSON with all digits, and the way to it by the reference's names."""
    if isinstance(value, dict):
        for key, held in value.items():
            if (name := "/".join(RENAMED.get(part, part) for part in key.split("/"))) not in LEFT_OUT:
                yield from leaves(held, f"{where}/{name}")
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from leaves(part, f"{where}[{i}]")
    else:
        yield where, json.dumps(value, ensure_ascii=False)


def difference(reference: dict[str, str], candidate: dict[str, str]) -> str | None:
    """The first value that one has and the other has not, or has differently."""
    pairs = ((at, reference.get(at, "absent"), candidate.get(at, "absent")) for at in reference | candidate)
    return next((f"{at}: {before} became {now}" for at, before, now in pairs if before != now), None)


@dataclasses.dataclass(frozen=True)
class Tree:
    """A checkout, and where compiled programs are kept."""

    root: Path
    programs: Path

    def python(self, cwd: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs this interpreter on the tree's package."""
        own = {"PYTHONPATH": str(self.root), "JAX_COMPILATION_CACHE_DIR": str(self.programs)}
        env = os.environ | own | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        return subprocess.run([sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True)

    def git(self, *arguments: str) -> str:
        """What git says of the checkout."""
        return subprocess.check_output(["git", "-C", str(self.root), *arguments], text=True).strip()

    def run(self, commands: Sequence[str]) -> Any:
        """What commands leave behind; raises RuntimeError if one fails or another package would run."""
        with tempfile.TemporaryDirectory() as folder:
            done = self.python(folder, "-c", "import distillspec_jax; print(distillspec_jax.__file__)")
            if Path(done.stdout.strip()) != self.root / "distillspec_jax/__init__.py":
                raise RuntimeError(f"{self.root} is not what Python imports: {done.stdout}{done.stderr}")
            for name, settings in (("plain.txt", [{}]), ("mixed.txt", SAMPLING)):
                rows = [settings[i % len(settings)] | {"inputs": text} for i, text in enumerate(INPUTS)]
                Path(folder, name).write_text("".join(json.dumps(row) + "\n" for row in rows))
            for command in commands:
                done = self.python(folder, "-m", "distillspec_jax.cli.main", *shlex.split(command))
                if done.returncode:
                    raise RuntimeError(f"{command}: exit status {done.returncode}: {done.stderr[-500:]}")
            paths = sorted(path for pattern in COMPARED for path in Path(folder).rglob(pattern))
            return {str(path.relative_to(folder)): read(path) for path in paths}


def machine() -> str:
    """What the bits may depend on apart from the code."""
    file = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", file.read_text()) if file.is_file() else []
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "numpy")]
    return ", ".join([*models[:1], f"{os.cpu_count()} cores", *versions])


def known(path: Path, name: str, commands: list[str], reference: Tree) -> Any:
    """The reference's result, from the cache or measured now."""
    cached: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if cached.get(name, {}).get("commands") != commands:
        cached[name] = {"commands": commands, "result": reference.run(commands)}
        path.with_suffix(".tmp").write_text(json.dumps(cached))
        path.with_suffix(".tmp").replace(path)
    return cached[name]["result"]


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.same_behaviour", description=__doc__)
    add = parser.add_argument
    add("--reference", type=Path, required=True, metavar="CHECKOUT", help="of the commit to compare with")
    add("--candidate", type=Path, default=HERE, metavar="CHECKOUT", help="default: the one of this script")
    add("--only", default="", metavar="NAME,NAME", help="beginnings of cases' names (default: all)")
    add("--cache", type=Path, default=HERE / ".cache/same_behaviour", metavar="FOLDER")
    flags = parser.parse_args(argv)
    flags.cache.mkdir(parents=True, exist_ok=True)
    programs = flags.cache.resolve() / "programs"
    reference, candidate = (Tree(path.resolve(), programs) for path in (flags.reference, flags.candidate))
    if reference.git("status", "--porcelain"):
        parser.error(f"--reference={flags.reference} has uncommitted changes")
    before, now = (tree.git("rev-parse", "--short=12", "HEAD") for tree in (reference, candidate))
    path = flags.cache / f"{before}-{digest(machine().encode())[:8]}.json"
    chosen = {k: v for k, v in cases().items() if k.startswith(tuple(flags.only.split(",")))}
    changed = ", changed," if candidate.git("status", "--porcelain") else ""
    print(f"{now}{changed} against {before} on {machine()}\n\n| case | values | |\n|---|---|---|", flush=True)
    equal = 0
    for name, commands in chosen.items():
        began = time.monotonic()
        theirs = dict(leaves(known(path, name, commands, reference)))
        try:
            found = difference(theirs, dict(leaves(candidate.run(commands))))
        except RuntimeError as error:
            found = " ".join(str(error).split())
        equal += found is None
        print(f"{time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        print(f"| {name} | {len(theirs):,} | {found or 'equal'} |", flush=True)
    print(f"\n{equal} of {len(chosen)} cases equal")
    return 0 if equal == len(chosen) > 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
