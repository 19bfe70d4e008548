"""What `deploy` prints for an engine, and the pairs that it refuses."""

import dataclasses
import json
import shlex
import subprocess

import pytest

from distillspec_jax.cli import deploy
from distillspec_jax.cli import main as console
from distillspec_jax.interop import hf_t5gemma_config
from distillspec_jax.interop.engines import registry
from distillspec_jax.model_card import ModelCard, write_card
from distillspec_jax.models import registry as networks
from distillspec_jax.models.decoder_only import DecoderOnly, DecoderOnlyConfig
from tests import tiny
from tests.data.hub import EOS, byte_level
from tests.interop import tiny_gguf

CONFIG = DecoderOnlyConfig(tiny_gguf.VOCAB, 32, 4, 2, 8, 2, 64, max_positions=40)
GPT2 = {
    **{"norm": "layer", "positions": "learned", "mlp_activations": ("gelu",), "num_kv_heads": 4},
    **dict.fromkeys(("qkv_bias", "out_bias", "mlp_bias"), True),
}


@pytest.fixture
def deployed(tmp_path, capsys, monkeypatch):
    """Runs the command on two checkpoint directories, of which only the cards are there."""
    monkeypatch.chdir(tmp_path)

    def run(engine, *flags, target=None, draft=None, tokenizer=b"", prefix="", **card):
        for name, changed in (("target", target), ("draft", draft)):
            config = dataclasses.replace(CONFIG, **(changed or {}))
            family, described = networks.describe(DecoderOnly(config))
            told = {"eos_ids": [EOS]} | (card if name == "draft" else {"prefix": prefix})
            written = tokenizer if name == "draft" and tokenizer != b"" else byte_level()
            (tmp_path / name).mkdir(exist_ok=True)
            write_card(tmp_path / name, ModelCard(family, described, **told), written)
        given = {flag.split("=")[0] for flag in flags}
        models = [f"--{role}={role}" for role in ("target", "draft") if f"--{role}" not in given]
        status = console.main(["deploy", f"--engine={engine}", *models, *flags])
        said = capsys.readouterr()
        return (status, said.out) if status == 0 else (status, said.err)

    return run


def commands(script):
    """The commands of a script as a shell splits them; the lines of Python apart."""
    shell, _, python = script.partition("python - <<'END'\n")
    lines = [shlex.split(line) for line in shell.splitlines() if not line.startswith("#")]
    return lines, python.removesuffix("END\n")


CONVERTED = [
    ["distillspec", "convert", "--to=hf", f"--input={name}", f"--output=exported/{name}"]
    for name in ("target", "draft")
]


def test_a_draft_that_reads_masks_drafts_in_parallel_where_an_engine_can(deployed):
    _, script = deployed("vllm", mask_id=5)
    drafting = json.loads(commands(script)[0][-1][-1].removeprefix("--speculative-config="))
    assert drafting["parallel_drafting"] is True
    assert "token by token" not in script
    assert "this engine calls it token by token" in deployed("sglang", mask_id=5)[1]


@pytest.mark.parametrize("temperature", [0, 1])
def test_vllm_drafts_as_the_requests_sample(deployed, temperature):
    _, script = deployed("vllm", f"--temperature={temperature}", "--block_size=3", "--tensor_parallel=2")
    (*before, serve), _ = commands(script)
    assert before == CONVERTED
    assert serve[:3] == ["vllm", "serve", "exported/target"]
    assert {"--dtype=float32", "--max-model-len=40", "--tensor-parallel-size=2"} < set(serve)
    expected = {"method": "draft_model", "model": "exported/draft", "num_speculative_tokens": 3}
    expected |= {"draft_sample_method": "probabilistic"} if temperature else {}
    assert json.loads(serve[-1].removeprefix("--speculative-config=")) == expected


def test_llama_cpp_is_told_to_draft_at_all(deployed):
    _, script = deployed("llama.cpp", "--type=q8_0", "--exported=there")
    (*before, serve), _ = commands(script)
    assert before == [
        [
            "distillspec",
            "convert",
            "--to=gguf",
            "--type=q8_0",
            f"--input={name}",
            f"--output=there/{name}.gguf",
        ]
        for name in ("target", "draft")
    ]
    assert serve == shlex.split(
        "llama-server -m there/target.gguf -md there/draft.gguf --spec-type draft-simple --spec-draft-n-max "
        "5 -c 40 --temp 0"
    )


def test_llama_cpp_ends_texts_at_pieces_of_its_own(deployed):
    """BOS is called `<s>` and EOS `</s>`; a model that stops at another id would go on behind that."""
    assert "also ends" not in deployed("llama.cpp")[1]
    spec = json.loads(byte_level())
    for token in spec["added_tokens"]:
        token["content"] = {"</s>": "<|im_end|>", "<s>": "<|endoftext|>"}[token["content"]]
    changed = json.dumps(spec).encode()
    for name in ("target", "draft"):
        with open(f"{name}/tokenizer.json", "wb") as file:
            file.write(changed)
    recipe = registry.recipe("llama.cpp", "target", "draft")
    assert "llama.cpp also ends a text at <|endoftext|>, where `generate` continues." in recipe.notes


