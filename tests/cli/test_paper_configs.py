"""The gin files of the paper's experiments bind to their jobs, with the numbers that they state."""

from collections.abc import Callable
from pathlib import Path

import gin
import optax
import pytest

from distillspec_jax.cli import bindings
from distillspec_jax.cli.gin_flags import GinFlags
from distillspec_jax.data import catalog
from distillspec_jax.distillation.distill import distill
from distillspec_jax.distillation.divergences import ForwardKL, JensenShannon, ReverseKL
from distillspec_jax.distillation.sources import OnPolicy, TargetGenerated
from distillspec_jax.evaluation.sweep import sweep
from distillspec_jax.training import optimizers
from distillspec_jax.training.finetune import finetune

PAPER = Path(__file__).parents[2] / "gin_configs" / "experiments" / "paper"
CHOICES = {
    "xsum": (JensenShannon(0.5), OnPolicy(1.0)),
    "cnn_dailymail": (ForwardKL(), OnPolicy(1.0)),
    "wmt14_ende": (ForwardKL(), OnPolicy(1.0)),
    "gsm8k": (ReverseKL(), TargetGenerated(1.0)),
    "lm1b": (ForwardKL(), OnPolicy(1.0)),
}


@pytest.fixture(autouse=True)
def forget():
    yield
    gin.clear_config()


def bound(job, *files, **macros):
    flags = GinFlags(tuple(files), tuple((name, value) for name, value in macros.items()))
    bindings.bind(job, flags, given=("gin",))
    return gin.get_bindings(job)


def check_schedule(settings):
    loop = settings["loop"]
    assert (loop.total_steps, loop.batch_size) == (300_000, 32)
    assert isinstance(settings["optimizer"], optax.GradientTransformation)
    assert gin.config_str().count("OPTIMIZER = @optimizers.adafactor()\n") == 1
    assert isinstance(gin.get_bindings(optimizers.adafactor)["learning_rate"], Callable)
    schedule = gin.get_bindings(optimizers.warmup_cosine)
    names = ("learning_rate", "total_steps", "warmup_steps", "hold_until", "final_fraction")
    assert [schedule[name] for name in names] == [3e-4, 300_000, 5_000, 150_000, 0.1]


@pytest.mark.parametrize("name", CHOICES)
def test_a_distillation_of_the_paper(name):
    run = {"TARGET": "t", "DRAFT": "d", "MODEL_DIR": "m"}
    settings = bound(distill, f"experiments/paper/{name}.gin", **run)
    check_schedule(settings)
    assert (settings["divergence"], settings["source"]) == CHOICES[name]
    assert settings["data"].mixture_or_task_name == name
    assert settings["data"].lengths == catalog.find_task(name).feature_lengths


@pytest.mark.parametrize("size", ["small", "base", "large", "xl"])
def test_the_supervised_step_of_the_paper(size):
    files = (f"models/t5_1_1_{size}.gin", "experiments/paper/finetune.gin", "tasks/xsum.gin")
    settings = bound(finetune, *files, MODEL_DIR="m")
    check_schedule(settings)
    assert (settings["model"].config.dropout_rate, settings["dropout_rate"]) == (0, None)
    assert settings["model"].vocab_size == 32_128


def test_the_transfer_of_the_paper():
    settings = bound(sweep, "experiments/paper/bbh.gin", TARGET="t", DRAFTERS="{'a': 'b'}", OUTPUT_DIR="o")
    assert (settings["task"], settings["split"], settings["block_sizes"]) == ("bbh", "test", (7,))


def test_every_file_is_tried():
    assert {path.stem for path in PAPER.glob("*.gin")} == {*CHOICES, "bbh", "distill", "finetune"}
