"""GGUF files that are written: read back bit-equal, parsed by the package `gguf`; what cannot be written."""

import dataclasses
import json

import gguf
import jax
import numpy as np
import pytest
import tokenizers
from tokenizers import pre_tokenizers

from distillspec_jax.cli import main as console
from distillspec_jax.errors import UsageError
from distillspec_jax.interop import convert, gguf_decoder, gguf_output, gguf_tokenizer, gguf_vocabulary
from distillspec_jax.interop.gguf_file import GGUFFile
from distillspec_jax.model_card import ModelCard
from distillspec_jax.models import pretrained, rotary
from distillspec_jax.models.decoder_only import DecoderOnly, DecoderOnlyConfig
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.models.rotary import RopeScaling
from distillspec_jax.tokenization.tokenizer import embedded_tokenizer
from tests.data.hub import BOS, EOS, byte_level
from tests.interop import tiny_gguf
from tests.tiny import params as random_params

KINDS = pytest.mark.parametrize(
    "theirs", ["llama", "qwen2", "qwen3", "gemma3"], indirect=True, scope="module"
)


@pytest.fixture(scope="module", params=["llama"])
def theirs(request, tmp_path_factory):
    """A file that the package wrote, in every type."""
    return tiny_gguf.write(tmp_path_factory.mktemp("gguf") / f"{request.param}.gguf", request.param)


@pytest.fixture(scope="module")
def directory(theirs):
    made = f"{theirs.parent}/ours"
    convert.convert("gguf", str(theirs), made)
    return made


def written(directory, path, kind):
    flags = ["convert", "--to=gguf", f"--type={kind}", f"--input={directory}", f"--output={path}"]
    assert console.main(flags) == 0
    return path


@KINDS
def test_float32_is_bit_equal_to_what_the_package_reads_and_to_what_comes_back(theirs, directory, tmp_path):
    path = written(directory, tmp_path / "again.gguf", "f32")
    numbers = {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for tensor in gguf.GGUFReader(theirs).tensors
    }
    found = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    assert set(found) == set(numbers)
    for name, expected in numbers.items():
        np.testing.assert_array_equal(found[name], expected, err_msg=name)
    again = f"{tmp_path}/again"
    convert.convert("gguf", str(path), again)
    before, after = pretrained.load(directory), pretrained.load(again)
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
    cards = [dataclasses.replace(model.card, provenance={}) for model in (before, after)]
    assert cards[0] == cards[1]
    assert after.tokenizer_bytes == before.tokenizer_bytes


def test_metadata_are_those_of_the_file_that_it_came_from(theirs, directory, tmp_path):
    path = written(directory, tmp_path / "again.gguf", "f16")
    readers = gguf.GGUFReader(theirs), gguf.GGUFReader(path)
    told, ours = ({k: (f.types, f.contents()) for k, f in r.fields.items() if "." in k[1:]} for r in readers)
    for name in ("GGUF.tensor_count", "GGUF.kv_count", "GGUF.version"):
        told.pop(name), ours.pop(name)
    assert {key: ours.get(key) for key in told} == told
    kind, uint, text = theirs.stem, [gguf.GGUFValueType.UINT32], [gguf.GGUFValueType.STRING]
    added = {
        "general.type": (text, "model"),
        "general.name": (text, "ours"),
        "general.file_type": (uint, gguf.LlamaFileType.MOSTLY_F16),
        "general.quantization_version": (uint, 2),
        f"{kind}.vocab_size": (uint, tiny_gguf.VOCAB),
        f"{kind}.attention.key_length": (uint, tiny_gguf.HEAD_DIM),
        f"{kind}.attention.value_length": (uint, tiny_gguf.HEAD_DIM),
        f"{kind}.rope.dimension_count": (uint, tiny_gguf.HEAD_DIM),
        "tokenizer.ggml.add_eos_token": ([gguf.GGUFValueType.BOOL], False),
        "tokenizer.ggml.add_space_prefix": ([gguf.GGUFValueType.BOOL], False),
    }
    assert {key: ours[key] for key in set(ours) - {"distillspec.release"}} == added | told