def test_sglang_counts_the_pending_token(deployed):
    _, script = deployed("sglang", "--block_size=4", draft={"max_positions": 30})
    (*_, serve), _ = commands(script)
    expected = {"--speculative-num-steps=4", "--speculative-num-draft-tokens=5", "--context-length=30"}
    assert expected < set(serve)
    assert "# The target was made for 40 positions and the draft for 30: sequences end at 30" in script


@pytest.mark.parametrize("engine", ["transformers", "openvino"])
def test_lines_of_python_are_python(deployed, engine):
    _, script = deployed(engine, "--block_size=7")
    (*before, _), python = commands(script + "\n")
    assert before[: len(CONVERTED) - 1] == CONVERTED[:1]
    compile(python, "script", "exec")
    assert "num_assistant_tokens = 7" in python


@pytest.mark.parametrize(
    ("target", "draft", "taught"),
    [
        ("target", "distilled", True),
        ("decoder_target", "decoder_distilled", True),
        ("draft", "distilled", False),
    ],
)
def test_a_zoo_name_tells_the_prefix_and_whose_draft_it_is(capsys, target, draft, taught):
    models = [f"--target=zoo:wiki_leads/{target}", f"--draft=zoo:wiki_leads/{draft}"]
    assert console.main(["deploy", "--engine=transformers", *models]) == 0
    script = capsys.readouterr().out
    assert "Prompts need the prefix 'summarize: '" in script
    assert ("was distilled from" in script) is not taught


def test_a_t5_gets_a_cache_as_deep_as_its_decoder(deployed):
    """Without it transformers fails on the zoo's target, whose encoder has a layer less."""
    flags = ["--target=zoo:target", "--draft=zoo:draft"]
    _, script = deployed("transformers", *flags)
    assert "    model.config.num_layers = model.config.num_decoder_layers\n" in commands(script)[1]
    assert "num_layers" not in deployed("transformers")[1]


def test_the_script_is_one_even_if_names_and_cards_are_hostile(deployed, tmp_path):
    """A card may come from anybody: what it says must not become a command."""
    taught = {"parents": {"target": "x\ntouch taken"}}
    status, script = deployed("vllm", prefix="x\ntouch taken", provenance=taught)
    assert (status, script.count("\\ntouch taken")) == (0, 2)
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=True).returncode == 0
    assert not [line for line in script.splitlines() if line.startswith("touch")]
    _, script = deployed("vllm", "--exported=a b;touch taken")
    assert commands(script)[0][0][-1] == "--output=a b;touch taken/target"


def test_what_an_engine_loses_of_a_draft_is_said(deployed):
    taught = {"parents": {"target": "another"}}
    draft = {"embedding_rank": 4, "logits_via_embedding": True}
    _, script = deployed("sglang", "--temperature=1", draft=draft, shortlist=[1, 2], provenance=taught)
    for said in (
        "shortlist is left behind",
        "multiplied out",
        "distilled from 'another'",
        "verifies greedily",
    ):
        assert said in script


