"""OpenVINO GenAI: `draft_model` of an LLMPipeline. Read in its source at da1db864d (2026.4).

- src/cpp/src/speculative_decoding/continuous_batching/fast_draft_strategy.cpp: two tokenizers are equal if
  one sentence has as many ids in both, and EOS, BOS and padding are the same.
- src/cpp/src/sampling/sampler.cpp, `validate_candidate`: above temperature 0 a draft is accepted where a
  draw from {0, 1, …, 100} / 100 does not exceed the draft's probability of its token over the target's of
  another one, so that texts do not follow the target's distribution. At temperature 0 it is a comparison of
  tokens.
- src/cpp/src/llm/pipeline.cpp: a draft needs the continuous-batching backend, or an NPU.
"""

from __future__ import annotations

from distillspec_jax.errors import UsageError
from distillspec_jax.interop.engines import engine
from distillspec_jax.interop.engines.engine import Deployment, Engine, Recipe, shell


def _recipe(deployment: Deployment) -> Recipe:
    engine.check_one_device(OPENVINO, deployment)
    if deployment.temperature > 0:
        raise UsageError(
            f"--temperature={deployment.temperature:g}: OpenVINO GenAI {OPENVINO.version} verifies drafts "
            "by another rule than rejection sampling, and its texts would not follow the target: pass 0, or "
            "--engine=vllm"
        )
    target, draft = deployment.target, deployment.draft
    if target.eos_ids != draft.eos_ids:
        raise UsageError(
            f"{target.name} ends texts at {list(target.eos_ids)} and {draft.name} at {list(draft.eos_ids)}: "
            "OpenVINO GenAI refuses such a pair"
        )
    commands, folders = deployment.exports("hf"), []
    for role, model in (("target", target), ("draft", draft)):
        folders.append(f"{deployment.exported}/{role}_openvino")
        source = deployment.path(model, "hf")
        commands.append(
            shell(
                *(
                    "optimum-cli",
                    "export",
                    "openvino",
                    f"--model={source}",
                    "--task=text-generation-with-past",
                ),
                *("--weight-format=fp32", folders[-1]),
            )
        )
    python = f"""\
import openvino_genai

draft = openvino_genai.draft_model({folders[1]!r}, "CPU")
pipe = openvino_genai.LLMPipeline({folders[0]!r}, "CPU", draft_model=draft)
config = openvino_genai.GenerationConfig()
config.max_new_tokens = 64
config.num_assistant_tokens = {deployment.block_size}
print(pipe.generate("Your prompt", config))
"""
    said = ["--weight-format=int8 is faster; greedy texts are then those of the rounded weights."]
    return Recipe(commands, python, said)


OPENVINO = Engine(
    name="openvino",
    version="2026.4",
    families=("gpt2", "llama", "mistral", "qwen2", "qwen3"),
    pairing="compares how many ids one sentence has",
    recipe=_recipe,
)
