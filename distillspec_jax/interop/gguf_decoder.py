"""Decoder-only weights of GGUF files: Hugging Face's configuration and tensors by other names.

llama.cpp turns neighbouring entries of a head by one angle, Hugging Face and this network entries half a
head apart. Of a Llama, the rows of queries' and keys' kernels are therefore stored in another order, which is
undone here, and done in writing; of Qwen2 and Qwen3 they are not. Keys and tensors are those that llama.cpp
0c1e57098 asks for (src/llama-model.cpp, src/models/{llama,qwen2,qwen3}.cpp).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.interop import hf_decoder, hf_decoder_config
from distillspec_jax.interop.gguf_file import GGUFFile
from distillspec_jax.interop.tensors import collect
from distillspec_jax.models import rotary
from distillspec_jax.models.decoder_only import DecoderOnly, DecoderOnlyConfig
from distillspec_jax.models.rotary import RopeScaling
from distillspec_jax.shapes import Params

ARCHITECTURES = ("llama", "qwen2", "qwen3")

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
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
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
    kind, config = read_config(file)
    sources = {
        path: source._replace(name=_name(source.name))
        for path, source in hf_decoder.sources_of(kind, config).items()
    }
    tensors = _Reordered(file, config) if kind == "llama" else file
    model = DecoderOnly(config)
    return model, collect(str(file.path), model, sources, tensors, {_FREQUENCIES} & set(file))


def read_config(file: GGUFFile) -> tuple[str, DecoderOnlyConfig]:
    """The architecture of a file, and its configuration; no weights are read.

    Raises:
      UsageError: see `read`.
    """
    kind = str(file.metadata.get("general.architecture"))
    if kind not in ARCHITECTURES:
        raise UsageError(f"{file.path}: unknown architecture {kind!r}: {nearest(kind, ARCHITECTURES)}")
    try:
        return kind, hf_decoder_config.config_from_hf(_config(kind, file))
    except UsageError as error:
        raise UsageError(f"{file.path}: {str(error).removeprefix(f'{file.path}: ')}") from error


def to_gguf(config: DecoderOnlyConfig, params: Params) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """Inverse of `read`.

    Returns:
      The architecture, the metadata that tells the sizes (whole numbers and floats by key), and float32
      tensors by llama.cpp's names.

    Raises:
      UsageError: a network that llama.cpp has no architecture for, or would compute otherwise.
    """
    tensors, theirs = hf_decoder.to_hf(config, params)
    kind = theirs["model_type"]
    if config.window:
        raise UsageError(
            f"llama.cpp takes a {kind} for a llama without its sliding window of {config.window:,}"
        )
    if kind not in ARCHITECTURES:
        raise UsageError(f"a {kind} is not written as GGUF: only {', '.join(ARCHITECTURES)} are")
    if (activation := config.mlp_activations[0]) != "silu":
        raise UsageError(f"llama.cpp would compute this {kind} with silu: mlp_activations has {activation!r}")
    if kind == "qwen2" and config.num_heads * config.head_dim != config.emb_dim:
        raise UsageError(
            f"llama.cpp wants the {config.num_heads} heads of a qwen2 to be as wide as its embedding, "
            f"{config.emb_dim}: theirs is {config.num_heads * config.head_dim}"
        )
    if kind == "qwen3" and config.qkv_bias:
        raise UsageError("llama.cpp knows no biases in a qwen3's attention: out_bias is True")
    written = {_name(name): tensor for name, tensor in tensors.items()}
    if kind == "llama":
        written = {name: _reordered(name, tensor, config, back=True) for name, tensor in written.items()}
    if config.rope_scaling is not None:
        pace = rotary.frequencies(config.head_dim, config.rope_theta)
        stretched = rotary.frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
        written[_FREQUENCIES] = np.asarray(pace / stretched, np.float32)
    sizes = {key: theirs[field] for field, key in {**_FIELDS, **_OPTIONAL}.items()}
    sizes |= {_FIELDS["rms_norm_eps"]: float(config.norm_epsilon)}
    sizes |= {_OPTIONAL["rope_theta"]: float(config.rope_theta)}
    sizes |= {"attention.value_length": config.head_dim, "rope.dimension_count": config.head_dim}
    return kind, {f"{kind}.{key}": value for key, value in sizes.items()}, written


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
    for field in {"rms_norm_eps", "rope_theta"} & set(found):
        # Stored as float32; the shortest decimal is what was meant (1e-05 and not 9.999999747378752e-06).
        found[field] = float(str(np.float32(found[field])))
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
        self._file, self._config = file, config

    def __getitem__(self, name: str) -> np.ndarray:
        return _reordered(name, self._file[name], self._config)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file)

    def __len__(self) -> int:
        return len(self._file)


def _reordered(name: str, tensor: np.ndarray, config: DecoderOnlyConfig, *, back: bool = False) -> np.ndarray:
    """A tensor of a Llama, its rows in Hugging Face's order if they are queries' or keys'; `back`: GGUF's."""
    counts = {"attn_q": config.num_heads, "attn_k": config.num_kv_heads}
    heads = next((count for part, count in counts.items() if f".{part}." in name), None)
    if heads is None or len(tensor) != heads * config.head_dim:  # a wrong shape is the caller's to name
        return tensor
    half = config.head_dim // 2
    split = (2, half) if back else (half, 2)
    return tensor.reshape(heads, *split, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