def test_smaller_types_round_as_their_definition_says(directory, tmp_path):
    exact = GGUFFile(written(directory, tmp_path / "f32.gguf", "f32"))
    half = gguf.GGUFReader(written(directory, tmp_path / "f16.gguf", "f16"))
    eight = gguf.GGUFReader(written(directory, tmp_path / "q8_0.gguf", "q8_0"))
    for of_half, of_eight in zip(half.tensors, eight.tensors, strict=True):
        values = exact[of_half.name]
        if values.ndim == 1:
            for tensor in (of_half, of_eight):
                np.testing.assert_array_equal(tensor.data, values)
            continue
        np.testing.assert_array_equal(of_half.data, values.astype(np.float16))
        assert (of_half.tensor_type.name, of_eight.tensor_type.name) == ("F16", "Q8_0")
        blocks = values.reshape(-1, 32)
        scales = (np.abs(blocks).max(1, keepdims=True) / 127).astype(np.float16).astype(np.float32)
        found = gguf.quants.dequantize(of_eight.data, of_eight.tensor_type).reshape(-1, 32)
        # Half a step, and what rounding of the scale itself moves 127 steps by.
        assert np.all(np.abs(found - blocks) <= scales * (0.5 + 127 * 2.0**-11))
        assert np.all(np.abs(found / scales - np.round(found / scales)) < 1e-3)


def test_rows_of_the_table_without_a_word_are_written_as_unused(tmp_path):
    read = GGUFFile(tiny_gguf.write(tmp_path / "x.gguf"))
    content = gguf_tokenizer.read(read)
    found = gguf_vocabulary.metadata(pretend(content, vocab_size=tiny_gguf.VOCAB + 2))
    assert found["tokenizer.ggml.tokens"] == [
        *read.metadata["tokenizer.ggml.tokens"],
        f"[PAD{tiny_gguf.VOCAB}]",
        f"[PAD{tiny_gguf.VOCAB + 1}]",
    ]
    types = found["tokenizer.ggml.token_type"]
    assert (types[0], types[BOS], types[EOS], types[-2:]) == (1, 3, 3, [5, 5])
    told = {
        f"tokenizer.ggml.{name}_token_id": found[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos")
    }
    assert list(told.values()) == [BOS, EOS]


@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "qwen2", "llama-bpe"])
def test_the_name_of_the_pre_tokenizer_is_found_again(tmp_path, kind):
    file = GGUFFile(tiny_gguf.write(tmp_path / "x.gguf", tokenizer__ggml__pre=kind))
    found = gguf_vocabulary.metadata(pretend(gguf_tokenizer.read(file)))
    assert found["tokenizer.ggml.pre"] == kind


def test_the_name_does_not_hang_on_how_a_tokenizer_json_is_laid_out():
    """Qwen's own has offsets trimmed otherwise, GPT-2's has no sequence, SmolLM's has one within another."""
    library = tokenizers.Tokenizer.from_str(byte_level().decode())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    assert gguf_vocabulary.metadata(pretend(library))["tokenizer.ggml.pre"] == "gpt-2"
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True)])
    library.pre_tokenizer = pre_tokenizers.Sequence([digits, library.pre_tokenizer])
    assert gguf_vocabulary.metadata(pretend(library))["tokenizer.ggml.pre"] == "smollm"


CONFIG = DecoderOnlyConfig(tiny_gguf.VOCAB, 32, 4, 2, 8, 2, 64)
LLAMA3, LINEAR = RopeScaling(8.0, 1.0, 4.0, 8192), RopeScaling(1.1, 1.0, 4.0, 1)
GEMMA3 = {
    **dict.fromkeys(("qk_norm", "norms_around_zero", "post_norms", "scaled_embedding"), True),
    **{"mlp_activations": ("gelu", "linear"), "window": 4, "unwindowed_every": 6, "query_scalar": 8},
}


