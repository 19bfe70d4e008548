"""`distillspec generate` from its command line, on a tiny pair."""

import dataclasses
import errno
import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from distillspec_jax import model_card
from distillspec_jax.cli.main import main
from distillspec_jax.decoding import engine, runner
from distillspec_jax.generation import pairing
from distillspec_jax.models import pretrained, quantised
from distillspec_jax.tokenization.tokenizer import embedded_tokenizer
from tests import pair

TEXTS = [
    "It is a genus of flowering plants.",
    "Hello.",
    "He was born in Berlin.",
    "Another one with words.",
    "Last.",
]
COUNTS = ("emitted_tokens", "target_calls", "accepted", "tested")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"id": i, "inputs": text}) + "\n" for i, text in enumerate(TEXTS)))
    return str(path)


@pytest.fixture
def generate(target_dir, prompts, capsys):
    """Runs the command on the prompts; its lines as JSON, the batch being of 4 unless a flag says so."""

    def run(*flags: str) -> list[dict]:
        argv = ["generate", f"--model={target_dir}", f"--input={prompts}", "--batch_size=4", *flags]
        assert main(argv) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def texts(rows: list[dict]) -> list[tuple]:
    return [(row["outputs"], row["emitted_tokens"], row["finish_reason"]) for row in rows]


# --- what comes out ---


def test_lines_keep_their_order_and_their_own_fields(generate):
    rows = generate()
    assert [(row["id"], row["inputs"]) for row in rows] == list(enumerate(TEXTS))
    assert [*rows[0]] == ["id", "inputs", "outputs", *COUNTS, "finish_reason"]


def test_at_temperature_0_a_drafter_changes_the_cost_and_not_the_text(generate, draft_dir):
    plain = generate("--drafter=none")
    drafted = generate(f"--drafter={draft_dir}", "--block_size=3")
    assert texts(drafted) == texts(plain)
    assert {row["finish_reason"] for row in plain} == {"eos", "length"}
    # Without a drafter a call of the target is a token, and EOS is one of them.
    assert all(row["target_calls"] == row["emitted_tokens"] and row["tested"] == 0 for row in plain)
    ended = [row for row in plain if row["finish_reason"] == "eos"]
    words = [len(embedded_tokenizer().encode(row["outputs"])) for row in ended]
    assert [row["emitted_tokens"] for row in ended] == [n + 1 for n in words]
    assert sum(row["target_calls"] for row in drafted) < sum(row["emitted_tokens"] for row in drafted)
    assert [*drafted[0]] == [*plain[0], "drafted", "tested_at", "accepted_at"]
    assert all(row["drafted"] == 3 * row["target_calls"] for row in drafted)


@pytest.mark.parametrize(
    "flags",
    [["--block_size=auto"], ["--drafter=lookup"], ["--num_partitions=1"]],
    ids=["chosen size", "two drafters", "on a mesh"],
)
def test_at_temperature_0_no_way_of_drafting_changes_the_text(generate, draft_dir, flags, monkeypatch):
    monkeypatch.setattr(pairing, "AUTO", (0, 3))  # each size is two programs more
    alone, together = generate(), generate(f"--drafter={draft_dir}", *flags)
    assert [line["outputs"] for line in together] == [line["outputs"] for line in alone]


@pytest.mark.parametrize("drafted", [False, True])
def test_the_seed_fixes_the_texts_and_the_batch_size_does_not_touch_them(generate, draft_dir, drafted):
    sampled = ["--temperature=1", "--seed=3"]
    if drafted:
        sampled += [f"--drafter={draft_dir}", "--block_size=3"]
    rows = generate(*sampled)
    assert generate(*sampled) == rows
    assert generate(*sampled, "--batch_size=2") == rows
    assert texts(generate(*sampled, "--seed=4")) != texts(rows)


