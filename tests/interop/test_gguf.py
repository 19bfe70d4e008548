"""GGUF files against transformers' own load of them, and what may be wrong with one."""

import io
import sys

import gguf
import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from sentencepiece import sentencepiece_model_pb2

from distillspec_jax.cli import main as console
from distillspec_jax.data.examples import examples
from distillspec_jax.errors import UsageError
from distillspec_jax.generation import text_generator
from distillspec_jax.generation.prompt_format import prompt_format
from distillspec_jax.interop import convert, gguf_decoder, gguf_file, gguf_tokenizer
from distillspec_jax.interop.gguf_file import GGUFFile
from distillspec_jax.models import pretrained, rotary
from distillspec_jax.models.rotary import RopeScaling
from distillspec_jax.tokenization.chat_template import ChatTemplate
from distillspec_jax.tokenization.tokenizer import Tokenizer
from tests import tiny
from tests.data.hub import BOS, EOS
from tests.interop import tiny_gguf

TEXTS = ("the cat", "  two  spaces\tand a tab", "Grüße 🙂 aus Köln\n", "a dog</s>the dog's 2024 cats", "")


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def file(request, tmp_path_factory):
    return tiny_gguf.write(tmp_path_factory.mktemp("gguf") / f"{request.param}.gguf", request.param)


@pytest.fixture(scope="module")
def imported(file):
    """The checkpoint directory that `convert` makes of it, loaded."""
    directory = f"{file.parent}/ours"
    assert console.main(["convert", "--from=gguf", f"--input={file}", f"--output={directory}"]) == 0
    return pretrained.load(directory)


@pytest.mark.parametrize("file", ["llama", "qwen2", "qwen3", "gemma3"], indirect=True, scope="module")
def test_logits_are_those_of_transformers_load_of_the_same_file(file, imported):
    # transformers does not read how wide the heads of a Qwen3 are, nor by what a Gemma 3 divides queries.
    told = {"head_dim": tiny_gguf.HEAD_DIM} if file.stem in ("qwen3", "gemma3") else {}
    told |= {"query_pre_attn_scalar": tiny_gguf.HEAD_DIM} if file.stem == "gemma3" else {}
    network = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, **told
    ).eval()
    prompts, targets = (tiny.tokens(seed, 2, 6, vocab=tiny_gguf.VOCAB) for seed in (0, 1))
    with torch.inference_mode():
        whole = torch.from_numpy(np.concatenate([prompts, targets], axis=1)).long()
        expected = network(input_ids=whole).logits.numpy()[:, 5:-1]
    assert np.std(expected) > 0.3
    found = tiny.logits(imported.model, imported.params, tiny.teacher_batch(prompts, targets))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_every_type_is_read_as_the_package_reads_it(file, monkeypatch):
    monkeypatch.setattr(gguf_file, "_CHUNK", 100)  # three rows at a time
    ours, seen = GGUFFile(file), set()
    for tensor in gguf.GGUFReader(file).tensors:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(ours[tensor.name], expected)
        assert ours.shape(tensor.name) == expected.shape
        seen.add(tensor.tensor_type.name)
    assert seen == tiny_gguf.TYPES
    assert len(ours) == len(tiny_gguf.shapes(file.stem))


def test_quants_in_large_blocks_are_read_as_the_package_reads_them(tmp_path, monkeypatch):
    writer, rng = gguf.GGUFWriter(tmp_path / "x.gguf", "llama"), np.random.default_rng(0)
    names = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")
    blocks = {}
    for name in names:
        type_ = gguf.GGMLQuantizationType[name]
        size = gguf.GGML_QUANT_SIZES[type_][1]
        blocks[name] = rng.integers(0, 100, (5, 2 * size)).astype(np.uint8)  # as a scale, a finite number
        writer.add_tensor(name, blocks[name], raw_dtype=type_)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    monkeypatch.setattr(gguf_file, "_CHUNK", 1000)  # a row at a time
    ours = GGUFFile(tmp_path / "x.gguf")
    assert {*ours} == {*names}
    for name, raw in blocks.items():
        expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name])
        np.testing.assert_array_equal(ours[name], expected)
        assert expected.shape == (5, 512)


