"""Decoder-only weights of GGUF files: Hugging Face's configuration and tensors under other names.

llama.cpp rotates neighbouring entries of a head by the same angle; Hugging Face and this network rotate
entries half a head apart. For a Llama, GGUF therefore stores the rows of query and key kernels in another
order, which is undone when reading and redone when writing; other architectures are unaffected. A Gemma 3's
norms are stored with 1 added. Keys and tensors are those that llama.cpp 0c1e57098 reads
(src/llama-model.cpp, src/models/{llama,qwen2,qwen3,gemma3}.cpp).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.interop import hf_decoder, hf_decoder_config, hf_gemma3
from distillspec_jax.interop.gguf_file import GGUFFile
from distillspec_jax.interop.tensors import collect
from distillspec_jax.models import rotary
from distillspec_jax.models.decoder_only import DecoderOnly, DecoderOnlyConfig
from distillspec_jax.models.rotary import RopeScaling
from distillspec_jax.shapes import Params

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3": hf_gemma3.KIND}
"""transformers' `model_type` by llama.cpp's architecture."""
_GEMMA3_EVERY, _GEMMA3_WINDOW_THETA = 6, 10_000.0
"""Values hard-coded in llama.cpp, since the first files did not have them."""

_EMBEDDING, _HEAD, _FREQUENCIES = "token_embd.weight", "output.weight", "rope_freqs.weight"

_FIELDS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}
"""Fields of config.json and their required keys, without the architecture's name."""

_OPTIONAL = {
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rope_theta": "rope.freq_base",
    "vocab_size": "vocab_size",
}

_WINDOW, _WINDOW_THETA = "attention.sliding_window", "rope.freq_base_swa"
_SCALING, _FACTOR = "rope.scaling.type", "rope.scaling.factor"
_ONLY = {"expert_count": 0, _SCALING: "none", "attn_logit_softcapping": 0.0}
"""Keys for which this network supports only these values."""

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
"""Parts of transformers' names and their replacements."""
_GEMMA3_NAMES = _NAMES | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def read(file: GGUFFile) -> tuple[DecoderOnly, Params]:
    """Reads the network of a file, and its parameters as float32 NumPy arrays.

    Raises:
      UsageError: the architecture or configuration is not supported, or tensors contradict it; names every
        missing, unused or misshaped tensor.
    """
    kind, config = read_config(file)
    sources = {
        path: source._replace(name=_name(kind, source.name))
        for path, source in hf_decoder.sources_of(kind, config).items()
    }
    tensors = _AsTheirs(file, kind, config)
    model = DecoderOnly(config)
    return model, collect(str(file.path), model, sources, tensors, {_FREQUENCIES} & set(file))


def read_config(file: GGUFFile) -> tuple[str, DecoderOnlyConfig]:
    """Reads the architecture of a file and its configuration, without the weights.

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
      The architecture, the metadata with the sizes (whole numbers and floats by key), and float32 tensors
      by llama.cpp's names.

    Raises:
      UsageError: llama.cpp has no architecture for the network, or would compute it differently.
    """
    tensors, theirs = hf_decoder.to_hf(config, params)
    kinds = {theirs_kind: kind for kind, theirs_kind in ARCHITECTURES.items()}
    kind = kinds.get(theirs["model_type"], theirs["model_type"])
    if config.window and kind != "gemma3":
        raise UsageError(
            f"llama.cpp takes a {kind} for a llama without its sliding window of {config.window:,}"
        )
    if kind not in ARCHITECTURES:
        raise UsageError(f"a {kind} is not written as GGUF: only {', '.join(ARCHITECTURES)} are")
    _check_followed(kind, config)
    written = {
        ours: _restored(kind, ours, tensor, config, back=True)
        for name, tensor in tensors.items()
        for ours in [_name(kind, name)]
    }
    sizes = {key: theirs[field] for field, key in {**_FIELDS, **_OPTIONAL}.items() if field in theirs}
    if config.rope_scaling is not None:
        pace = rotary.frequencies(config.head_dim, config.rope_theta)
        factors = pace / rotary.frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
        if np.allclose(factors, config.rope_scaling.factor):
            sizes |= {_SCALING: "linear", _FACTOR: float(config.rope_scaling.factor)}
        elif kind == "llama":
            written[_FREQUENCIES] = np.asarray(factors, np.float32)
        else:  # llama.cpp rejects a file with a tensor that it does not read
            raise UsageError(f"llama.cpp stretches all waves of a {kind} alike: rope_scaling does not")
    sizes |= {_FIELDS["rms_norm_eps"]: float(config.norm_epsilon)}
    sizes |= {_OPTIONAL["rope_theta"]: float(config.rope_theta)}
    sizes |= {"attention.value_length": config.head_dim, "rope.dimension_count": config.head_dim}
    if kind == "gemma3":
        sizes |= {_WINDOW: config.window, _WINDOW_THETA: float(config.window_rope_theta or config.rope_theta)}
    return kind, {f"{kind}.{key}": value for key, value in sizes.items()}, written