def test_lines_with_distributions_of_their_own_and_several_samples(generate, draft_dir, tmp_path):
    path = tmp_path / "own.jsonl"
    lines = [{"inputs": TEXTS[0], "temperature": 1.0}, {"inputs": TEXTS[1], "max_new_tokens": 2}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = generate(f"--drafter={draft_dir}", f"--input={path}", "--num_samples=3", "--seed=4")
    assert [(row["inputs"], row["sample"]) for row in rows] == [(t, i) for t in TEXTS[:2] for i in range(3)]
    assert len({row["outputs"] for row in rows[:3]}) > 1  # drawn independently
    assert len({row["outputs"] for row in rows[3:]}) == 1  # greedy, as by default
    assert all(row["emitted_tokens"] <= 2 for row in rows[3:])


def test_without_a_drafter_the_speculative_loop_is_never_made(generate, draft_dir, monkeypatch):
    class Made(Exception):
        pass

    def refuse(*args, **settings):
        raise Made

    monkeypatch.setattr(runner, "SpeculativeLoop", refuse)
    assert len(generate("--drafter=none")) == len(TEXTS)
    with pytest.raises(Made):
        generate(f"--drafter={draft_dir}")


def test_compiled_programs_are_kept_for_the_next_run(target_dir, prompts, tmp_path):
    """In processes of their own: the cache is chosen once a process. All programs are kept, also those that
    compile fast, lest a slow moment of the machine should add one to the second run's."""
    kept = tmp_path / "compiled"
    always = os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command = [sys.executable, "-m", "distillspec_jax.cli.generate", f"--model={target_dir}"]
    command += [f"--input={prompts}", f"--output={tmp_path / 'out.jsonl'}", f"--compilation_cache={kept}"]
    seen = []
    for _ in range(2):
        subprocess.run(command, check=True, capture_output=True, env=always)
        seen.append({path.name for path in kept.iterdir() if not path.name.endswith("-atime")})
    assert seen[0]
    assert seen[1] == seen[0]


def test_standard_input_and_output_and_a_line_of_pooled_counts(target_dir, capsys, monkeypatch):
    lines = "".join(json.dumps({"question": text}) + "\n" for text in TEXTS[:3])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert main(["generate", f"--model={target_dir}", "--field=question", "--batch_size=4"]) == 0
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["inputs"] for row in rows] == TEXTS[:3]
    emitted = sum(row["emitted_tokens"] for row in rows)
    assert captured.err.splitlines() == [
        f"compiling: 4 rows, prompts of up to {pair.INPUTS}, {pair.TARGETS} new tokens",
        f"3 outputs, {emitted} tokens, {emitted} target calls: block efficiency 1.00",
    ]


def test_the_console_script_says_its_two_lines_and_nothing_else(target_dir, prompts, tmp_path):
    """No library below has a word on stderr: no TensorFlow, XLA, Orbax or absl."""
    output = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "distillspec_jax.cli.main", "generate", f"--model={target_dir}"]
    command += [f"--input={prompts}", f"--output={output}"]
    quiet = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, env=quiet, cwd=root)
    assert (done.returncode, done.stdout) == (0, "")
    compiling, summary = done.stderr.splitlines()
    assert compiling.startswith("compiling: 8 rows")
    assert summary.startswith("5 outputs, ")
    assert [json.loads(line)["inputs"] for line in output.read_text().splitlines()] == TEXTS
    assert list(tmp_path.iterdir()) == [output]


def test_half_precision_is_that_of_weights_and_caches_and_not_of_logits(
    target_dir, prompts, generate, capsys
):
    half = pretrained.load(target_dir, dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half.params)} == {"bfloat16"}
    state, pending_B = half.model.prefill(half.params, np.array([[2, 3]], np.int32), 4)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.cache)} == {"bfloat16"}
    logits, state = half.model.extend(half.params, state, pending_B[:, None])
    assert (logits.dtype, jax.tree.leaves(state.cache)[0].dtype) == (np.float32, "bfloat16")
    assert len(generate("--dtype=bfloat16")) == len(TEXTS)
    assert main(["generate", f"--model={target_dir}", f"--input={prompts}", "--dtype=float8"]) == 2
    assert "dtype: unknown 'float8': did you mean" in capsys.readouterr().err


def test_a_draft_in_eight_bits_leaves_the_output_as_it_is(target_dir, draft_dir, prompts, generate, capsys):
    eight = pretrained.load(f"{draft_dir}@int8")
    target, draft = pretrained.load(target_dir), pretrained.load(draft_dir)
    assert (eight.name, eight.dtype, draft.dtype) == (f"{draft_dir}@int8", "int8", "float32")
    spared = 3 * quantised.num_weights(draft.params) / (4 * target.num_parameters)
    assert eight.cost_ratio(target) == pytest.approx(draft.cost_ratio(target) - spared)
    plain, drafted = generate("--drafter=none"), generate(f"--drafter={draft_dir}@int8")
    assert texts(drafted) == texts(plain)
    assert len(generate("--dtype=int8")) == len(TEXTS)
    assert main(["generate", f"--model={target_dir}@int9", f"--input={prompts}"]) == 2
    assert "dtype: unknown 'int9': did you mean 'int8'" in capsys.readouterr().err


# --- what the model is asked ---


@pytest.fixture
def asked(monkeypatch) -> list[tuple[str, int]]:
    """(prompt as text, limit) of every request; nothing is decoded, every answer is EOS."""
    heard = []

    def stream(self, prompts, distribution, limit, seed, progress, numbers=None):
        for i, ids in enumerate(prompts):
            assert ids[-1] == embedded_tokenizer().eos_id
            heard.append((embedded_tokenizer().decode(ids), limit))
            yield i, engine.Completion((1,), "eos", 1, 0, (), ())

    monkeypatch.setattr(engine.Engine, "stream", stream)
    return heard