REFUSED = {
    "other words": (
        "vllm",
        {"tokenizer": byte_level(bos=False)},
        "draft has another vocabulary than target, and vllm compares the sizes of vocabularies alone",
    ),
    "no tokenizer": ("sglang", {"tokenizer": None}, "draft has no tokenizer"),
    "rows": ("vllm", {"draft": {"vocab_size": 300}}, "for 300 ids and target for 274: vllm 0.32.0 refuses"),
    "rows there": ("transformers", {"draft": {"vocab_size": 300}}, "transformers 5.23.0 refuses such a pair"),
    "many rows": ("llama.cpp", {"draft": {"vocab_size": 403}}, "refuses pairs that differ by more than 128"),
    "gelu": (
        "llama.cpp",
        {"draft": {"mlp_activations": ("gelu", "linear")}},
        "draft has the activation 'gelu': llama.cpp would compute it with silu",
    ),
    "gpt2": (
        "llama.cpp",
        {"target": GPT2},
        "target is a gpt2, which llama.cpp 0c1e57098 does not draft for: ",
    ),
    "window": ("sglang", {"draft": {"window": 9}}, "draft is a mistral, which sglang 0.5.23 does not draft"),
    "ends": ("openvino", {"eos_ids": [EOS, 1]}, "target ends texts at [273] and draft at [273, 1]"),
    "no name": ("vllm", {"draft": {"norm": "layer"}}, "draft: transformers has no name for"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_pair_that_an_engine_would_refuse_or_corrupt_is_one_line(deployed, name):
    engine, changed, said = REFUSED[name]
    status, error = deployed(engine, **changed)
    assert (status, error.count("\n")) == (2, 1)
    assert said in error


def test_a_t5gemma_is_for_no_engine_in_either_form(deployed, tmp_path):
    (tmp_path / "ours").mkdir()
    write_card(tmp_path / "ours", ModelCard(*networks.describe(tiny.T5GEMMA)), byte_level())
    (tmp_path / "theirs").mkdir()
    told = hf_t5gemma_config.config_to_hf(tiny.T5GEMMA.config)
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(told))
    for engine, form in (("transformers", "ours"), ("vllm", "theirs")):
        status, error = deployed(engine, f"--target={form}")
        assert status == 2
        assert f"{form} is a t5gemma, which {engine} " in error
        assert "does not draft for: no engine here does, only `distillspec generate`" in error


@pytest.mark.parametrize(
    ("engine", "flags", "said"),
    [
        ("vlm", [], "--engine"),
        ("vllm", ["--tensor_parallel=3"], "--tensor_parallel=3: target has 4 heads and 2 of keys and values"),
        ("sglang", ["--tensor_parallel=8"], "which sglang cannot share out among 8 devices"),
        ("llama.cpp", ["--tensor_parallel=2"], "--tensor_parallel belongs to vllm and sglang"),
        ("openvino", ["--temperature=0.5"], "verifies drafts by another rule than rejection sampling"),
        ("vllm", ["--temperature=nan"], "--temperature is nan, must be a number, 0 or more"),
        ("vllm", ["--block_size=0"], "--block_size is 0, must be at least 1"),
        ("vllm", ["--draft=target@int8"], "engines round weights by themselves: leave @int8 out"),
        ("vllm", ["--draft=tarket"], "tarket is not a checkpoint directory"),
        (
            "vllm",
            ["--target=zoo:target", "--draft=zoo:draft"],
            "--engine=transformers does, and so does `distills",
        ),
        ("transformers", ["--target=zoo:target"], "draft is a llama and zoo:target a t5: no pair"),
        (
            "llama.cpp",
            ["--target=zoo:decoder_target", "--draft=zoo:decoder_draft"],
            "has a SentencePiece tokenizer, of which llama.cpp would silently make other ids",
        ),
    ],
)
def test_flags_that_an_engine_cannot_follow_are_one_line(deployed, engine, flags, said):
    status, error = deployed(engine, *flags)
    assert (status, error.count("\n")) == (2, 1)
    assert said in error


def test_forms_of_others_are_converted_as_far_as_an_engine_needs(deployed, tmp_path):
    file = tiny_gguf.write(tmp_path / "it.gguf")
    folder = tmp_path / "folder"
    folder.mkdir()
    config = {"model_type": "llama", "vocab_size": 274, "num_attention_heads": 4, "hidden_size": 32}
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": EOS}))
    (folder / "tokenizer.json").write_bytes(registry.served_model.read(str(file)).tokenizer)
    recipe = registry.recipe("llama.cpp", str(folder), str(file), exported="out")
    assert [shlex.split(line)[1:] for line in recipe.commands[:2]] == [
        ["convert", "--from=hf", f"--input={folder}", "--output=out/target_checkpoint"],
        ["convert", "--to=gguf", "--type=f32", "--input=out/target_checkpoint", "--output=out/target.gguf"],
    ]
    assert f"-md {file} " in recipe.commands[2]
    recipe = registry.recipe("vllm", str(folder), str(file), exported="out")
    assert [shlex.split(line)[2] for line in recipe.commands[:2]] == ["--from=gguf", "--to=hf"]
    assert recipe.commands[2].startswith(f"vllm serve {folder} ")
    assert "--generation-config" not in recipe.commands[2]

    # Engines take from this file what a request does not say, and `generate` does not.
    told = {"repetition_penalty": 1.1, "top_k": 20, "top_p": 1.0, "eos_token_id": EOS}
    (folder / "generation_config.json").write_text(json.dumps(told))
    for engine, said in (
        ("vllm", "--generation-config=vllm"),
        ("sglang", "--sampling-defaults=openai"),
        ("transformers", "temperature=1, top_k=0, repetition_penalty=1.0)"),
    ):
        recipe = registry.recipe(engine, str(folder), str(folder), temperature=1)
        assert said in "\n".join([*recipe.commands, recipe.python])
        assert "generation_config.json sets repetition_penalty, top_k, which" in " ".join(recipe.notes)


def test_the_flag_and_the_page_know_every_engine():
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "engines.md").read_text(encoding="utf-8")
    for name, engine in registry.ENGINES.items():
        assert f"--engine={name}" in page
        assert engine.version in page
        assert f'"{name}"' in Path(deploy.__file__).read_text(encoding="utf-8")
