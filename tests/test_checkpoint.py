"""The checkpoint directory: what it says of itself, and what is said of one that is not whole."""

import dataclasses
import importlib.machinery
import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax import checkpoint, files, model_card, provenance
from distillspec_jax.errors import UsageError
from distillspec_jax.model_card import ModelCard

CARD = ModelCard(
    family="t5",
    config={"vocab_size": 5, "mlp_activations": ["gelu", "linear"]},
    tokenizer_fingerprint=model_card.fingerprint(b"pieces"),
    task="wiki_leads",
    prefix="summarize: ",
    feature_lengths={"inputs": 8, "targets": 4},
    provenance={"command": "distillspec finetune", "parents": {}},
)


def params(rows=3):
    values = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
    return {"decoder": {"kernel": jnp.asarray(values), "scale": jnp.ones(4)}}


def shapes(tree):
    return jax.eval_shape(lambda: tree)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp("written")
    model_card.write_card(directory, CARD, b"pieces")
    checkpoint.save_params(directory, 7, params())
    return directory


@pytest.fixture
def directory(written, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(written, tmp_path / "copy")


def fails(directory, tree=None, step=None):
    with pytest.raises(UsageError) as caught:
        checkpoint.load_params(directory, shapes(params() if tree is None else tree), step)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_file_of_parameters_is_large_beside_the_largest(tmp_path):
    """Each is held in memory until it is full."""
    big = np.random.default_rng(0).normal(size=(5, 1 << 20)).astype(np.float32)
    checkpoint.save_params(tmp_path, 1, {"big": jnp.asarray(big)})
    sizes = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(sizes) > big.nbytes / 2
    assert max(sizes) < 1.2 * checkpoint._FILE_BYTES


# --- metadata ---


def test_the_card_and_the_tokenizer_come_back(written):
    assert model_card.read_card(written) == CARD
    assert model_card.read_tokenizer(written) == b"pieces"


def test_files_of_metadata_are_whole_or_absent(tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UsageError, match=rf"cannot save to {tmp_path}/run: No space left on device"):
        model_card.write_card(tmp_path / "run", CARD, b"pieces")
    assert not (tmp_path / "run").exists()


def test_a_place_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=rf"cannot save to {tmp_path}/file/run: Not a directory"):
        model_card.write_card(tmp_path / "file" / "run", CARD, None)


@pytest.mark.parametrize(("name", "there"), [("empty", ""), ("missing", r" \(no such directory\)")])
def test_a_folder_that_is_no_checkpoint_is_named(tmp_path, name, there):
    (tmp_path / "empty").mkdir()
    says = rf"{tmp_path}/{name} is not a checkpoint directory: it has no model.json{there}$"
    with pytest.raises(UsageError, match=says):
        model_card.read_card(tmp_path / name)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"family": "t5"}', b'{"familly": "t5"}', b"\xff"])
