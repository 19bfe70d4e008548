"""Checkpoints in and out as a user has them: folders, shards, tokenizers, and what may be wrong with them."""

import dataclasses
import json
import shutil
import weakref
from collections.abc import Mapping

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from distillspec_jax import checkpoint
from distillspec_jax.cli import main as console
from distillspec_jax.errors import UsageError
from distillspec_jax.generation.text_generator import TextGenerator
from distillspec_jax.interop import convert, hf_decoder, hf_folder, hf_tokenizer
from distillspec_jax.models import pretrained, registry
from distillspec_jax.models.t5 import EncoderDecoder
from distillspec_jax.tokenization.tokenizer import Tokenizer, embedded_tokenizer
from tests import tiny
from tests.data.hub import BOS, EOS, byte_level

TEXTS = ("Hello, world!", "  two  spaces\tand a tab", "Grüße 🙂 aus Köln\n", "")


def equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.fixture(scope="module", params=["t5_1_0", "t5_1_1", "gpt", "llama", "gemma3", "t5gemma"])
def model(request):
    return tiny.MODELS[request.param]


@pytest.fixture
def folder(model, tmp_path):
    """A Hugging Face folder without a tokenizer."""
    hf_folder.write(tmp_path / "hf", model, tiny.params(model))
    return tmp_path / "hf"


def test_a_round_trip_through_directories_is_bit_equal(model, folder, tmp_path, capsys):
    assert console.main(["convert", "--from=hf", f"--input={folder}", f"--output={tmp_path}/ours"]) == 0
    captured = capsys.readouterr()
    count = checkpoint.count_parameters(tiny.params(model))
    assert captured.out.startswith(f"{tmp_path}/ours: {registry.family_of(model)}, ")
    assert f"{count:,} parameters" in captured.out
    assert "no tokenizer" in captured.err
    loaded = pretrained.load(f"{tmp_path}/ours")
    assert loaded.model == model
    equal(loaded.params, tiny.params(model))
    assert loaded.card.provenance["converted"]["format"] == "hf"

    assert console.main(["convert", "--to=hf", f"--input={tmp_path}/ours", f"--output={tmp_path}/back"]) == 0
    first, second = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "back"))
    assert first.keys() == second.keys()
    equal(second, first)
    transformers.AutoConfig.from_pretrained(tmp_path / "back")  # checks the types of the fields
    readme = (tmp_path / "back" / "README.md").read_text()
    assert "## Provenance" in readme
    assert ("`model.config.num_layers = 2`" in readme) == (model in tiny.T5S.values())  # 1 layer and 2


def test_a_t5x_checkpoint_goes_to_hugging_face_and_back(t5x_tiny, tmp_path):
    """transformers computes the logits that T5X computed; and the numbers come back as they went."""
    expected = dict(np.load(t5x_tiny / "expected.npz"))
    activations = {"mlp_activations": ("gelu", "linear")}
    _, read = convert.convert("t5x", str(t5x_tiny / "checkpoint_0"), str(tmp_path / "ours"), **activations)
    convert.export(str(tmp_path / "ours"), str(tmp_path / "hf"))
    network = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "hf").eval()
    with torch.inference_mode():
        logits = network(
            input_ids=torch.from_numpy(expected["encoder_input_tokens"]).long(),
            attention_mask=torch.from_numpy(expected["encoder_input_tokens"] > 0),
            decoder_input_ids=torch.from_numpy(expected["decoder_input_tokens"]).long(),
        ).logits.numpy()
    real = expected["decoder_target_tokens"] > 0
    np.testing.assert_allclose(logits[real], expected["logits"][real], rtol=0, atol=1e-4)
    _, again = convert.convert("hf", str(tmp_path / "hf"), str(tmp_path / "again"))
    equal(again.params, read.params)