def _check_followed(kind: str, config: DecoderOnlyConfig) -> None:
    """Rejects a network that llama.cpp would silently compute differently."""
    activation = config.mlp_activations[0]
    if activation != (own := "gelu" if kind == "gemma3" else "silu"):
        raise UsageError(
            f"llama.cpp would compute this {kind} with {own}: mlp_activations has {activation!r}"
        )
    if kind == "qwen2" and config.num_heads * config.head_dim != config.emb_dim:
        raise UsageError(
            f"llama.cpp wants the {config.num_heads} heads of a qwen2 to be as wide as its embedding, "
            f"{config.emb_dim}: theirs is {config.num_heads * config.head_dim}"
        )
    if kind == "qwen3" and config.qkv_bias:
        raise UsageError("llama.cpp knows no biases in a qwen3's attention: out_bias is True")
    if kind == "gemma3":
        scalar = _gemma3_scalar(config.num_layers, config.emb_dim, config.num_heads, config.head_dim)
        for field, only in (("unwindowed_every", _GEMMA3_EVERY), ("query_scalar", scalar)):
            if (found := getattr(config, field)) != only:
                raise UsageError(f"llama.cpp takes {field} of a gemma3 for {only}: here it is {found}")


def _gemma3_scalar(layers: int, emb_dim: int, heads: int, head_dim: int) -> float:
    """Returns llama.cpp's query scalar (it divides by the root); depth identifies the largest Gemma 3."""
    return emb_dim / heads if layers == 62 else head_dim


def _config(kind: str, file: GGUFFile) -> dict[str, Any]:
    """Makes the equivalent config.json values of transformers."""
    metadata = {key.removeprefix(f"{kind}."): value for key, value in file.metadata.items()}
    linear = metadata.get(_SCALING) == "linear"
    if linear:
        del metadata[_SCALING]
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
        found[field] = _decimal(found[field])
    head_dim = found.setdefault("head_dim", found["hidden_size"] // max(found["num_attention_heads"], 1))
    for key in ("rope.dimension_count", "attention.value_length"):
        if metadata.get(key, head_dim) != head_dim:
            raise UsageError(
                f"metadata {kind}.{key} is {metadata[key]}, must be {head_dim}, as wide as a head"
            )
    if _FREQUENCIES in file:
        if linear:
            raise UsageError(f"both metadata {kind}.{_SCALING} and tensor {_FREQUENCIES} scale positions")
        found["rope_scaling"] = _stretching(file[_FREQUENCIES], head_dim, found.get("rope_theta", 10_000.0))
    if linear:
        found["rope_scaling"] = {"rope_type": "linear", "factor": _decimal(metadata.get(_FACTOR))}
    if kind == "gemma3":
        layers, heads = found["num_hidden_layers"], found["num_attention_heads"]
        found |= {
            "query_pre_attn_scalar": _gemma3_scalar(layers, found["hidden_size"], heads, head_dim),
            "sliding_window": metadata.get(_WINDOW),
            "sliding_window_pattern": _GEMMA3_EVERY,
            "rope_local_base_freq": metadata.get(_WINDOW_THETA, _GEMMA3_WINDOW_THETA),
        }
    return found | {
        "model_type": ARCHITECTURES[kind],
        "tie_word_embeddings": _HEAD not in file,
        "attention_bias": "blk.0.attn_output.bias" in file,
        "mlp_bias": "blk.0.ffn_up.bias" in file,
    }


def _stretching(factors: np.ndarray, head_dim: int, theta: float) -> dict[str, Any]:
    """Recovers `rope_scaling` from its result: the file has each wavelength's stretching factor."""
    # The factors differ between models, but the boundaries of the scaled range do not.
    factor, low, high, positions = float(factors.max()), 1.0, 4.0, 8192
    if factors.shape == (head_dim // 2,) and np.allclose(factors, factor):
        return {"rope_type": "linear", "factor": _decimal(factor)}
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


def _decimal(stored: Any) -> Any:
    """Recovers the intended shortest decimal of a float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(stored))) if isinstance(stored, int | float) else stored


def _brief(value: Any) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"


def _name(kind: str, theirs: str) -> str:
    for part, ours in (_GEMMA3_NAMES if kind == "gemma3" else _NAMES).items():
        theirs = theirs.replace(part, ours)
    return theirs


class _AsTheirs(Mapping[str, np.ndarray]):
    """The tensors of a file with Hugging Face's values and order."""

    def __init__(self, file: GGUFFile, kind: str, config: DecoderOnlyConfig) -> None:
        self._file, self._kind, self._config = file, kind, config

    def __getitem__(self, name: str) -> np.ndarray:
        return _restored(self._kind, name, self._file[name], self._config)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file)

    def __len__(self) -> int:
        return len(self._file)


def _restored(
    kind: str, name: str, tensor: np.ndarray, config: DecoderOnlyConfig, *, back: bool = False
) -> np.ndarray:
    """Converts a tensor to Hugging Face's form; with `back`, to GGUF's."""
    if kind == "gemma3" and name.endswith("norm.weight"):
        return tensor + np.float32(1 if back else -1)
    counts = {"attn_q": config.num_heads, "attn_k": config.num_kv_heads} if kind == "llama" else {}
    heads = next((count for part, count in counts.items() if f".{part}." in name), None)
    if heads is None or len(tensor) != heads * config.head_dim:  # the caller reports a wrong shape
        return tensor
    half = config.head_dim // 2
    split = (2, half) if back else (half, 2)
    return tensor.reshape(heads, *split, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
