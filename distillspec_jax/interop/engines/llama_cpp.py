"""llama.cpp: `draft-simple`. Read in its source at 0c1e57098 (in PyPI's llama-cpp-python 0.3.36).

- common/arg.cpp, common/speculative.cpp: a draft model alone drafts nothing, for `--spec-type` is `none`
  unless the draft's file is of a kind that needs another; `draft-simple` always takes the likeliest token.
- common_speculative_are_compatible: equal types of vocabulary, BOS and EOS, sizes that differ by 128 at
  most, and equal pieces from id 5 on; the ids below, the kinds of the pieces and the pre-tokenizer are not
  compared.
- common_sampler_sample_and_accept_n: a draft is accepted if the target's own sample is that token.
- llama_vocab::impl::load: some pieces end a text whatever the file says, `_ENDS` those that come with our
  families.
- A context longer than the model was trained on is a warning.
"""

from __future__ import annotations

import json

from distillspec_jax.errors import UsageError
from distillspec_jax.interop.engines import engine
from distillspec_jax.interop.engines.engine import Deployment, Engine, Recipe, shell
from distillspec_jax.models.decoder_only_config import DecoderOnlyConfig
from distillspec_jax.tokenization.tokenizer import Tokenizer

_MOST_IDS_APART = 128

_ENDS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
)
"""Pieces at which llama.cpp ends a text (there are more, of models that we do not write)."""


def _recipe(deployment: Deployment) -> Recipe:
    engine.check_one_device(LLAMA_CPP, deployment)
    target, draft = deployment.target, deployment.draft
    if abs(target.vocab_size - draft.vocab_size) > _MOST_IDS_APART:
        raise UsageError(
            f"{draft.name} has {draft.vocab_size:,} ids and {target.name} {target.vocab_size:,}: "
            f"{LLAMA_CPP.name} refuses pairs that differ by more than {_MOST_IDS_APART}"
        )
    for model in (target, draft):
        config = model.config
        if isinstance(config, DecoderOnlyConfig) and config.mlp_activations[0] != "silu":
            raise UsageError(
                f"{model.name} has the activation {config.mlp_activations[0]!r}: {LLAMA_CPP.name} would "
                "compute it with silu"
            )
    if target.tokenizer is not None and target.tokenizer.lstrip()[:1] != b"{":
        raise UsageError(
            f"{target.name} has a SentencePiece tokenizer, of which {LLAMA_CPP.name} would silently make "
            "other ids: --engine=transformers or vllm reads it"
        )
    serve = [
        *("llama-server", "-m", deployment.path(target, "gguf"), "-md", deployment.path(draft, "gguf")),
        *("--spec-type", "draft-simple", "--spec-draft-n-max", str(deployment.block_size)),
        *("-c", str(deployment.positions), "--temp", f"{deployment.temperature:g}"),
    ]
    said = ["Without --spec-type the draft is loaded, and drafts nothing."]
    if deployment.temperature > 0:
        said.append(
            "Drafts are greedy at every temperature and accepted if the target's own sample is that token: a "
            "draft distilled for T > 0 is accepted less than by rejection sampling. Texts follow the target."
        )
    return Recipe([*deployment.exports("gguf"), shell(*serve)], notes=[*said, *_other_ends(deployment)])


def _other_ends(deployment: Deployment) -> list[str]:
    target = deployment.target
    if target.tokenizer is None:
        return []
    ends = Tokenizer.from_bytes(target.tokenizer, target.eos_ids).eos_ids  # which has checked the file
    spec = json.loads(target.tokenizer)
    ids = {**spec["model"]["vocab"], **{token["content"]: token["id"] for token in spec["added_tokens"]}}
    found = [piece for piece in _ENDS if piece in ids and ids[piece] not in ends]
    if not found:
        return []
    return [f"llama.cpp also ends a text at {' and '.join(found)}, where `generate` continues."]


LLAMA_CPP = Engine(
    name="llama.cpp",
    version="0c1e57098",
    families=("llama", "qwen2", "qwen3"),
    pairing="compares pieces from id 5 on, and not how texts are cut up",
    recipe=_recipe,
)
