"""The T5X fixture, written again as T5X writes through Orbax, against itself."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import serialization, traverse_util

from distillspec_jax.cli.main import main
from distillspec_jax.errors import UsageError
from distillspec_jax.interop import convert, t5x, t5x_orbax
from distillspec_jax.models import pretrained

KERNEL = "target.decoder.layers_1.mlp.wo.kernel"


@pytest.fixture(scope="module")
def written(t5x_tiny):
    return t5x.read(t5x_tiny / "checkpoint_0")


def save(run: Path, params, step: int, ocdbt: bool, zarr3: bool = False) -> Path:
    """As T5X's `OrbaxCheckpointManagerInterface.save`, which also names an empty tree of mutables."""
    moments = jax.tree.map(lambda x: {"v": np.zeros_like(x)}, params)
    state = {
        "state": {"step": np.int32(step), "param_states": moments},
        "target": params,
        "flax_mutables": {},
    }
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt, use_zarr3=zarr3)
    options = ocp.CheckpointManagerOptions(step_prefix="checkpoint", enable_async_checkpointing=False)
    with ocp.CheckpointManager(run, options=options, item_handlers={"state": handler}) as manager:
        manager.save(step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(state)))
    return run / f"checkpoint_{step}"


@pytest.fixture(scope="module", params=["one store", "folders", "zarr 3"])
def step(request, written, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("run")
    return save(run, written.params, 7, request.param != "folders", request.param == "zarr 3")


def assert_same(found, expected):
    ours, theirs = traverse_util.flatten_dict(found), traverse_util.flatten_dict(expected)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].dtype == np.float32
        np.testing.assert_array_equal(ours[name], value)


def test_parameters_and_step_are_those_that_were_written(step, written):
    for directory in (step, step / "state"):
        found = t5x_orbax.read(t5x_orbax.folder_of(directory))
        assert_same(found.params, written.params)
        assert found.step == 7
        (skipped,) = found.skipped
        assert skipped == f"optimizer state of {len(jax.tree.leaves(written.params))} leaves"


def test_the_older_form_with_placeholders_in_an_index(written, tmp_path):
    state = save(tmp_path / "run", written.params, 7, ocdbt=False) / "state"
    (state / "_METADATA").unlink()
    leaves = {
        path: "PLACEHOLDER://target." + ".".join(path) for path in traverse_util.flatten_dict(written.params)
    }
    tree = {
        "target": traverse_util.unflatten_dict(leaves),
        "state": {"step": np.int32(9), "param_states": {}},
    }
    (state / "checkpoint").write_bytes(serialization.msgpack_serialize(tree))
    found = t5x_orbax.read(t5x_orbax.folder_of(state.parent))
    assert_same(found.params, written.params)
    assert (found.step, found.skipped) == (9, ())
    (state / "checkpoint").write_bytes(b"\x85")
    with pytest.raises(UsageError, match=r"state/checkpoint is not a whole msgpack index"):
        t5x_orbax.read(state)


def test_half_precision_is_widened(written, tmp_path):
    half = jax.tree.map(lambda x: x.astype(jax.numpy.bfloat16), written.params)
    found = t5x_orbax.read(save(tmp_path / "run", half, 1, ocdbt=True) / "state")
    assert_same(found.params, jax.tree.map(lambda x: x.astype(np.float32), half))


def test_convert_tells_the_two_forms_apart(written, tmp_path, capsys):
    step = save(tmp_path / "run", written.params, 7, ocdbt=True)
    flags = ["convert", "--from=t5x", "--mlp_activations=gelu,linear", f"--output={tmp_path / 'ours'}"]
    assert main([*flags, f"--input={tmp_path / 'run'}"]) == 2
    assert "it holds steps, name one of checkpoint_7" in capsys.readouterr().err
    assert main([*flags, f"--input={step}"]) == 0
    assert "not taken along: optimizer state of" in capsys.readouterr().err
    assert_same(pretrained.load(str(tmp_path / "ours")).params, written.params)


def test_damage_is_named(written, tmp_path):
    state = save(tmp_path / "run", written.params, 7, ocdbt=False) / "state"
    (state / KERNEL / "0.0").write_bytes(b"short")
    with pytest.raises(UsageError, match=rf"{KERNEL}: tensor decoder/layers_1/mlp/wo/kernel cannot be read"):
        t5x_orbax.read(state)
    shutil.rmtree(state / KERNEL)
    with pytest.raises(UsageError, match=rf"{KERNEL}: tensor decoder/layers_1/mlp/wo/kernel cannot be read"):
        t5x_orbax.read(state)
    metadata = json.loads((state / "_METADATA").read_text())
    metadata["tree_metadata"] = {k: v for k, v in metadata["tree_metadata"].items() if "target" not in k}
    (state / "_METADATA").write_text(json.dumps(metadata))
    with pytest.raises(UsageError, match="has no tree 'target', T5X's parameters, but state"):
        convert.convert("t5x", str(state), str(tmp_path / "ours"))
    (state / "_METADATA").write_text("{}")
    with pytest.raises(UsageError, match="is not the metadata of an Orbax checkpoint"):
        t5x_orbax.read(state)


def test_a_lost_store_is_named(written, tmp_path):
    state = save(tmp_path / "run", written.params, 7, ocdbt=True) / "state"
    shutil.rmtree(state / "d", ignore_errors=True)
    shutil.rmtree(state / "ocdbt.process_0")
    with pytest.raises(UsageError, match=r"state/target\..*: tensor .* cannot be read: "):
        t5x_orbax.read(state)
