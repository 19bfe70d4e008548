"""Tokenizers that cannot be used or written: told when they are converted, not when they are served."""

import dataclasses
import json

import pytest
from sentencepiece import sentencepiece_model_pb2

from distillspec_jax import model_card
from distillspec_jax.cli import main as console
from distillspec_jax.generation.prompt_format import tokenizer_of
from distillspec_jax.interop import convert, hf_folder, hf_tokenizer
from distillspec_jax.models import pretrained, registry
from distillspec_jax.models.decoder_only import DecoderOnly, DecoderOnlyConfig
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.models.t5 import EncoderDecoder
from distillspec_jax.tokenization.prompt_reader import Reader
from distillspec_jax.tokenization.tokenizer import embedded_tokenizer
from tests import tiny
from tests.data.hub import EOS, byte_level


def sentencepiece(**changed):
    """The embedded vocabulary with other fields in its trainer's specification."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(embedded_tokenizer().model_bytes)
    for name, value in changed.items():
        setattr(proto.trainer_spec, name, value)
    return proto.SerializeToString()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "spiece.model",
            b"version https://git-lfs.github.com/spec/v1\n",
            "neither a SentencePiece model nor a tokenizer.json: it begins with b'version https://git-",
        ),
        (
            "tokenizer.model",
            sentencepiece(pad_piece="none"),
            "defines no pad or no eos piece: train it with both",
        ),
        ("tokenizer.json", b'{"version": "1.0"}', "not a tokenizer.json: "),
        ("tokenizer.json", byte_level(), "give its id to `distillspec convert`, --eos_ids=ID"),
    ],
)
def test_a_tokenizer_that_no_text_could_be_read_with_is_refused(name, content, said, tmp_path, capsys):
    hf_folder.write(tmp_path / "hf", tiny.GPT, tiny.params(tiny.GPT))
    (tmp_path / "hf" / name).write_bytes(content)
    call = ["convert", "--from=hf", f"--output={tmp_path}/ours"]
    assert console.main([*call, f"--input={tmp_path}/hf"]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}/hf/{name}: " in error
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "ours").exists()


def test_a_vocabulary_of_another_type_is_not_exported_as_unigram(tmp_path, capsys):
    network = EncoderDecoder(dataclasses.replace(tiny.T5_1_1.config, vocab_size=4096))
    hf_folder.write(tmp_path / "hf", network, tiny.params(network))
    (tmp_path / "hf" / "spiece.model").write_bytes(sentencepiece(model_type=2))
    convert.convert("hf", f"{tmp_path}/hf", f"{tmp_path}/ours")
    assert console.main(["convert", "--to=hf", f"--input={tmp_path}/ours", f"--output={tmp_path}/back"]) == 2
    assert f"{tmp_path}/ours: its SentencePiece model is of type BPE; " in capsys.readouterr().err
    assert not (tmp_path / "back").exists()


def test_padding_that_there_is_not_is_not_written():
    card = model_card.ModelCard(*registry.describe(tiny.GPT))
    model = Pretrained("gpt", tiny.GPT, {}, card, sentencepiece(pad_piece="none"))
    special, files = hf_tokenizer.files(model)
    assert special == {"eos_token_id": 1}
    assert json.loads(files["generation_config.json"]) == special


SENTENCEPIECE = embedded_tokenizer().model_bytes, []
JSON = byte_level(), [EOS]


@pytest.mark.parametrize(
    ("form", "vocabulary", "around"),
    [
        ("hf", SENTENCEPIECE, (True, False)),
        ("hf", SENTENCEPIECE, (False, True)),
        ("hf", JSON, (True, False)),
        ("gguf", JSON, (True, False)),
    ],
)
def test_prompts_of_what_comes_back_have_the_same_ids(form, vocabulary, around, tmp_path):
    """EOS behind a prompt, or before it, is told by the tokenizer alone; the zoo's decoders have it."""
    content, eos_ids = vocabulary
    network = DecoderOnly(DecoderOnlyConfig(4096, 32, 4, 2, 8, 1, 64))
    told = dict(zip(("prompts_end_with_eos", "prompts_begin_with_eos"), around, strict=True))
    fingerprint = model_card.fingerprint(content)
    card = model_card.ModelCard(*registry.describe(network), fingerprint, eos_ids=eos_ids, **told)
    pretrained.save(Pretrained("it", network, tiny.params(network), card, content), f"{tmp_path}/ours")
    export = convert.export if form == "hf" else convert.export_gguf
    export(f"{tmp_path}/ours", f"{tmp_path}/theirs.gguf")
    again, _ = convert.convert(form, f"{tmp_path}/theirs.gguf", f"{tmp_path}/again")
    assert (again.prompts_end_with_eos, again.prompts_begin_with_eos) == around
    assert (again.tokenizer_fingerprint == fingerprint) == (content != JSON[0])
    before, after = (pretrained.load(f"{tmp_path}/{name}") for name in ("ours", "again"))
    ids, found = (Reader.of_card(one.card, tokenizer_of(one)).prompt("the cat") for one in (before, after))
    assert found == ids


def test_ends_of_texts_may_be_given(tmp_path, capsys):
    network = DecoderOnly(dataclasses.replace(tiny.GPT.config, vocab_size=280))
    hf_folder.write(tmp_path / "hf", network, tiny.params(network), eos_token_id=3)
    (tmp_path / "hf" / "tokenizer.json").write_bytes(byte_level())
    call = ["convert", "--from=hf", f"--input={tmp_path}/hf", f"--output={tmp_path}/ours"]
    for wrong in ("274", "2,-1"):  # the tokenizer has 274 ids, the network 280
        assert console.main([*call, f"--eos_ids={wrong}"]) == 2
        last = wrong.split(",")[-1]
        assert f"--eos_ids={last}: the vocabulary has ids from 0 to 273\n" in capsys.readouterr().err
        assert not (tmp_path / "ours").exists()
    assert console.main([*call, "--eos_ids=2,7"]) == 0
    loaded = pretrained.load(f"{tmp_path}/ours")
    assert loaded.card.eos_ids == [2, 7]
    assert tokenizer_of(loaded).eos_ids == (2, 7)


def test_a_larger_models_tokenizer_is_refused(tmp_path, capsys):
    hf_folder.write(tmp_path / "hf", tiny.GPT, tiny.params(tiny.GPT), eos_token_id=3)
    (tmp_path / "hf" / "tokenizer.json").write_bytes(byte_level())
    assert console.main(["convert", "--from=hf", f"--input={tmp_path}/hf", f"--output={tmp_path}/ours"]) == 2
    said = "tokenizer.json: it has 274 ids, but the network has logits for 29: it is another model's\n"
    assert capsys.readouterr().err.endswith(said)
    assert not (tmp_path / "ours").exists()