@pytest.mark.parametrize(
    ("fields", "scaling", "tensor"),
    [
        ({}, LLAMA3, True),
        ({}, LINEAR, False),
        ({"qkv_bias": True}, LINEAR, False),
        ({**GEMMA3, "window_rope_theta": 100.0}, LINEAR, False),
    ],
    ids=["llama", "linear llama", "qwen2", "gemma3"],
)
def test_stretched_waves_come_back(tmp_path, fields, scaling, tensor):
    """llama.cpp rejects a file with the tensor, except of a Llama."""
    config = dataclasses.replace(CONFIG, rope_theta=1e6, rope_scaling=scaling, **fields)
    kind, sizes, tensors = gguf_decoder.to_gguf(config, random_params(DecoderOnly(config)))
    assert ("rope_freqs.weight" in tensors) == tensor
    if tensor:
        ratio = rotary.frequencies(8, 1e6) / rotary.frequencies(8, 1e6, scaling)
        np.testing.assert_array_equal(tensors["rope_freqs.weight"], np.asarray(ratio, np.float32))
    gguf_output.write(tmp_path / "x.gguf", kind, sizes, tensors, "f32")
    assert gguf_decoder.read(GGUFFile(tmp_path / "x.gguf"))[0].config == config


def test_layers_with_a_window_turn_like_the_others_unless_they_are_told_otherwise():
    config = dataclasses.replace(CONFIG, rope_theta=1e6, **GEMMA3)
    _, sizes, _ = gguf_decoder.to_gguf(config, random_params(DecoderOnly(config)))
    assert sizes["gemma3.rope.freq_base_swa"] == 1e6


def pretend(tokenizer, vocab_size=tiny_gguf.VOCAB, **card):
    """A model of which the tokenizer alone is asked."""
    content = tokenizer.to_str().encode() if isinstance(tokenizer, tokenizers.Tokenizer) else tokenizer
    config = dataclasses.replace(CONFIG, vocab_size=vocab_size)
    told = {"eos_ids": [EOS], "prompts_end_with_eos": False} | card
    return Pretrained("it", DecoderOnly(config), {}, ModelCard("decoder_only", {}, **told), content)


def changed(**fields):
    """The tokenizer with other fields of its model, or other parts."""
    spec = json.loads(byte_level())
    spec["model"] |= {name: fields.pop(name) for name in set(fields) & set(spec["model"])}
    return json.dumps(spec | fields).encode()


STRIPPED = json.loads(byte_level())["added_tokens"]
STRIPPED[0] |= {"lstrip": True}
WORDS = {
    "pieces": (pretend(changed(byte_fallback=True)), "is of SentencePiece's merges with byte pieces, as Gem"),
    "nothing": (pretend(None), "it has no tokenizer, and llama.cpp wants one"),
    "unigram": (pretend(embedded_tokenizer().model_bytes, 4096), "only byte-level BPE (a tokenizer.json) is"),
    "dropout": (pretend(changed(dropout=0.1)), "its tokenizer has dropout 0.1, llama.cpp None"),
    "whole words": (pretend(changed(ignore_merges=True)), "cuts texts up (ByteLevel) by no rule"),
    "prefix": (
        pretend(
            changed(pre_tokenizer=json.loads(byte_level())["pre_tokenizer"] | {"add_prefix_space": True})
        ),
        "by no rule that llama.cpp is known to have a name for: gpt-2, smollm, qwen2, llama-bpe",
    ),
    "lower": (pretend(changed(normalizer={"type": "Lowercase"})), "(Lowercase, ByteLevel) by no rule"),
    "no bytes": (pretend(changed(decoder=None)), "its tokenizer is not byte-level"),
    "strip": (pretend(changed(added_tokens=STRIPPED)), "its token '<s>' takes spaces beside it along"),
    "ends": (pretend(byte_level(), eos_ids=[1, 2, 3, 4]), "4 ids end a text, llama.cpp is told 3 at most"),
    "smaller": (pretend(byte_level(), 100, eos_ids=[1]), "274 ids, but logits for 100"),
}


