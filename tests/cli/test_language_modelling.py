"""A decoder-only network on plain text: trained, evaluated, gone on with, and sampled from nothing."""

import json
import math

import jax
import numpy as np
import pytest

from distillspec_jax.cli.main import main
from distillspec_jax.generation.prompt_format import prompt_format
from distillspec_jax.models import pretrained
from distillspec_jax.tokenization.tokenizer import embedded_tokenizer
from tests import tiny

TINY = """
from __gin__ import dynamic_registration
from distillspec_jax.models import decoder_only

MODEL = @decoder_only.DecoderOnly()
decoder_only.DecoderOnly.config = @decoder_only.DecoderOnlyConfig()
decoder_only.DecoderOnlyConfig:
  vocab_size = 4096
  emb_dim = 8
  num_heads = 1
  head_dim = 8
  num_layers = 1
  mlp_dim = 16
  logits_via_embedding = True
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("text")
    rows = [{"text": f"the {word} sat on the mat and {word} it was"} for word in ("cat", "dog", "ox")]
    for name in ("train", "validation", "test"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tiny.gin").write_text(TINY)
    task = ["--gin_file=tasks/jsonl.gin", "--gin.TASK_NAME=cats", "--gin.PROMPT_WORDS=0"]
    task += [f"--gin.{name.upper()}_FILE={folder / name}.jsonl" for name in ("train", "validation", "test")]
    task += [f"--gin.{name}_FIELD=text" for name in ("INPUTS", "TARGETS")]
    task += ["--gin.INPUTS_LENGTH=16", "--gin.TARGETS_LENGTH=32"]
    run = [f"--gin_file={folder / 'tiny.gin'}", "--gin_file=runs/finetune.gin", *task]
    run += [f"--gin.MODEL_DIR={folder / 'run'}", "--gin.TRAIN_STEPS=2", "--gin.BATCH_SIZE=3"]
    assert main(["finetune", *run]) == 0
    return str(folder / "run")


def test_prompts_go_on_after_the_end_of_another_text(trained):
    model = pretrained.load(trained)
    tokenizer, form = embedded_tokenizer(), prompt_format(model)
    assert form.ids("the cat", "") == [1, *tokenizer.encode("the cat")]
    assert form.ids("", "") == [1]


def test_perplexity_is_that_of_the_logits(trained, tmp_path, capsys):
    flags = ["--task=cats", "--split=test", "--batch_size=2", f"--output={tmp_path / 'found.json'}"]
    assert main(["evaluate", f"--model={trained}", f"--model={trained}/.", *flags]) == 0
    shown = capsys.readouterr().out
    assert "cats, test split: 3 rows" in shown
    model, tokenizer = pretrained.load(trained), embedded_tokenizer()
    total, count = 0.0, 0
    for word in ("cat", "dog", "ox"):
        ids = [*tokenizer.encode(f"the {word} sat on the mat and {word} it was"), 1]
        targets = np.pad(np.array([ids], np.int32), ((0, 0), (0, 24 - len(ids))))
        logits = tiny.logits(
            model.model, model.params, tiny.teacher_batch(np.array([[1]], np.int32), targets)
        )
        log_p = jax.nn.log_softmax(logits)[0]
        total -= float(sum(log_p[i, token] for i, token in enumerate(ids)))
        count += len(ids)
    found = json.loads((tmp_path / "found.json").read_text())[trained]
    assert (found["examples"], found["tokens"]) == (3, count)
    assert found["nll_per_token"]["value"] == pytest.approx(total / count, rel=1e-4)
    assert found["perplexity"]["value"] == pytest.approx(math.exp(total / count), rel=1e-4)
    assert f"{math.exp(total / count):.4g}" in shown


def test_texts_are_drawn_from_nothing(trained, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"inputs": ""}\n')
    flags = ["--temperature=1", "--num_samples=3", "--max_new_tokens=6", "--batch_size=3"]
    files = [f"--input={tmp_path / 'in.jsonl'}", f"--output={tmp_path / 'out.jsonl'}"]
    assert main(["generate", f"--model={trained}", *files, *flags]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(line["inputs"], line["sample"]) for line in lines] == [("", 0), ("", 1), ("", 2)]
    assert len({line["outputs"] for line in lines}) == 3


def test_an_evaluation_without_a_task_or_rows_is_refused(trained, capsys):
    assert main(["evaluate", f"--model={trained}", "--task=wiki_lead"]) == 2
    assert "unknown task 'wiki_lead': did you mean 'wiki_leads'?" in capsys.readouterr().err
    assert main(["evaluate", f"--model={trained}", "--task=wiki_text", "--batch_size=0"]) == 2
    assert "--batch_size=0: must be at least 1" in capsys.readouterr().err
