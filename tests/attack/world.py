"""The small world that every case finds: two pairs of models, a set, files of every kind, sources to convert.

target/, draft/      a T5 pair over the embedded vocabulary          texts/       a set of the target's
chatty/              a decoder with a chat template                  asked.jsonl  requests
served.jsonl         outputs of generate                             results.jsonl, metrics.jsonl
advice.json, held_out.json    what advise and evaluate write         train.jsonl, valid.jsonl, tiny.gin
hf/, t5x/, orbax/, tiny.gguf, spiece.model     of other frameworks
mine.jsonl, piloted/          prompts, and a pilot on them that has ended
drafts/              a registry of two versions, of which one is being rolled out
out-0000I-of-00002/  two shards of a run of generate
notes.txt, full/notes.txt, frozen.txt, locked/, empty/, unended/results.jsonl    the user's own
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

NOTES = "mine, and nobody else's\n"
SELDOM = ("t5x", "orbax", "chatty", "hf", "tiny.gguf", "texts", "drafts", "piloted")
"""Parts of many files, which only cases have that name them."""


def preload() -> None:
    """Imports all that commands import, but starts neither JAX nor TensorFlow."""
    import importlib

    import distillspec_jax
    from distillspec_jax.cli import noise
    from distillspec_jax.cli.main import COMMANDS

    noise.silence()
    for command in COMMANDS:
        importlib.import_module(f"distillspec_jax.cli.{command}")
    root = Path(distillspec_jax.__file__).parent
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root.parent).with_suffix("").parts
        if path.stem != "__main__" and "data" not in inside[1:2]:  # `data` imports TensorFlow
            importlib.import_module(".".join(inside[:-1] if path.stem == "__init__" else inside))
    for name in ("gguf", "matplotlib.pyplot", "scipy.stats", "jax.experimental.topologies"):
        importlib.import_module(name)


def enter(zoo: Path) -> None:
    """Makes the pair the zoo of this process."""
    from distillspec_jax.models import zoo_manifest

    zoo_manifest.ROOT = zoo
    zoo_manifest.manifest.cache_clear()


def copy(world: Path, root: Path, named: str) -> None:
    """Copies the world, of its seldom parts those that a text names."""
    left_out = [name for name in SELDOM if name not in named]
    shutil.copytree(
        world, root, symlinks=True, ignore=lambda folder, _: left_out if folder == str(world) else ()
    )


def build(root: Path) -> None:
    """Writes the world into a new folder."""
    import jax

    from distillspec_jax.interop import convert
    from tests import pair
    from tests.cli.conftest import TINY_GIN

    sys.argv = ["distillspec", "attack"]
    root.mkdir(parents=True)
    os.chdir(root)
    pair.write(Path("target"), pair.target())
    pair.write(Path("draft"), pair.draft())
    pair.write(Path("chatty"), _chatty())
    _zoo(root.parent / "zoo")
    _lines("asked.jsonl", [{"id": i, "inputs": text, "targets": "b"} for i, text in enumerate("abc")])
    _lines("train.jsonl", [{"inputs": f"say {i:02}", "targets": f"{i:02} is said"} for i in range(12)])
    _lines("valid.jsonl", [{"inputs": f"say {i:02}", "targets": f"{i:02} is said"} for i in range(4)])
    _lines("mine.jsonl", [{"inputs": f"ask {i:02}"} for i in range(40)])
    _measurements()
    _set(Path("texts"))
    _registry("drafts")
    _pilot()
    convert.export("chatty", "hf")
    _sources(jax)
    Path("tiny.gin").write_text(TINY_GIN)
    for name in ("notes.txt", "full/notes.txt", "frozen.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(NOTES)
    Path("unended").mkdir()
    Path("unended/results.jsonl").write_text("rows of my own\nand one more")  # without a newline
    Path("empty").mkdir()
    Path("locked").mkdir()
    Path("locked/notes.txt").write_text(NOTES)
    Path("frozen.txt").chmod(0o444)
    Path("locked").chmod(0o555)


def _chatty() -> Any:
    from tests import pair

    words = pair.without_padding()
    chat = {"template": "{{ bos_token }}{{ messages[0]['content'] }}", "bos_token": "<s>"}
    lengths = {"inputs": 32, "targets": 8}
    card = dataclasses.replace(words.card, chat=chat, feature_lengths=lengths)
    return dataclasses.replace(words, name="chatty", card=card)


def _zoo(root: Path) -> None:
    from tests import pair

    names = ("target", "draft")
    pair.write(root / "target", pair.target())
    pair.write(root / "draft", pair.draft())
    models = {name: {"description": name, "parameters": 1, "quality": {}} for name in names}
    aliases = {f"wiki_leads/{name}": name for name in names}
    (root / "zoo.json").write_text(json.dumps({"models": models, "aliases": aliases}))


def _measurements() -> None:
    from distillspec_jax.generation.request_files import GenerationRequest, write_line
    from distillspec_jax.generation.text_generator import Generation
    from tests.evaluation import simulated

    served = [
        write_line(
            GenerationRequest(f"text {i}", "", {"id": i}), Generation(f"text {i}", "b", 4, 2, 2, 3, "eos")
        )
        for i in range(12)
    ]
    Path("served.jsonl").write_text("".join(line + "\n" for line in served))
    _lines("results.jsonl", [row.to_json() for row in simulated.rows(prompts=6, block_sizes=(5,))])
    report = {"loss": 2.0, "gradient_norm": 1.0, "acceptance_on_batch": 0.5}
    _lines(
        "metrics.jsonl",
        [{"step": step, "split": split, **report} for step in (10, 20) for split in ("train", "eval")],
    )
    number = {"value": 2.0, "ci95": [1.0, 3.0]}
    held = {"examples": 2, "tokens": 9, "nll_per_token": number, "perplexity": number}
    _shards(served)
    Path("held_out.json").write_text(json.dumps({"target": held}))
    Path("advice.json").write_text(json.dumps({"target": "t", "draft": "d", "plain_ms": 1.0, "sizes": []}))


def _shards(served: list[str]) -> None:
    """Two shards of a run of generate, whole."""
    from distillspec_jax.generation.file_job import LINES
    from distillspec_jax.shards import Part, Shard

    for index in range(2):
        folder = Shard(index, 2).folder("out")
        folder.mkdir()
        share = served[6 * index : 6 * index + 6]
        Part("generate", index, 2, len(served), {LINES: len(share)}, {"seed": 0, "stop": []}).begin(folder)
        (folder / LINES).write_text("".join(line + "\n" for line in share))


def _set(root: Path) -> None:
    """A set as `collect` writes it, with made-up texts."""
    import numpy as np

    from distillspec_jax import model_card
    from distillspec_jax.data.target_set import HEADER_FILE, TEXTS_FILE, Header, logprobs_file
    from distillspec_jax.models import fingerprints
    from tests import pair

    target, rows, k = pair.target(), 3, 2
    header = Header(
        task="office_help_ende",
        split="train",
        prefix=pair.PREFIX,
        feature_lengths={"inputs": pair.INPUTS, "targets": pair.TARGETS},
        rows=rows,
        samples=1,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        seed=0,
        target="target",
        target_fingerprint=fingerprints.of_params(target.params),
        tokenizer_fingerprint=str(target.card.tokenizer_fingerprint),
        logits=target.model.vocab_size,
        top_logprobs=k,
    )
    assert target.tokenizer_bytes is not None
    root.mkdir()
    (root / model_card.tokenizer_file(target.tokenizer_bytes)).write_bytes(target.tokenizer_bytes)
    (root / HEADER_FILE).write_text(json.dumps({"header": dataclasses.asdict(header), "provenance": {}}))
    tokens = [300, 400, 1]
    text = {"inputs": "a", "outputs": "b", "tokens": tokens, "finish_reason": "eos"}
    _lines(str(root / TEXTS_FILE), [{"row": i, "sample": 0, **text} for i in range(rows)])
    path, count = logprobs_file(root, 0), rows * len(tokens)
    path.parent.mkdir()
    ids = np.tile(np.array([[300, 400]], header.id_type), (count, 1))
    log_p, log_tail = np.full((count, k), np.log(0.4), np.float16), np.full(count, np.log(0.2), np.float32)
    np.savez(path, ids=ids, log_p=log_p, log_tail=log_tail)


def _registry(path: str) -> None:
    from distillspec_jax.operations import admission, prompts, rollout
    from distillspec_jax.operations.draft_registry import PROMPTS

    registry = admission.create(path, "target", "draft")
    admission.add(registry, "draft")
    rollout.start(registry, "v2", rollout.Settings(), "a try")
    old = [prompts.Prompt(inputs=f"asked {i}", since="v1") for i in range(3)]
    prompts.write(registry.path / PROMPTS, old)


def _pilot() -> None:
    """Runs a pilot without decoding and training; its page and numbers are what a call tells again."""
    import pytest

    from distillspec_jax.cli import asked_flags, pilot
    from distillspec_jax.operations import asked_training
    from tests import pair
    from tests.attack.cases.commands import PILOTED
    from tests.operations import trainers

    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(io.StringIO()):
        trainers.count(patched)
        patched.setattr(asked_training, "task", lambda *_: "asked")
        patched.setattr(asked_flags, "trainer", lambda flags, target: trainers.Trainer(pair.target()))
        assert pilot.main(PILOTED.split()[1:]) == 0


def _sources(jax: Any) -> None:
    import numpy as np
    import orbax.checkpoint as ocp

    from distillspec_jax.interop import t5x
    from distillspec_jax.tokenization.tokenizer import embedded_tokenizer
    from tests.interop import tiny_gguf
    from tests.interop.conftest import ARCHIVE

    with tarfile.open(ARCHIVE) as archive:
        archive.extractall("unpacked", filter="data")
    os.replace("unpacked/t5x_tiny/checkpoint_0", "t5x")
    shutil.rmtree("unpacked")
    state = {"state": {"step": np.int32(7), "param_states": {}}, "target": t5x.read("t5x").params}
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True)
    options = ocp.CheckpointManagerOptions(step_prefix="checkpoint", enable_async_checkpointing=False)
    run = Path("run").absolute()
    with ocp.CheckpointManager(run, options=options, item_handlers={"state": handler}) as manager:
        manager.save(7, args=ocp.args.Composite(state=ocp.args.PyTreeSave(state)))
    os.replace("run/checkpoint_7", "orbax")
    shutil.rmtree("run")
    tiny_gguf.write(Path("tiny.gguf"))
    Path("spiece.model").write_bytes(embedded_tokenizer().model_bytes)


def _lines(name: str, rows: list[Any]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