WIKI, GSM, OWN = ("summarize: ", 128), ("solve: ", 288), (pair.PREFIX, pair.TARGETS)


@pytest.mark.parametrize(
    ("flags", "prefix_and_limit"),
    [
        (["--model=DIR"], OWN),
        (["--model=DIR", "--task=gsm_symbolic"], GSM),
        (["--model=DIR", "--prefix=now: "], ("now: ", pair.TARGETS)),
        (["--model=DIR", "--prefix="], ("", pair.TARGETS)),
        (["--model=DIR", "--task=gsm_symbolic", "--prefix="], ("", GSM[1])),
        (["--model=zoo:wiki_leads/target"], WIKI),
        (["--model=zoo:wiki_leads/target", "--task=gsm_symbolic"], GSM),
        (["--model=zoo:wiki_leads/target", "--prefix="], ("", WIKI[1])),
        (["--model=zoo:target"], OWN),
        (["--model=DIR", "--drafter=zoo:wiki_leads/draft"], OWN),  # the target's prefix, not the draft's
        (["--model=DIR", "--max_new_tokens=3"], (pair.PREFIX, 3)),
    ],
)
def test_whose_prefix_and_length_it_is(pair_in_zoo, target_dir, prompts, asked, flags, prefix_and_limit):
    flags = [flag.replace("DIR", target_dir) for flag in flags]
    assert main(["generate", f"--input={prompts}", *flags]) == 0
    prefix, limit = prefix_and_limit
    assert asked == [(prefix + text, limit) for text in TEXTS]


def test_a_prompt_that_is_too_long_is_cut_on_request_alone(target_dir, tmp_path, asked, capsys):
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"inputs": "a"}) + "\n" + json.dumps({"inputs": "one two three " * 30}) + "\n")
    flags = ["generate", f"--model={target_dir}", f"--input={path}", f"--output={tmp_path / 'out.jsonl'}"]
    assert main(flags) == 2
    message = f"{path}:2 has 96 tokens, the model was built for 32: shorten it or pass --truncate_inputs"
    assert capsys.readouterr().err == f"distillspec generate: error: {message}\n"
    assert list(tmp_path.iterdir()) == [path]
    assert not asked
    assert main([*flags, "--truncate_inputs"]) == 0
    (short, _), (cut, _) = asked
    assert short == pair.PREFIX + "a"
    assert cut.startswith(pair.PREFIX + "one two three one")
    assert len(embedded_tokenizer().encode(cut)) == pair.INPUTS - 1


# --- bad input: one line, status 2, nothing written ---