@pytest.mark.parametrize("name", WORDS)
def test_a_tokenizer_that_llama_cpp_would_not_follow_is_refused(name):
    model, said = WORDS[name]
    with pytest.raises(UsageError, match="it as GGUF: ") as error:
        gguf_vocabulary.metadata(model)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"mlp_activations": ("gelu", "linear")}, "llama.cpp would compute this llama with silu"),
        (
            {"qkv_bias": True, "head_dim": 6},
            "wants the 4 heads of a qwen2 to be as wide as its embedding, 32",
        ),
        ({"window": 9}, "llama.cpp takes a mistral for a llama without its sliding window of 9"),
        (
            {"qk_norm": True, "rope_scaling": LLAMA3},
            "llama.cpp stretches all waves of a qwen3 alike: rope_scaling does not",
        ),
        ({**GEMMA3, "rope_scaling": LINEAR}, "a Gemma 3 has no rope_scaling in layers with a window"),
        ({"qk_norm": True, "qkv_bias": True, "out_bias": True}, "knows no biases in a qwen3's attention"),
        (
            {"norm": "layer", "positions": "learned", "mlp_activations": ("gelu",), "num_kv_heads": 4}
            | dict.fromkeys(("qkv_bias", "out_bias", "mlp_bias"), True),
            "a gpt2 is not written as GGUF: only llama, qwen2, qwen3, gemma3 are",
        ),
    ],
)
def test_a_network_that_llama_cpp_would_compute_otherwise_is_refused(fields, said):
    config = dataclasses.replace(CONFIG, **fields)
    with pytest.raises(UsageError, match=said):
        gguf_decoder.to_gguf(config, random_params(DecoderOnly(config)))


@pytest.mark.parametrize(
    ("kind", "tensor", "said"),
    [
        (
            "q8_0",
            np.zeros((2, 33)),
            "tensor x has rows of 33 numbers, q8_0 wants a multiple of 32: choose f16",
        ),
        ("f16", np.full((1, 32), 65521.0), "tensor x holds numbers beyond 65,504, or none: choose f32"),
        ("q8_0", np.full((1, 32), np.nan), "tensor x holds numbers beyond 8,319,008, or none: choose f32"),
        ("q4_0", np.zeros((1, 32)), "unknown type 'q4_0': did you mean 'q8_0'?"),
    ],
)
def test_a_type_that_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, kind, tensor, said):
    with pytest.raises(UsageError) as error:
        gguf_output.write(tmp_path / "x.gguf", "llama", {}, {"x": tensor.astype(np.float32)}, kind)
    assert said in str(error.value)
    assert not [*tmp_path.iterdir()]


def test_an_earlier_output_is_replaced_and_nothing_else(directory, theirs, tmp_path, capsys):
    path = written(directory, tmp_path / "x.gguf", "f32")
    large = path.stat().st_size
    assert written(directory, path, "f16").stat().st_size < large
    before = theirs.read_bytes()
    flags = ["convert", "--to=gguf", f"--input={directory}"]
    assert console.main([*flags, f"--output={theirs}"]) == 2
    assert "the file there is no earlier output of this command" in capsys.readouterr().err
    assert theirs.read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--to=hf", "--type=f16"], "--type belongs to --to=gguf"),
        (["--to=gguf", "--type=q4_0"], "--type"),
        (
            ["--to=gguf", "--input=zoo:draft"],
            "zoo:draft is a t5; GGUF is written of decoder-only models: use",
        ),
        (
            ["--to=gguf", "--input=zoo:decoder_draft"],
            "zoo:decoder_draft as GGUF: its tokenizer is a SentenceP",
        ),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(flags, said, tmp_path, capsys):
    assert console.main(["convert", "--input=x", f"--output={tmp_path}/y.gguf", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not [*tmp_path.iterdir()]
