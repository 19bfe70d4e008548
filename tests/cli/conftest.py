import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distillspec_jax.models import zoo_manifest
from tests import pair

TINY_GIN = f"""
from __gin__ import dynamic_registration
from distillspec_jax.models import t5

MODEL = @t5.EncoderDecoder()
t5.EncoderDecoder.config = @t5.T5Config()
t5.T5Config:
  vocab_size = {pair.MODEL.vocab_size}
  emb_dim = 8
  num_heads = 1
  head_dim = 8
  num_encoder_layers = 1
  num_decoder_layers = 1
  mlp_dim = 16
"""


Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, text: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return str(path)

    return write_file


@pytest.fixture(scope="session")
def target_dir(tmp_path_factory) -> str:
    return pair.write(tmp_path_factory.mktemp("pair") / "target", pair.target())


@pytest.fixture(scope="session")
def draft_dir(target_dir) -> str:
    return pair.write(Path(target_dir).parent / "draft", pair.draft())


@pytest.fixture(scope="session")
def my_task(tmp_path_factory) -> list[str]:
    """Flags of a task of a user's own: 12 rows to learn from, 4 held out."""
    folder = tmp_path_factory.mktemp("task")
    for name, rows in (("train", 12), ("validation", 4)):
        lines = ({"inputs": f"say {i:02}", "targets": f"{i:02} is said"} for i in range(rows))
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = [f"--gin.{n.upper()}_FILE={folder / n}.jsonl" for n in ("train", "validation")]
    lengths = ["--gin.INPUTS_LENGTH=16", "--gin.TARGETS_LENGTH=8", "--gin.BATCH_SIZE=4"]
    return ["--gin_file=tasks/jsonl.gin", "--gin.TASK_NAME=mine", "--gin.PREFIX=my: ", *files, *lengths]


@pytest.fixture(scope="session")
def tiny_gin(tmp_path_factory) -> str:
    """`--gin_file` of a model of a few thousand parameters."""
    path = tmp_path_factory.mktemp("gin") / "tiny.gin"
    path.write_text(TINY_GIN)
    return f"--gin_file={path}"


@pytest.fixture
def pair_in_zoo(target_dir, draft_dir, monkeypatch) -> Iterator[None]:
    """`zoo:wiki_leads/target` and the like are the pair."""
    names = ("target", "draft")
    manifest = {"models": {n: {} for n in names}, "aliases": {f"wiki_leads/{n}": n for n in names}}
    root = Path(target_dir).parent
    (root / "zoo.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(zoo_manifest, "ROOT", root)
    zoo_manifest.manifest.cache_clear()
    yield
    zoo_manifest.manifest.cache_clear()