def test_the_stretched_waves_of_a_llama_3_are_known_by_their_factors(tmp_path):
    scaling = RopeScaling(8.0, 1.0, 4.0, 8192)
    factors = rotary.frequencies(8, 1e6) / rotary.frequencies(8, 1e6, scaling)
    assert 1 < factors[2] < factors[3]
    linear = RopeScaling(1.1, 1.0, 4.0, 1)  # as files of before had it
    for tensor, expected in ((factors, scaling), (np.full(4, 1.1, np.float32), linear)):
        told = {"llama__rope__freq_base": 1e6, "rope_freqs__weight": tensor}
        _, config = gguf_decoder.read_config(GGUFFile(tiny_gguf.write(tmp_path / "x.gguf", **told)))
        assert (config.rope_theta, config.rope_scaling) == (1e6, expected)
    file = tiny_gguf.write(tmp_path / "x.gguf", **told, llama__rope__scaling__type="linear")
    with pytest.raises(UsageError, match=r"both metadata llama\.rope\.scaling\.type and tensor rope_freqs"):
        gguf_decoder.read_config(GGUFFile(file))


def test_the_card_knows_ends_beginnings_and_the_template(imported):
    card = imported.card
    assert (card.eos_ids, card.prompts_end_with_eos) == ([EOS], False)
    assert card.chat == {"template": tiny_gguf.CHAT, "bos_token": "<s>", "eos_token": "</s>"}
    assert imported.model.config.norm_epsilon == 1e-5
    tokenizer = Tokenizer.from_bytes(imported.tokenizer_bytes, card.eos_ids)
    assert (tokenizer.first_ids, tokenizer.vocab_size) == ([BOS], tiny_gguf.VOCAB)


def test_texts_become_the_ids_that_transformers_makes_of_them(file, imported):
    theirs = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    ours = Tokenizer.from_bytes(imported.tokenizer_bytes, imported.card.eos_ids)
    for said in TEXTS:
        ids = ours.encode(said)
        assert ids == theirs(said, add_special_tokens=False).input_ids, said
        assert ours.decode([BOS, *(i for i in ids if i != EOS)]) == said.replace("</s>", "")


@pytest.mark.parametrize(
    ("kind", "pieces"),
    [
        ("smollm", ["the", "Ġ", "2", "0", "2", "4", "Ċ", "Ċ", "the"]),
        ("qwen2", ["the", "Ġ", "2", "0", "2", "4", "ĊĊ", "the"]),
        ("llama-bpe", ["the", "Ġ", "202", "4", "ĊĊ", "the"]),
        ("gpt-2", ["the", "Ġ202", "4", "Ċ", "Ċ", "the"]),
    ],
)
def test_a_text_is_cut_up_as_the_name_says(tmp_path, kind, pieces):
    """Numbers and empty lines tell the four apart."""
    file = GGUFFile(tiny_gguf.write(tmp_path / "x.gguf", tokenizer__ggml__pre=kind))
    words = file.metadata["tokenizer.ggml.tokens"]
    words += ["Ġ2", "Ġ20", "Ġ202", "20", "202", "ĊĊ"]
    file.metadata["tokenizer.ggml.token_type"] = [1] * len(words)
    file.metadata["tokenizer.ggml.merges"] += ["Ġ 2", "Ġ2 0", "Ġ20 2", "2 0", "20 2", "Ċ Ċ"]
    ids = Tokenizer.from_bytes(gguf_tokenizer.read(file), [EOS]).encode("the 2024\n\nthe")
    assert [words[i] for i in ids] == pieces


def test_a_chat_is_wrapped_as_transformers_wraps_it(imported, tmp_path):
    convert.export(imported.name, str(tmp_path / "hf"))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    form = prompt_format(imported, chat=True)
    for said in TEXTS:
        chat = [{"role": "user", "content": said}]
        expected = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert form.ids(said, "it") == expected, said
        assert (expected[0], expected.count(BOS)) == (BOS, 1)
    again, _ = convert.convert("hf", str(tmp_path / "hf"), str(tmp_path / "again"))
    assert again.chat == imported.card.chat