def test_a_file_that_is_no_card_is_named(directory, content):
    (directory / "model.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"model\.json: not a model card"):
        model_card.read_card(directory)


def test_a_tokenizer_that_was_changed_is_refused(directory):
    (directory / "tokenizer.model").write_bytes(b"others")
    with pytest.raises(UsageError, match=r"tokenizer\.model: its fingerprint is not the one in model\.json"):
        model_card.read_tokenizer(directory)


def test_a_checkpoint_without_a_tokenizer_says_nothing_of_one(tmp_path):
    model_card.write_card(tmp_path, dataclasses.replace(CARD, tokenizer_fingerprint=None), None)
    assert model_card.read_tokenizer(tmp_path) is None


def test_provenance_tells_the_revision_of_this_package_alone(monkeypatch):
    root = pathlib.Path(provenance.__file__).parent
    revision = ["git", "rev-parse", "--short", "HEAD"]
    here = subprocess.run(revision, capture_output=True, text=True, cwd=root)
    expected = here.stdout.strip() if here.returncode == 0 else None
    found = provenance.of_process(seed=3)
    assert (found["git_revision"], found["seed"]) == (expected, 3)
    # Installed inside somebody else's checkout: git answers, but does not know the file.
    monkeypatch.setattr(provenance, "_git", lambda *arguments: None if "ls-files" in arguments else "abc")
    assert provenance.of_process()["git_revision"] is None


def test_provenance_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.of_process()["git_revision"] is None


@pytest.mark.parametrize(
    ("module", "argv", "command"),
    [
        (None, ["/usr/bin/distillspec", "generate", "--prefix=a b"], "distillspec generate '--prefix=a b'"),
        ("benchmarks.chosen", ["/home/chosen.py", "a"], "python -m benchmarks.chosen a"),
        ("benchmarks.__main__", ["/home/__main__.py"], "python -m benchmarks"),
    ],
)
def test_provenance_has_a_command_to_run_again(monkeypatch, module, argv, command):
    program = types.ModuleType("__main__")
    program.__spec__ = module and importlib.machinery.ModuleSpec(module, None)
    monkeypatch.setitem(sys.modules, "__main__", program)
    monkeypatch.setattr(sys, "argv", argv)
    assert provenance.of_process()["command"] == command


# --- parameters ---


def test_parameters_come_back_bit_for_bit(written):
    loaded = checkpoint.load_params(written, shapes(params()))
    jax.tree.map(np.testing.assert_array_equal, loaded, params())
    assert checkpoint.count_parameters(loaded) == 3 * 4 + 4


def test_bfloat16_on_disk_is_float32_in_memory(tmp_path):
    checkpoint.save_params(tmp_path, 1, params(), dtype="bfloat16")
    stored = checkpoint.stored_shapes(tmp_path / "checkpoints" / "1" / "params")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(stored, is_leaf=lambda x: hasattr(x, "dtype"))} == {
        "bfloat16"
    }
    loaded = checkpoint.load_params(tmp_path, shapes(params()))
    rounded = params()["decoder"]["kernel"].astype(jnp.bfloat16)
    assert loaded["decoder"]["kernel"].dtype == jnp.float32
    np.testing.assert_array_equal(loaded["decoder"]["kernel"], rounded.astype(jnp.float32))
    assert (loaded["decoder"]["kernel"] != params()["decoder"]["kernel"]).any()


def test_a_step_can_be_chosen(directory):
    checkpoint.save_params(directory, 12, jax.tree.map(lambda p: p + 1, params()))
    newest, chosen = (checkpoint.load_params(directory, shapes(params()), step) for step in (None, 7))
    np.testing.assert_array_equal(newest["decoder"]["scale"], 2 * np.ones(4))
    np.testing.assert_array_equal(chosen["decoder"]["scale"], np.ones(4))
    assert checkpoint.latest_step(directory) == 12  # the larger number, not the later name
    assert fails(directory, step=9) == f"{directory} has no checkpoint at step 9 (newest: 12)"


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        (params(rows=2), "parameter decoder/kernel has shape (3, 4), the model wants (2, 4)"),
        ({"decoder": {"scale": jnp.ones(4)}}, "parameter decoder/kernel is not part of the configured model"),
        ({**params(), "encoder": {"scale": jnp.ones(2)}}, "parameter encoder/scale is missing"),
    ],
)
def test_parameters_that_do_not_fit_are_named(written, tree, says):
    assert fails(written, tree) == f"{written}: {says}"


@pytest.mark.parametrize("name", ["7.orbax-checkpoint-tmp-123", "checkpoint_7", "-7", "\u00b2"])
def test_a_folder_by_another_name_is_no_step(directory, name):
    step = directory / "checkpoints" / "7"
    step.rename(step.with_name(name))
    assert checkpoint.latest_step(directory) is None
    assert fails(directory) == f"{directory} holds no finished checkpoint (nothing whole under checkpoints/)"
    assert checkpoint.discard_unfinished(directory) == []  # not ours to remove


