"""The engines by name; a new one is a file of this package and a line here."""

from __future__ import annotations

import dataclasses

from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.interop.engines import engine, served_model
from distillspec_jax.interop.engines.engine import Deployment, Recipe
from distillspec_jax.interop.engines.llama_cpp import LLAMA_CPP
from distillspec_jax.interop.engines.openvino import OPENVINO
from distillspec_jax.interop.engines.sglang import SGLANG
from distillspec_jax.interop.engines.transformers import TRANSFORMERS
from distillspec_jax.interop.engines.vllm import VLLM

ENGINES = {one.name: one for one in (VLLM, LLAMA_CPP, SGLANG, TRANSFORMERS, OPENVINO)}


def recipe(
    engine_name: str,
    target: str,
    draft: str,
    *,
    block_size: int = 5,
    temperature: float = 0.0,
    tensor_parallel: int = 1,
    exported: str = "exported",
    gguf_type: str = "f32",
    prefix: str | None = None,
) -> Recipe:
    """Finds how an engine serves a pair.

    Args:
      target, draft: checkpoint directories, models of the zoo, Hugging Face folders or GGUF files.
      block_size, temperature, tensor_parallel, exported, gguf_type: see `Deployment`.
      prefix: of the target's prompts, in place of its own.

    Raises:
      UsageError: an unknown engine, no such model, or a pair that the engine would refuse or silently
      corrupt.
    """
    if engine_name not in ENGINES:
        raise UsageError(f"unknown engine {engine_name!r}: {nearest(engine_name, ENGINES)}")
    if block_size < 1 or tensor_parallel < 1:
        named = "block_size" if block_size < 1 else "tensor_parallel"
        raise UsageError(f"--{named} is {min(block_size, tensor_parallel)}, must be at least 1")
    if not 0 <= temperature < float("inf"):
        raise UsageError(f"--temperature is {temperature:g}, must be a number, 0 or more")
    found = ENGINES[engine_name]
    read = served_model.read(target)
    deployment = Deployment(
        read if prefix is None else dataclasses.replace(read, prefix=prefix),
        served_model.read(draft),
        block_size,
        temperature,
        tensor_parallel,
        exported,
        gguf_type,
    )
    engine.check(found, deployment, list(ENGINES.values()))
    made = found.recipe(deployment)
    return Recipe(made.commands, made.python, [*engine.notes(found, deployment), *made.notes])