def test_shards_are_read_like_one_file(tmp_path):
    config = transformers.LlamaConfig(
        vocab_size=29, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4
    )
    network = transformers.LlamaForCausalLM(config)
    network.save_pretrained(tmp_path / "one")
    network.save_pretrained(tmp_path / "many", max_shard_size="4KB")
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 2
    equal(hf_folder.read(tmp_path / "many")[1], hf_folder.read(tmp_path / "one")[1])
    victim = sorted((tmp_path / "many").glob("model-*.safetensors"))[1]
    tensors = load_file(victim)
    lost = sorted(tensors)[0]
    save_file({name: t for name, t in tensors.items() if name != lost}, victim)
    with pytest.raises(
        UsageError, match=f"{victim.name}: tensor {lost} is missing, though the index puts it"
    ):
        hf_folder.read(tmp_path / "many")
    victim.unlink()
    with pytest.raises(UsageError, match=f"{victim.name}: no such file"):
        hf_folder.read(tmp_path / "many")


def test_half_precision_is_read_exactly(tmp_path):
    tensors, config = hf_decoder.to_hf(tiny.GPT.config, tiny.params(tiny.GPT))
    half = {name: tensor.astype(jax.numpy.bfloat16) for name, tensor in tensors.items()}
    save_file(half, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = hf_folder.read(tmp_path)[1]["decoder"]["layers_0"]["mlp"]["wi"]["kernel"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, half["transformer.h.0.mlp.c_fc.weight"].astype(np.float32))


class Counted(Mapping):
    """Tensors that are made when asked for, and how many of them live at once."""

    def __init__(self, tensors):
        self.tensors, self.given, self.sizes, self.most = tensors, [], [], 0

    def __getitem__(self, name):
        self.most = max(self.most, sum(given() is not None for given in self.given))
        tensor = self.tensors[name].copy()
        self.given.append(weakref.ref(tensor))
        self.sizes.append(tensor.size)
        return tensor

    def __iter__(self):
        return iter(self.tensors)

    def __len__(self):
        return len(self.tensors)


@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_tensors_are_let_go_one_after_the_other(kind):
    model = tiny.MODELS[kind]
    tensors, config = hf_decoder.to_hf(model.config, tiny.params(model))
    counted = Counted(tensors)
    hf_decoder.from_hf(counted, config)
    assert len(counted.given) >= len(tensors)
    assert counted.most <= 1
    assert counted.sizes[0] == max(leaf.size for leaf in jax.tree.leaves(tiny.params(model)))


def test_what_was_read_is_written_without_a_copy():
    tensors, config = hf_decoder.to_hf(tiny.GPT.config, tiny.params(tiny.GPT))
    _, params = hf_decoder.from_hf(tensors, config)
    read = [leaf.ctypes.data for leaf in jax.tree.leaves(params)]
    convert._to_jax(params)
    assert [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(params)] == read


def with_tokenizer(folder):
    (folder / "spiece.model").write_bytes(embedded_tokenizer().model_bytes)


def test_a_sentencepiece_tokenizer_goes_along_and_is_read_by_transformers(tmp_path, capsys):
    network = EncoderDecoder(dataclasses.replace(tiny.T5_1_1.config, vocab_size=4096))
    hf_folder.write(tmp_path / "hf", network, tiny.params(network))
    with_tokenizer(tmp_path / "hf")
    assert console.main(["convert", "--from=hf", f"--input={tmp_path}/hf", f"--output={tmp_path}/ours"]) == 0
    assert "tokenizer" not in capsys.readouterr().err
    loaded = pretrained.load(f"{tmp_path}/ours")
    assert loaded.card.tokenizer_fingerprint == embedded_tokenizer().fingerprint
    card = dataclasses.replace(loaded.card, mask_id=2)
    pretrained.save(dataclasses.replace(loaded, card=card), f"{tmp_path}/one_pass")
    convert.export(f"{tmp_path}/one_pass", f"{tmp_path}/back")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["pard_token"] == 2
    (tmp_path / "back" / "added_tokens.json").write_text('{"</s>": 1, "<a>": 4096, "<b>": 4097}')
    again, read = convert.convert("hf", f"{tmp_path}/back", f"{tmp_path}/again")
    assert again.mask_id == 2
    assert read.skipped == (
        "2 tokens that added_tokens.json adds to the SentencePiece model, ids 4,096 to 4,097: to have them, "
        f"pass --tokenizer={tmp_path}/back/tokenizer.json",
    )
    assert (tmp_path / "back" / "spiece.model").read_bytes() == loaded.tokenizer_bytes
    ours = Tokenizer.from_bytes(loaded.tokenizer_bytes)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.eos_id, ours.pad_id)
    for text in TEXTS:
        assert theirs(text).input_ids == [*ours.encode(text), ours.eos_id], text
        assert theirs.decode(ours.encode(text)) == text


