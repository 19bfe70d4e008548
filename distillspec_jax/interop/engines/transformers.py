"""transformers: assisted generation. Read in the source of transformers 5.23.0, and run by this project's
tests.

- generation/utils.py: pairs of equal `vocab_size` are taken for pairs of one tokenizer; batches of one
  prompt only; above temperature 0 `_speculative_sampling` is rejection sampling.
- generation/configuration_utils.py: a draft of its own accord drafts 20 tokens, and stops early where it is
  less than 0.4 sure; both are set here, so that blocks are as long as `generate`'s.
- cache_utils.py: the cache of a T5 has a layer for each of the encoder, and fails if the decoder has more.
"""

from __future__ import annotations

from distillspec_jax.interop.engines import engine
from distillspec_jax.interop.engines.engine import Deployment, Engine, Recipe
from distillspec_jax.interop.engines.served_model import NEUTRAL

_T5_LAYERS = """\
for model in (target, draft):  # whose caches would have as many layers as the encoder
    model.config.num_layers = model.config.num_decoder_layers
"""


def _recipe(deployment: Deployment) -> Recipe:
    engine.check_equal_sizes(TRANSFORMERS, deployment)
    engine.check_one_device(TRANSFORMERS, deployment)
    kind, more, said = "AutoModelForCausalLM", "", ["Assisted generation takes one prompt at a time."]
    if deployment.target.family == "t5":
        kind, more = "AutoModelForSeq2SeqLM", _T5_LAYERS
        said.append(
            "After a refused draft transformers feeds an encoder-decoder draft its text once more, behind "
            "what its cache kept: it is accepted less than by `generate`."
        )
    target, draft = (deployment.path(model, "hf") for model in (deployment.target, deployment.draft))
    sampling = "do_sample=False"
    if deployment.temperature > 0:
        sampling = f"do_sample=True, temperature={deployment.temperature:g}, top_k=0"
    # `generate` takes from generation_config.json whatever a call does not set.
    neutral = {name: NEUTRAL[name] for name in deployment.target.defaults if f" {name}=" not in sampling}
    sampling += "".join(f", {name}={value!r}" for name, value in neutral.items())
    python = f"""\
from transformers import {kind}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({target!r})
target = {kind}.from_pretrained({target!r}, dtype="float32")
draft = {kind}.from_pretrained({draft!r}, dtype="float32")
{more}draft.generation_config.num_assistant_tokens = {deployment.block_size}
draft.generation_config.num_assistant_tokens_schedule = "constant"
draft.generation_config.assistant_confidence_threshold = 0.0
inputs = tokenizer("Your prompt", return_tensors="pt")
ids = target.generate(**inputs, assistant_model=draft, max_new_tokens=64, {sampling})
print(tokenizer.decode(ids[0], skip_special_tokens=True))
"""
    return Recipe(deployment.exports("hf"), python, said)


TRANSFORMERS = Engine(
    name="transformers",
    version="5.23.0",
    families=("gpt2", "llama", "mistral", "qwen2", "qwen3", "t5"),
    pairing="takes a pair of equal vocab_size for one of the same tokenizer",
    recipe=_recipe,
)
