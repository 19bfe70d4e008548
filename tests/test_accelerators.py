"""Programs for accelerators, lowered here: none has a form that is for CPUs alone.

The forms are chosen by `jax.default_backend()`, which the tests pretend to be another; a program for it needs
no such device until it is compiled.
"""

import re

import jax
import optax
import pytest

from distillspec_jax.decoding import SamplingParams
from distillspec_jax.decoding.drafter_registry import make_drafter
from distillspec_jax.decoding.prompt_batch import PromptBatch
from distillspec_jax.decoding.runner import Runner
from distillspec_jax.decoding.stopping import STOP_ON_EOS
from distillspec_jax.decoding.verifiers import TOKEN_RULE
from distillspec_jax.distillation.divergences import ForwardKL
from distillspec_jax.distillation.loss import make_distillation_loss
from distillspec_jax.distillation.sources import OnPolicy
from distillspec_jax.generation.prompt_format import tokenizer_of
from distillspec_jax.models import registry
from distillspec_jax.models.projection import BFLOAT16
from distillspec_jax.partitioning import make_partitioner
from distillspec_jax.training.step import create_state, make_train_step
from tests import pair

BLOCK = 3
JOINT_SUMS = re.compile(r"stablehlo\.reduce\([^)]*\)(, \([^)]*\)){2,}")
"""Three sums or more in one loop, `cpu_forms.few_rows`; an argmax has two."""

ROUNDED = re.compile(r"stablehlo\.convert .*xbf16>$", re.MULTILINE)
"""An operand rounded by `projection.project`; accelerators are told the precision instead."""


def round_of_drafts():
    """A speculative round of a T5 pair, with parameters in the forms for this backend."""
    target, draft = pair.target(), pair.draft()
    drafter, params = make_drafter([draft], vocab_size=target.model.vocab_size)
    runner = Runner(
        target.model,
        target.params,
        drafter,
        params,
        block_sizes=(BLOCK,),
        rows=1,
        verifier=TOKEN_RULE,
        stopping=STOP_ON_EOS,
        measure_overlap=False,
    )
    distribution = SamplingParams(0.0).distribution(tokenizer_of(target).vocabulary)
    prompt_BT, settings = PromptBatch.of([[300, 400]], distribution, 4, 0, None).rows([0], 1, 2)
    loop = runner._loops[BLOCK]
    state = jax.eval_shape(lambda *args: loop.init(*args, 4), runner._reading, prompt_BT, settings)
    return jax.jit(loop.run).trace(runner._params[BLOCK], state, 2, 1)


def train_step():
    """A distillation step on the draft's own samples, with products of bfloat16."""
    target, draft = pair.target(), pair.draft()
    vocabulary = tokenizer_of(target).vocabulary
    loss = make_distillation_loss(
        draft.model, target.model, target.params, ForwardKL(), OnPolicy(), vocabulary=vocabulary
    )
    partitioner, optimizer = make_partitioner(), optax.sgd(0.1)
    shardings = registry.shardings(draft.model, partitioner)
    params = jax.tree.map(lambda x: x.copy(), draft.params)  # given away
    state, shardings = create_state(params, shardings, optimizer, partitioner)
    step = make_train_step(optimizer, partitioner, shardings, 0, matmul_precision=BFLOAT16)
    shape = jax.ShapeDtypeStruct((2, 4), "int32")
    batch = {
        **dict.fromkeys(("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens"), shape),
        "decoder_loss_weights": jax.ShapeDtypeStruct((2, 4), "float32"),
    }
    return step.trace(state, batch, loss)


@pytest.mark.parametrize(
    ("program", "form"), [(round_of_drafts, JOINT_SUMS), (train_step, ROUNDED)], ids=["round", "train step"]
)
def test_no_form_for_cpus_is_in_a_program_for_an_accelerator(program, form, monkeypatch):
    """Found on a CPU, or the pattern would find nothing anywhere."""
    assert form.search(program().lower().as_text())
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    traced = program()
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert not form.search(text), platform
        assert not JOINT_SUMS.search(text), platform
