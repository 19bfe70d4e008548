"""SGLang: `STANDALONE`. Read in the source of sglang 0.5.23 (PyPI).

- srt/speculative/standalone_worker_v2.py: `_validate_vocab_compatibility` compares the sizes of vocabularies
  and the map from pieces to ids (releases before had no check), and not how texts are cut up; the draft gets
  the target's tensor-parallel layout and context length.
- srt/configs/model_config.py: a context longer than the draft's own is refused; float32 weights are read as
  float16 unless --dtype says otherwise.
- srt/arg_groups/speculative_hook.py: rejection sampling is for EAGLE alone, so a draft is greedy at every
  temperature, and `tree_speculative_sampling_target_only` accepts it with the target's probability of it.
- srt/models/mistral.py: a Mistral is a Llama without its sliding window, so it is not among the families.
- docs, sampling parameters: a folder's generation_config.json sets defaults of requests unless
  --sampling-defaults is `openai`.
- srt/speculative/eagle_utils.py: on a CPU or an XPU (ROCm too) verification is greedy whatever the
  temperature.
"""

from __future__ import annotations

from distillspec_jax.interop.engines import engine
from distillspec_jax.interop.engines.engine import Deployment, Engine, Recipe, shell


def _recipe(deployment: Deployment) -> Recipe:
    engine.check_equal_sizes(SGLANG, deployment)
    engine.check_shares(SGLANG, deployment)
    block_size = deployment.block_size
    serve = [
        *("python", "-m", "sglang.launch_server"),
        f"--model-path={deployment.path(deployment.target, 'hf')}",
        *("--dtype=float32", f"--context-length={deployment.positions}"),
        f"--tp-size={deployment.tensor_parallel}",
        "--speculative-algorithm=STANDALONE",
        f"--speculative-draft-model-path={deployment.path(deployment.draft, 'hf')}",
        *(f"--speculative-num-steps={block_size}", "--speculative-eagle-topk=1"),
        f"--speculative-num-draft-tokens={block_size + 1}",
        *(["--sampling-defaults=openai"] if deployment.target.defaults else []),
    ]
    said = ["--speculative-num-draft-tokens counts the pending token, too: a round drafts one less."]
    if deployment.temperature > 0:
        said += [
            "Drafts are greedy at every temperature: a draft distilled for T > 0 is accepted less than by "
            "rejection sampling. Texts follow the target on CUDA.",
            "On a CPU, an XPU or ROCm SGLang verifies greedily whatever the temperature: texts would not "
            "follow the target's distribution there.",
        ]
    return Recipe([*deployment.exports("hf"), shell(*serve)], notes=said)


SGLANG = Engine(
    name="sglang",
    version="0.5.23",
    families=("gpt2", "llama", "qwen2", "qwen3"),
    pairing="compares pieces and their ids (before 0.5.23 nothing), and not how texts are cut up",
    recipe=_recipe,
)