def test_texts_are_continued_as_transformers_continues_them(tmp_path):
    """A Llama with a tokenizer.json: BOS before the prompt, no EOS after it, greedy to the end."""
    config = transformers.LlamaConfig(
        vocab_size=300,  # the last rows are padding
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=EOS,
        bos_token_id=BOS,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    network = transformers.LlamaForCausalLM(config).eval()
    network.save_pretrained(tmp_path / "hf")
    (tmp_path / "hf" / "tokenizer.json").write_bytes(byte_level())
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "hf" / "tokenizer.json"))
    card, _ = convert.convert("hf", str(tmp_path / "hf"), str(tmp_path / "ours"))
    assert (card.eos_ids, card.prompts_end_with_eos) == ([EOS], False)
    assert (tmp_path / "ours" / "tokenizer.json").read_bytes() == byte_level()

    texts = ["the cat", "a dog and! a"]
    generator = TextGenerator(pretrained.load(str(tmp_path / "ours")), batch_size=2)
    for text, found in zip(texts, generator.stream(texts, max_new_tokens=8), strict=True):
        ids = theirs(text, return_tensors="pt").input_ids
        distribution = {"max_new_tokens": 8, "do_sample": False, "suppress_tokens": list(range(EOS + 1, 300))}
        whole = network.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=EOS, **distribution)[
            0
        ]
        assert found.outputs == theirs.decode(whole[ids.shape[1] :], skip_special_tokens=True)
        assert found.emitted_tokens == len(whole) - ids.shape[1]

    convert.export(str(tmp_path / "ours"), str(tmp_path / "back"))
    assistant = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assisted = network.generate(
        ids, attention_mask=torch.ones_like(ids), pad_token_id=EOS, assistant_model=assistant, **distribution
    )
    assert assisted[0].tolist() == whole.tolist()
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    assert again.eos_token_id == EOS
    assert again(texts[1]).input_ids == theirs(texts[1]).input_ids
    assert transformers.GenerationConfig.from_pretrained(tmp_path / "back").eos_token_id == EOS