@pytest.fixture(scope="module")
def bad(tmp_path_factory, target_dir) -> Path:
    """A folder of files and checkpoints of which each has one thing wrong."""
    root = tmp_path_factory.mktemp("bad")
    (root / "malformed.jsonl").write_text('{"inputs": "a"}\n{"inputs": \n')
    (root / "list.jsonl").write_text('[{"inputs": "a"}]\n')
    (root / "nofield.jsonl").write_text('{"input": "a"}\n')
    (root / "empty.jsonl").touch()
    model = pair.target()

    def card(name: str, **changes) -> None:
        altered = dataclasses.replace(model.card, **changes)
        bytes_ = None if "tokenizer_fingerprint" in changes else model.tokenizer_bytes
        pair.write(root / name, dataclasses.replace(model, card=altered, tokenizer_bytes=bytes_))

    card("other_vocabulary", tokenizer_fingerprint="0" * 64)
    card("no_vocabulary", tokenizer_fingerprint=None)
    card("wider", config={**model.card.config, "emb_dim": 12})
    card("misspelt", config={**model.card.config, "emb_dims": 12})
    model_card.write_card(root / "unfinished", model.card, model.tokenizer_bytes)
    return root


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--input=BAD/emty.jsonl"],
            "no such file or directory: 'BAD/emty.jsonl'; in BAD: did you mean 'empty.jsonl'?",
        ),
        (
            ["--input=BAD/x/y.jsonl"],
            "no such file or directory: 'BAD/x/y.jsonl'; there is no folder 'BAD/x' either",
        ),
        (["--input=BAD"], "is a directory: 'BAD'"),
        (
            ["--input=BAD/malformed.jsonl"],
            "BAD/malformed.jsonl:2: malformed JSON (Expecting value, column 12)",
        ),
        (["--input=BAD/list.jsonl"], "BAD/list.jsonl:1: expected a JSON object, got list"),
        (["--input=BAD/nofield.jsonl"], "BAD/nofield.jsonl:1: no field 'inputs': did you mean 'input'?"),
        (["--input=BAD/empty.jsonl"], "BAD/empty.jsonl holds no requests"),
        (
            ["--model=zoo:wiki_leads/targt"],
            "the zoo has no model 'wiki_leads/targt': did you mean 'zoo:wiki_leads/target'?",
        ),
        (
            ["--model=wiki_leads/target"],
            "wiki_leads/target is not a checkpoint directory (no such folder): "
            "did you mean 'zoo:wiki_leads/target'",
        ),
        (
            ["--model=BAD/unfinish"],
            "BAD/unfinish is not a checkpoint directory (no such folder): did you mean 'BAD/unfinished'?",
        ),
        (["--model=BAD"], "BAD is not a checkpoint directory: it has no model.json"),
        (["--model=BAD/unfinished"], "BAD/unfinished holds no finished checkpoint"),
        (
            ["--model=BAD/wider"],
            "BAD/wider: parameter decoder/decoder_norm/scale has shape (8,), the model wants (12,)",
        ),
        (
            ["--model=BAD/misspelt"],
            "BAD/misspelt/model.json: t5 model: unknown configuration field 'emb_dims': did you mean",
        ),
        (
            ["--drafter=zoo:wiki_leads/drafts"],
            "the zoo has no model 'wiki_leads/drafts': did you mean 'zoo:wiki_leads/draft'?",
        ),
        (
            ["--drafter=BAD/other_vocabulary"],
            "draft BAD/other_vocabulary has another vocabulary than target ",
        ),
        (["--drafter=BAD/no_vocabulary"], "the vocabulary of BAD/no_vocabulary is unknown"),
        (["--task=wiki_leeds"], "unknown task 'wiki_leeds': did you mean 'wiki_leads'?"),
        (["--block_size=0"], "block_size is 0, must be at least 1"),
        (["--block_size=9"], "--block_size=9: outputs end after 8 tokens, use 8 or less"),
        (
            ["--block_size=500", "--max_new_tokens=4"],
            "--block_size=500: outputs end after 4 tokens, use 4 or less",
        ),
        (["--block_size=two"], "argument --block_size: invalid whole number or auto value: 'two'"),
        (
            ["--drafter=none", "--drafter=lookup"],
            "--drafter=none beside --drafter=lookup: choose one",
        ),
        (
            ["--drafter=lookup", "--drafter=lookup", "--rule=block"],
            "rule 'block' verifies one candidate block, not 2: use rule 'token'",
        ),
        (["--num_partitions=3"], "NUM_PARTITIONS=3 does not divide the 1 devices: use one of [1]"),
        (["--batch_size=0"], "batch_size is 0, must be at least 1"),
        (["--temperature=-0.5"], "temperature is -0.5, must be 0 or more and finite"),
        (["--temperature=nan"], "temperature is nan, must be 0 or more and finite"),
        (["--top_p=1.5"], "top_p is 1.5, must be in (0, 1]; 1 is off"),
        (["--top_p=0"], "top_p is 0.0, must be in (0, 1]; 1 is off"),
        (["--top_k=-1"], "top_k is -1, must be 0 (off) or a whole number"),
        (["--max_new_tokens=0"], "max_new_tokens is 0 for prompt 0, must be at least 1"),
        (["--seed=4294967296"], "seed is 4294967296, must be a whole number from 0 to 4294967295"),
        (["--block=3"], "unknown flag --block: did you mean '--block_size'?"),
    ],
)
def test_bad_input(pair_in_zoo, target_dir, prompts, bad, tmp_path, capsys, flags, message):
    flags = [flag.replace("BAD", str(bad)) for flag in flags]
    base = [f"--model={target_dir}", f"--input={prompts}", f"--output={tmp_path / 'out.jsonl'}"]
    assert main(["generate", *base, *flags]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"distillspec generate: error: {message.replace('BAD', str(bad))}")
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_written_is_found_before_anything_is_decoded(
    target_dir, prompts, tmp_path, asked, capsys
):
    output = tmp_path / "nowhere" / "out.jsonl"
    assert main(["generate", f"--model={target_dir}", f"--input={prompts}", f"--output={output}"]) == 2
    reason = os.strerror(errno.ENOENT)
    assert capsys.readouterr().err == f"distillspec generate: error: cannot save to {output}: {reason}\n"
    assert not asked


def test_a_disk_that_fills_up_leaves_the_old_output_as_it_was(target_dir, tmp_path, asked, capsys):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text((json.dumps({"inputs": "a", "more": "x" * 200}) + "\n") * 20)
    before = '{"inputs": "a", "outputs": "b", "finish_reason": "eos"}\n'
    output.write_text(before)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # Python ignores the signal and sees EFBIG
    try:
        status = main(["generate", f"--model={target_dir}", f"--input={source}", f"--output={output}"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = f"distillspec generate: error: cannot save to {output}: {os.strerror(errno.EFBIG)}\n"
    assert (status, capsys.readouterr().err) == (2, error)
    assert output.read_text() == before
