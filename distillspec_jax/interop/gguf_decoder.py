"""Decoder-only weights of GGUF files (Llama, Qwen2): Hugging Face's configuration and tensors by other names.

llama.cpp turns neighbouring entries of a head by one angle, Hugging Face and this network entries half a
head apart. Of a Llama, the rows of queries' and keys' kernels are therefore stored in another order, which is
undone here; of a Qwen2 they are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.interop import hf_decoder
from distillspec_jax.interop.gguf_file import GGUFFile
from distillspec_jax.interop.tensors import collect
from distillspec_jax.models import rotary
from distillspec_jax.models.decoder_only import DecoderOnly, DecoderOnlyConfig
from distillspec_jax.models.rotary import RopeScaling
from distillspec_jax.shapes import Params

ARCHITECTURES = ("llama", "qwen2")

_EMBEDDING, _HEAD, _FREQUENCIES = "token_embd.weight", "output.weight", "rope_freqs.weight"

_FIELDS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}
"""Fields of config.json and the keys that must tell them, after the architecture's name."""

_OPTIONAL = {
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rope_theta": "rope.freq_base",
    "vocab_size": "vocab_size",
}

_ONLY = {"expert_count": 0, "rope.scaling.type": "none"}
"""Keys whose other values this network cannot follow."""

_NAMES = {
    "model.layers.": "blk.",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Parts of transformers' names and what stands for them."""


def read(file: GGUFFile) -> tuple[DecoderOnly, Params]:
    """The network of a file, and its parameters as float32 NumPy arrays.

    Raises:
      UsageError: an architecture or a configuration that this network cannot follow, or tensors that
        contradict it; every missing, unused or misshaped tensor is named.
    """
    kind = str(file.metadata.get("general.architecture"))
    if kind not in ARCHITECTURES:
        raise UsageError(f"{file.path}: unknown architecture {kind!r}: {nearest(kind, ARCHITECTURES)}")
    try:
        config = hf_decoder.config_from_hf(_config(kind, file))
    except UsageError as error:
        raise UsageError(f"{file.path}: {str(error).removeprefix(f'{file.path}: ')}") from error
    sources = {
        path: source._replace(name=_name(source.name))
        for path, source in hf_decoder.sources_of(kind, config).items()
    }
    tensors = _Reordered(file, config) if kind == "llama" else file
    model = DecoderOnly(config)
    return model, collect(str(file.path), model, sources, tensors, {_FREQUENCIES} & set(file))


def _config(kind: str, file: GGUFFile) -> dict[str, Any]:
    """The values of the config.json that transformers would have for it."""
    metadata = {key.removeprefix(f"{kind}."): value for key, value in file.metadata.items()}
    for key, only in _ONLY.items():
        if metadata.get(key, only) != only:
            raise UsageError(f"metadata {kind}.{key} is {metadata[key]!r}, only {only!r} is supported")
    for key in (*_FIELDS.values(), *_OPTIONAL.values()):
        value = metadata.get(key, None if key in _FIELDS.values() else 1)
        if not isinstance(value, int | float):
            raise UsageError(f"metadata {kind}.{key} is {_brief(value)}, must be a number")
    if _EMBEDDING not in file:
        raise UsageError(f"missing tensor {_EMBEDDING}")
    found: dict[str, Any] = {field: metadata[key] for field, key in _FIELDS.items()}
    found["vocab_size"] = file.shape(_EMBEDDING)[0]
    found |= {field: metadata[key] for field, key in _OPTIONAL.items() if key in metadata}
    # Stored as float32; the shortest decimal is what was meant (1e-05 and not 9.999999747378752e-06).
    found["rms_norm_eps"] = float(str(np.float32(found["rms_norm_eps"])))
    head_dim = found.setdefault("head_dim", found["hidden_size"] // max(found["num_attention_heads"], 1))
    for key in ("rope.dimension_count", "attention.value_length"):
        if metadata.get(key, head_dim) != head_dim:
            raise UsageError(
                f"metadata {kind}.{key} is {metadata[key]}, must be {head_dim}, as wide as a head"
            )
    if _FREQUENCIES in file:
        found["rope_scaling"] = _stretching(file[_FREQUENCIES], head_dim, found.get("rope_theta", 10_000.0))
    return found | {
        "model_type": kind,
        "tie_word_embeddings": _HEAD not in file,
        "attention_bias": "blk.0.attn_output.bias" in file,
        "mlp_bias": "blk.0.ffn_up.bias" in file,
    }


def _stretching(factors: np.ndarray, head_dim: int, theta: float) -> dict[str, Any]:
    """Llama 3's `rope_scaling`. The file has what comes of it: how many times longer every wave became."""
    # Their ends differ between models; where the change begins and stops does not.
    factor, low, high, positions = float(factors.max()), 1.0, 4.0, 8192
    if factors.shape == (head_dim // 2,) and factor >= 1:
        stretched = rotary.frequencies(head_dim, theta, RopeScaling(factor, low, high, positions))
        if np.allclose(rotary.frequencies(head_dim, theta) / stretched, factors, rtol=1e-3):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": positions,
            }
    raise UsageError(f"tensor {_FREQUENCIES} does not scale rotary positions as Llama 3 does")


def _brief(value: Any) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"


def _name(theirs: str) -> str:
    for part, ours in _NAMES.items():
        theirs = theirs.replace(part, ours)
    return theirs


class _Reordered(Mapping[str, np.ndarray]):
    """The tensors of a Llama with queries' and keys' rows in Hugging Face's order."""

    def __init__(self, file: GGUFFile, config: DecoderOnlyConfig) -> None:
        self._file, self._head_dim = file, config.head_dim
        self._heads = {"attn_q": config.num_heads, "attn_k": config.num_kv_heads}

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._file[name]
        heads = next((count for part, count in self._heads.items() if f".{part}." in name), None)
        if heads is None or len(tensor) != heads * self._head_dim:  # a wrong shape is the caller's to name
            return tensor
        pairs = tensor.reshape(heads, self._head_dim // 2, 2, *tensor.shape[1:])
        return pairs.swapaxes(1, 2).reshape(tensor.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file)

    def __len__(self) -> int:
        return len(self._file)