def test_generate_wraps_only_where_it_is_told_to_and_there_is_a_template(
    imported, tmp_path, capsys, monkeypatch
):
    class Made(Exception):
        pass

    def make(*models, form, **settings):
        raise Made(form.reader.chat and form.reader.chat.source)

    monkeypatch.setattr(text_generator, "TextGenerator", make)
    lines = tmp_path / "in.jsonl"
    lines.write_text('{"inputs": "dog"}\n')
    flags = ["generate", f"--model={imported.name}", f"--input={lines}"]
    for more, found in (([], None), (["--chat"], tiny_gguf.CHAT)):
        with pytest.raises(Made) as made:
            console.main([*flags, *more])
        assert made.value.args == (found,)
    flags = ["generate", "--model=zoo:wiki_leads/draft", f"--input={lines}", "--chat"]
    assert console.main(flags) == 2
    assert "zoo:wiki_leads/draft has no chat template: leave --chat out" in capsys.readouterr().err


def test_a_template_that_refuses_or_is_broken_says_so():
    for source, said in (("{{ raise_exception('no system') }}", "no system"), ("{% for %}", "Expected")):
        with pytest.raises(UsageError, match=f"the checkpoint's chat template: {said}"):
            ChatTemplate(source).wrap("dog")


WRONG = {
    "architecture": ({"architecture": "lama"}, "unknown architecture 'lama': did you mean 'llama'?"),
    "no size": ({"llama__block_count": None}, "metadata llama.block_count is missing, must be a number"),
    "no number": ({"llama__context_length": None, "x": 1}, "metadata llama.context_length is missing"),
    "heads": (
        {"llama__attention__head_count_kv": 4},
        "misshaped tensors: blk.0.attn_k.weight is (16, 32), the config wants (32, 32)",
    ),
    "uneven heads": (
        {"llama__attention__head_count": 3},
        "num_kv_heads is 2, must divide num_heads = 3",
    ),
    "layers": ({"llama__block_count": 3}, "missing tensors blk.2.attn_k.weight, "),
    "fewer layers": ({"llama__block_count": 1}, "unused tensors blk.1.attn_k.weight, "),
    "no embedding": ({"token_embd__weight": None}, "missing tensor token_embd.weight"),
    "part of a head": ({"llama__rope__dimension_count": 4}, "rope.dimension_count is 4, must be 8, as wide"),
    "stretched": ({"llama__rope__scaling__type": "yarn"}, "rope.scaling.type is 'yarn', only 'none'"),
    "frequencies": (
        {"rope_freqs__weight": np.linspace(1, 8, 4, dtype=np.float32)},
        "tensor rope_freqs.weight does not scale rotary positions as Llama 3 does",
    ),
    "experts": ({"llama__expert_count": 8}, "metadata llama.expert_count is 8, only 0 is supported"),
    "pre-tokenizer": (
        {"tokenizer__ggml__pre": "smolm"},
        "tokenizer.ggml.pre is 'smolm', which is unknown: did you mean 'smollm'?",
    ),
    "tokenizer": ({"tokenizer__ggml__model": "t5"}, "tokenizer.ggml.model is 't5', only 'gpt2'"),
    "no bos": ({"tokenizer__ggml__bos_token_id": None}, "not a whole tokenizer: 'bos_token_id'"),
    "integers": ({"x": np.zeros(4, np.int32)}, "tensor x is of type I32, which the package gguf does not"),
}


