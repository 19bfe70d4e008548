"""`distillspec dryrun`: its numbers are those of the real thing, and nothing is allocated."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from distillspec_jax.cli.main import main
from distillspec_jax.distillation import dryrun

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