def test_chat_templates_are_found_wherever_transformers_has_kept_them(tmp_path):
    assert hf_tokenizer.chat(tmp_path) == {}
    several = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    told = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None, "chat_template": several}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(told))
    words = {"bos_token": "<s>", "eos_token": "</s>"}
    assert hf_tokenizer.chat(tmp_path) == {"template": "d", **words}
    (tmp_path / "chat_template.jinja").write_text("j")
    assert hf_tokenizer.chat(tmp_path) == {"template": "j", **words}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"chat_template": 3}, "field chat_template: expected "),
        ({"chat_template": [3]}, "field chat_template[0]: expected object, got 3"),
        ({"chat_template": [{"name": "default"}]}, "chat_template: it has no field 'template'"),
        ({"chat_template": "t", "bos_token": 7}, "field bos_token: expected "),
        ({"chat_template": "t", "bos_token": {"content": None}}, "field bos_token: expected str, got None"),
    ],
)
def test_a_tokenizer_config_of_other_types_is_one_line(tmp_path, told, said):
    """Each was a traceback, or went into a card."""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(told))
    with pytest.raises(UsageError) as caught:
        hf_tokenizer.chat(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/tokenizer_config.json")
    assert said in str(caught.value)


@pytest.mark.parametrize("found", ["2", [2, None], -1, 2.5, {"a": 1}])
def test_an_end_that_is_no_id_is_one_line(tmp_path, found):
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": found}))
    with pytest.raises(UsageError, match=r"generation_config.json: field eos_token_id"):
        hf_tokenizer.eos_ids(tmp_path)


def broken(folder, name):
    """A copy of a folder with one thing wrong."""
    copy = shutil.copytree(folder, folder.parent / "broken")
    config = json.loads((copy / "config.json").read_text())
    if name == "truncated":
        weights = (copy / "model.safetensors").read_bytes()
        (copy / "model.safetensors").write_bytes(weights[:-7])
    elif name == "unknown":
        config["model_type"] = "lama"
    elif name == "contradicting":
        config["n_embd"] = 32
    elif name == "pickled":
        (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    elif name == "quantised":
        (copy / "model.safetensors").rename(copy / "model.gguf")
    elif name == "mistyped":
        config["n_layer"] = "two"
    elif name == "no config":
        (copy / "config.json").unlink()
        return copy
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("truncated", "model.safetensors is damaged or cut short: "),
        ("unknown", "config.json: unknown model_type 'lama': did you mean 'llama'?"),
        ("contradicting", "misshaped tensors: "),
        (
            "pickled",
            "holds no model.safetensors and no model.safetensors.index.json (pytorch_model.bin is not",
        ),
        ("quantised", "(model.gguf is not read: pass --from=gguf --input="),
        ("mistyped", "config.json is not the configuration of a gpt2: "),
        ("no config", "is not a Hugging Face model: it has no config.json"),
    ],
)
def test_a_folder_that_is_wrong_is_named_in_one_line(wrong, said, tmp_path, capsys):
    hf_folder.write(tmp_path / "hf", tiny.GPT, tiny.params(tiny.GPT))
    folder = broken(tmp_path / "hf", wrong)
    assert console.main(["convert", "--from=hf", f"--input={folder}", f"--output={tmp_path}/ours"]) == 2
    error = capsys.readouterr().err
    assert str(folder) in error or "misshaped" in error
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--input=a", "--output=b"], "pass either --from=gguf|hf|t5x"),
        (["--from=hf", "--to=hf", "--input=a", "--output=b"], "pass either --from=gguf|hf|t5x"),
        (["--from=hg", "--input=a", "--output=b"], "did you mean 'hf'"),
        (["--from=hf", "--input=a", "--output=tests"], "tests holds something already"),
        (
            ["--from=hf", "--input=a", "--output=b", "--relpos_max_distance=9"],
            "relpos_max_distance is stated by",
        ),
        (["--to=hf", "--input=a", "--output=b", "--tokenizer=t"], "--tokenizer belongs to --from"),
        (["--to=hf", "--input=a", "--output=b", "--eos_ids=2"], "--eos_ids belongs to --from"),
        (["--from=hf", "--input=a", "--output=b", "--eos_ids="], "argument --eos_ids: the value is empty"),
        (["--to=hf", "--input=a", "--output=b"], "a is not a checkpoint directory"),
        (["--from=t5x", "--input=a", "--output=b"], "a is not a T5X checkpoint: no such directory"),
    ],
)
def test_a_bad_call_is_refused_in_one_line(flags, said, capsys):
    assert console.main(["convert", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_activations_of_a_t5x_checkpoint_are_asked_for(t5x_tiny, tmp_path):
    with pytest.raises(UsageError, match="does not tell its activations: pass --mlp_activations"):
        convert.convert("t5x", str(t5x_tiny / "checkpoint_0"), str(tmp_path / "ours"))
    with pytest.raises(UsageError, match="parameter decoder/layers_0/mlp/wi/kernel is missing"):
        convert.convert(
            "t5x", str(t5x_tiny / "checkpoint_0"), str(tmp_path / "ours"), mlp_activations=("relu",)
        )
    assert not (tmp_path / "ours").exists()