def refused(file, capsys):
    """The one line that `convert` ends with."""
    output = file.parent / "ours"
    assert console.main(["convert", "--from=gguf", f"--input={file}", f"--output={output}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert not output.exists()
    return error


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_wrong_is_named_in_one_line(name, tmp_path, capsys):
    changed, said = WRONG[name]
    file = tiny_gguf.write(tmp_path / "wrong.gguf", **changed)
    error = refused(file, capsys)
    assert f"{file}" in error
    assert said in error


def test_a_tokenizer_of_another_kind_may_be_replaced(tmp_path):
    file = tiny_gguf.write(tmp_path / "x.gguf", tokenizer__ggml__model="llama")
    (tmp_path / "tokenizer.json").write_bytes(tiny_gguf.byte_level())
    tokenizer = str(tmp_path / "tokenizer.json")
    card, read = convert.convert("gguf", str(file), str(tmp_path / "ours"), tokenizer=tokenizer)
    assert (read.tokenizer, card.eos_ids) == (tiny_gguf.byte_level(), [EOS])


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        (0, "is not a GGUF file: it does not begin with GGUF"),
        (17, "is cut short: its header wants 8 bytes at 16, the file ends at 17"),
        (2000, "is cut short: its header wants "),
        (-1, "is cut short: tensor output.weight ends at byte "),
    ],
)
def test_a_file_that_was_cut_short_says_where(tmp_path, capsys, keep, said):
    file = tiny_gguf.write(tmp_path / "x.gguf")
    file.write_bytes(file.read_bytes().rstrip(b"\0")[:keep])
    assert f"{file} {said}" in refused(file, capsys)


def patched(path, old, new):
    content = tiny_gguf.write(path).read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    return path


def info(name, *numbers):
    """What the header has of a tensor of two axes: name, dimensions, type."""
    sizes = b"".join(number.to_bytes(8, "little") for number in numbers[:2])
    return name.encode() + (2).to_bytes(4, "little") + sizes + numbers[2].to_bytes(4, "little")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"GGUF\3", b"GGUF\1", "is of GGUF's version 1, only 2 and 3"),
        (
            info("output.weight", 32, 274, 3),
            info("output.weight", 32, 274, 99),
            "tensor output.weight is of the unknown type 99",
        ),
        (
            info("output.weight", 32, 274, 3),
            info("output.weight", 33, 274, 3),
            "tensor output.weight has rows of 33 numbers, Q4_1 wants a multiple of 32",
        ),
        (
            info("output.weight", 32, 274, 3),
            info("output.weight", 0, 274, 3),
            "tensor output.weight is of shape (274, 0): it is empty",
        ),
        (b"blk.1.attn_norm", b"blk.0.attn_norm", "two tensors have one name"),
    ],
)
def test_a_damaged_header_is_named(tmp_path, capsys, old, new, said):
    assert said in refused(patched(tmp_path / "x.gguf", old, new), capsys)


def test_what_is_not_there_is_said(tmp_path, capsys, monkeypatch):
    file = tiny_gguf.write(tmp_path / "x.gguf")
    with pytest.raises(UsageError, match=rf"a folder: name a file, {file} for instance"):
        GGUFFile(tmp_path)
    with pytest.raises(UsageError, match=r"y\.gguf: no such file"):
        GGUFFile(tmp_path / "y.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "pip install 'distillspec_jax[gguf]'" in refused(file, capsys)


@pytest.mark.parametrize("prefix", [True, False])
def test_pieces_are_merged_as_sentencepiece_merges_them(prefix):
    """A Llama's texts begin with a space, a Gemma's do not, and have words of their own."""
    rows = [row.targets_text for row in examples("wiki_leads", split="validation")]
    written, own = io.BytesIO(), [] if prefix else ["<turn>", "\u2581\u2581"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(rows[:200]),
        model_writer=written,
        vocab_size=900,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
        user_defined_symbols=own,
        minloglevel=2,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    model = sentencepiece_model_pb2.ModelProto.FromString(written.getvalue())
    metadata = {
        "model": "llama",
        "tokens": [piece.piece for piece in model.pieces],
        "scores": [piece.score for piece in model.pieces],
        "token_type": [piece.type for piece in model.pieces],
        "unknown_token_id": 0,
        "bos_token_id": 1,
        "add_space_prefix": prefix,
    }
    library = gguf_tokenizer._build(metadata, None)
    texts = [*rows[200:], *TEXTS[1:3], "a<turn>b", "ends with  "]
    for text in texts:
        found = library.encode(text, add_special_tokens=False).ids
        assert found == theirs.encode(text), text
        assert library.decode(found) == theirs.decode(found), text
    assert library.encode("x").ids[0] == 1  # BOS, which a file need not ask for
