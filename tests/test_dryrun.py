"""`distillspec dryrun`: its numbers are those of the real thing, and nothing is allocated."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import pytest

from distillspec_jax.cli.main import main
from distillspec_jax.distillation import decode_costs, dryrun
from distillspec_jax.errors import UsageError
from distillspec_jax.partitioning import make_partitioner

TINY = """
from __gin__ import dynamic_registration
from distillspec_jax.models import t5
from distillspec_jax.training import optimizers
include 'runs/dryrun.gin'
MODEL = @small/t5.EncoderDecoder()
TARGET_MODEL = @large/t5.EncoderDecoder()
small/t5.EncoderDecoder.config = @small/t5.T5Config()
large/t5.EncoderDecoder.config = @large/t5.T5Config()
t5.T5Config:
  vocab_size = 64
  emb_dim = 16
  num_heads = 4
  head_dim = 4
  num_encoder_layers = 1
  num_decoder_layers = 1
  mlp_dim = 32
large/t5.T5Config.emb_dim = 32
TASK_FEATURE_LENGTHS = {'inputs': 8, 'targets': 6}
BATCH_SIZE = 8
OPTIMIZER = @optimizers.adamw()
FULLY_SHARDED = True
REMAT = 'full'
"""


@pytest.fixture(scope="module")
def configuration(tmp_path_factory):
    path = tmp_path_factory.mktemp("gin") / "tiny.gin"
    path.write_text(TINY)
    return f"--gin_file={path}"


def run(*flags):
    return subprocess.run(
        [sys.executable, "-m", "distillspec_jax.cli.main", "dryrun", *flags],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


def weights(emb):
    """Of the tiny model: kernels and embedding, which the mesh splits; norms; relative positions."""
    attention, mlp = 4 * emb * 16, 3 * emb * 32
    return 2 * 64 * emb + 3 * attention + 2 * mlp, (2 + 1 + 3 + 1) * emb, 2 * 32 * 4


def test_parameters_and_bytes_are_those_counted_by_hand(configuration):
    done = run(configuration, "--mesh=4x2")
    assert done.returncode == 0, done.stderr
    printed = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in done.stdout.splitlines())
    assert printed["mesh"] == "4 (data) x 2 (model), 8 devices"
    for role, emb in (("model", 16), ("target", 32)):
        assert printed[f"parameters of the {role}"] == f"{sum(weights(emb)):,}"

    def part(emb):
        """Kernels along both axes, norms along `embed`, the four heads' positions along `model`."""
        kernels, norms, positions = weights(emb)
        return 4 * (kernels // 8 + norms // 4 + positions // 2)

    assert (
        printed["bytes a device, parameters"]
        == printed["bytes a device, gradients"]
        == f"{part(16):,}, exact"
    )
    assert printed["bytes a device, target's parameters"] == f"{part(32):,}, exact"


def test_a_slice_of_tpus_needs_their_compiler_and_as_many_devices_as_the_mesh(
    configuration, monkeypatch, capsys
):
    asked = ["dryrun", configuration, "--mesh=4x2", "--topology=v5e:4x4"]
    monkeypatch.setattr(dryrun.importlib.util, "find_spec", lambda name: None)
    assert main(asked) == 2
    assert "libtpu, which compiles for TPUs, is not installed: pip install" in capsys.readouterr().err
    monkeypatch.setattr(dryrun, "tpu_devices", lambda topology: [None] * 16)
    assert main(asked) == 2
    assert "--mesh=4x2 has 8 devices, v5e:4x4 has 16" in capsys.readouterr().err


def test_the_step_compiles_for_tpus(configuration):
    pytest.importorskip("libtpu")
    done = run(configuration, "--mesh=4x2", "--topology=v5e:2x4")
    assert done.returncode == 0, done.stderr
    assert "XLA's account for TPU v5 lite" in done.stdout


@pytest.mark.parametrize("mesh", ["8", "4x", "0x2", "4x2x1", "axb"])
def test_a_mesh_that_is_none_is_refused(configuration, mesh, capsys):
    assert main(["dryrun", configuration, f"--mesh={mesh}"]) == 2
    error = capsys.readouterr().err
    assert f"argument --mesh: {mesh!r}: write DATAxMODEL, two numbers of devices, as 4x8" in error
    assert error.count("\n") == 1


DECODE = TINY.split("TASK_FEATURE_LENGTHS")[0].replace("runs/dryrun.gin", "runs/dryrun_decode.gin").replace(
    "MODEL = @small", "DRAFT_MODEL = @small"
).replace("from distillspec_jax.training import optimizers\n", "") + (
    "TASK_FEATURE_LENGTHS = {'inputs': 8, 'targets': 6}\nBATCH_SIZE = 8\nBLOCK_SIZE = 3\n"
)


def test_decoding_weights_and_caches_are_those_counted_by_hand(tmp_path):
    """A cache that was empty lay whole on every device, and was gathered there at every token."""
    (tmp_path / "decode.gin").write_text(DECODE)
    done = run("--decode", f"--gin_file={tmp_path / 'decode.gin'}", "--mesh=4x2")
    assert done.returncode == 0, done.stderr
    printed = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in done.stdout.splitlines())
    kernels, norms, positions = weights(32)
    assert printed["bytes a device, target's weights"] == (
        f"{2 * (kernels // 2 + norms + positions // 2):,}, exact"
    )
    assert printed["bytes a device, draft's weights"] == f"{2 * sum(weights(16)):,}, exact"
    # Two rows of eight: bfloat16 keys and values of 4 numbers a head, of what is written and of the prompt,
    # whose mask is a byte a token; and a length.
    written = 6 + 3 + 1
    for role, heads in (("target", 2), ("draft", 4)):
        row = 2 * 2 * heads * 4 * (written + 8) + 8 + 4
        found = int(
            printed[f"bytes a device, {role}'s caches"]
            .split(",  ")[0]
            .removesuffix(", exact")
            .replace(",", "")
        )
        own = 2 * (4 + 1) if role == "draft" else 0  # the token it has not read yet, and whether there is one
        assert found == 2 * row + own, role
    gathers = int(printed["one token, all-gather"].split(",")[0])
    assert gathers < 10, "the sampler's; the cache's writes added eight a layer"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("BLOCK_SIZE = 0", "block_size is 0, must be from 1"),
        ("DTYPE = 'float16'", "dtype is 'float16'"),
        ("BATCH_SIZE = 6", "BATCH_SIZE=6 cannot be split over 4 data shards"),
        ("small/t5.T5Config.vocab_size = 32", "the draft has 32 logits and the target 64"),
    ],
)
def test_decoding_that_cannot_be(tmp_path, change, said, monkeypatch, capsys):
    monkeypatch.setattr(dryrun, "use_virtual_devices", lambda count: None)
    # One device stands for all: everything is refused before a program is made for them.
    partitioner = make_partitioner()
    mesh = jax.sharding.AbstractMesh((4, 2), ("data", "model"))
    monkeypatch.setattr(
        decode_costs, "make_partitioner", lambda *_: dataclasses.replace(partitioner, mesh=mesh)
    )
    (tmp_path / "decode.gin").write_text(f"{DECODE}{change}\n")
    assert main(["dryrun", "--decode", f"--gin_file={tmp_path / 'decode.gin'}", "--mesh=4x2"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
            "required for HLO temporaries (16.71G) exceeds available HBM (15.75G). HLO module: x\nSee",
            "a device of --mesh=1x1 needs 17.9 GB and has 16.9 GB, 1.0 GB are missing;",
        ),
        (
            "RESOURCE_EXHAUSTED: Out of memory.",
            "a device of --mesh=1x1 has no room for it (RESOURCE_EXHAUSTED: Out",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_with_the_bytes_that_are_missing(said, told):
    lowered = mock.Mock()
    lowered.compile.side_effect = jax.errors.JaxRuntimeError(said)
    with pytest.raises(UsageError) as caught:
        dryrun.compiled(lowered, "the step", make_partitioner(1, devices=jax.devices()[:1]))
    assert f"the step does not fit: {told}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_collectives_are_read_from_a_program():
    text = """
  %all-reduce.1 = f32[2,1,64]{2,1,0} all-reduce(%x), channel_id=1
  %all-reduce.2 = (bf16[4]{0}, pred[3]{0}) all-reduce(%y, %z), channel_id=2
  %ag = s32[4,8]{1,0} all-gather-start(%w), dimensions={0}
  %done = s32[4,8]{1,0} all-gather-done(%ag)
  %fusion = f32[8]{0} fusion(%all-reduce.1), kind=kLoop
"""
    assert decode_costs.collectives(text) == {"all-reduce": (2, 512 + 8 + 3), "all-gather": (1, 128)}