def test_a_step_without_whole_parameters_is_no_step(directory):
    step = directory / "checkpoints" / "7"
    shutil.copytree(step, step.with_name("8"))
    (step.with_name("8") / "params").rename(step.with_name("8") / "params.orbax-checkpoint-tmp")
    step.with_name("9").mkdir()
    (step.with_name("10")).write_text("a file")
    assert checkpoint.latest_step(directory) == 7
    assert sorted(path.name for path in checkpoint.discard_unfinished(directory)) == ["8", "9"]
    assert sorted(os.listdir(directory / "checkpoints")) == ["10", "7"]


def test_a_damaged_step_is_named(directory):
    metadata = directory / "checkpoints" / "7" / "params" / "_METADATA"
    metadata.write_text(metadata.read_text()[:50])
    assert fails(directory).startswith(f"{directory}/checkpoints/7 is damaged or not a checkpoint of ours: ")


def test_a_failed_save_of_another_kind_keeps_its_class():
    with pytest.raises(ZeroDivisionError), files.saving("somewhere"):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (PermissionError(13, "Permission denied", "x"), "Permission denied"),
        (OSError("odd"), "odd"),
        (OSError(), "OSError"),
        (ValueError("RESOURCE_EXHAUSTED: 'd/0': No space left on device [28]"), "No space left on device"),
        (ValueError("Failed to write 9 bytes: Disk quota exceeded"), "Disk quota exceeded"),
    ],
)
def test_what_cannot_be_written_is_one_line(raised, reason):
    with pytest.raises(UsageError) as caught, files.saving("somewhere"):
        raise raised
    assert str(caught.value) == f"cannot save to somewhere: {reason}"


def test_the_card_is_plain_json(written):
    assert json.loads((written / "model.json").read_text())["prefix"] == "summarize: "


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"family": None}, "field family: expected str, got None"),
        ({"config": []}, "field config: expected object, got a list of 0"),
        ({"eos_ids": [1.5]}, "field eos_ids[0]: expected int, got 1.5"),
        ({"eos_ids": [5]}, "field eos_ids: 5 is not in the vocabulary of 5"),
        ({"eos_ids": 1}, "field eos_ids: expected array, got 1"),
        ({"shortlist": [-1]}, "field shortlist[0]: expected int >= 0, got -1"),
        ({"shortlist": [0, 99_999_999]}, "field shortlist: 99999999 is not in the vocabulary of 5"),
        ({"chat": [[]]}, "field chat: expected object, got a list of 1"),
        ({"chat": {"bos_token": "<s>"}}, "field chat: it has no template"),
        ({"chat": {"template": 3}}, "field chat[...]: expected str, got int"),
        ({"feature_lengths": {"inputs": 0}}, "field feature_lengths[...]: expected int >= 1"),
        ({"feature_lengths": {"inputs": 10**30}}, "field feature_lengths[...]: "),
        ({"prompts_end_with_eos": "yes"}, "field prompts_end_with_eos: expected bool, got 'yes'"),
        ({"tokenizer_fingerprint": 3}, "field tokenizer_fingerprint: expected str | null, got 3"),
        (
            {"provenance": {"parents": ["zoo:target"]}},
            "provenance: field parents: expected object, got a",
        ),
        ({"provenance": {"shortlist": {"draft": "d"}}}, "provenance, shortlist: it has no field 'step'"),
    ],
)
def test_a_card_of_other_types_is_refused(tmp_path, change, said):
    """All were tracebacks, later and elsewhere, or were taken."""
    model_card.write_card(tmp_path, CARD, None)
    path = tmp_path / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UsageError) as caught:
        model_card.read_card(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{path}: not a model card: ")
    assert said in message
    assert "\n" not in message


def test_a_card_keeps_what_a_newer_release_wrote(tmp_path):
    model_card.write_card(tmp_path, CARD, None)
    path = tmp_path / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"later": {"a": [1]}}))
    model_card.write_card(tmp_path, dataclasses.replace(model_card.read_card(tmp_path), prefix="x"), None)
    assert json.loads(path.read_text())["later"] == {"a": [1]}


def test_a_card_is_json_whatever_its_provenance(tmp_path):
    model_card.write_card(tmp_path, dataclasses.replace(CARD, provenance={"loss": float("nan")}), None)
    assert model_card.read_card(tmp_path).provenance == {"loss": None}
