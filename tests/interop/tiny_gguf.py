"""Small GGUF files, written with the `gguf` package: a model of two layers with a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.data.hub import BOS, EOS, byte_level

HEADS, KV_HEADS, HEAD_DIM, WIDTH, INNER, LAYERS = 4, 2, 8, 32, 64, 2
VOCAB = EOS + 1
TYPES = {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"}
CHAT = (
    "{{ bos_token }}{% for message in messages %}\n"
    "  {% if message['role'] not in ['user'] %}{{ raise_exception('who is it?') }}{% endif %}\n"
    "{{ 'the ' + message['content'] | trim + eos_token }}{% endfor %}\n"
    "{% if add_generation_prompt %}{{ 'cat:' }}{% endif %}"
)


def shapes(kind: str) -> dict[str, tuple[int, ...]]:
    """Of every tensor, by llama.cpp's name."""
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (VOCAB, WIDTH), "output_norm.weight": (WIDTH,)}
    for i in range(LAYERS):
        layer = {
            "attn_norm.weight": (WIDTH,),
            "ffn_norm.weight": (WIDTH,),
            "attn_q.weight": (HEADS * HEAD_DIM, WIDTH),
            "attn_k.weight": (KV_HEADS * HEAD_DIM, WIDTH),
            "attn_v.weight": (KV_HEADS * HEAD_DIM, WIDTH),
            "attn_output.weight": (WIDTH, HEADS * HEAD_DIM),
            "ffn_gate.weight": (INNER, WIDTH),
            "ffn_up.weight": (INNER, WIDTH),
            "ffn_down.weight": (WIDTH, INNER),
        }
        if kind == "gemma3":
            layer |= {"post_attention_norm.weight": (WIDTH,), "post_ffw_norm.weight": (WIDTH,)}
        if kind in ("qwen3", "gemma3"):
            layer |= {"attn_q_norm.weight": (HEAD_DIM,), "attn_k_norm.weight": (HEAD_DIM,)}
        if kind == "qwen2":
            layer |= {f"attn_{x}.bias": layer[f"attn_{x}.weight"][:1] for x in "qkv"}
        found |= {f"blk.{i}.{name}": shape for name, shape in layer.items()}
    if kind == "llama":  # of its own here, and tied in the Qwen2
        found["output.weight"] = (VOCAB, WIDTH)
    return found


def write(path: Path, kind: str = "llama", **changed: Any) -> Path:
    """Writes one, tensors of two axes in every type by turns.

    Args:
      changed: other metadata by key, dots as two underscores; a tensor's array by name; None leaves out.
    """
    changed = {name.replace("__", "."): value for name, value in changed.items()}
    library = json.loads(byte_level())
    vocabulary = library["model"]["vocab"] | {"<s>": BOS, "</s>": EOS}
    numbers = {
        f"{kind}.block_count": LAYERS,
        f"{kind}.context_length": 40,
        f"{kind}.embedding_length": WIDTH,
        f"{kind}.feed_forward_length": INNER,
        f"{kind}.attention.head_count": HEADS,
        f"{kind}.attention.head_count_kv": KV_HEADS,
        "tokenizer.ggml.bos_token_id": BOS,
        "tokenizer.ggml.eos_token_id": EOS,
    }
    if kind in ("qwen3", "gemma3"):  # whose heads are 128 and 256 wide by default
        numbers[f"{kind}.attention.key_length"] = HEAD_DIM
    if kind == "gemma3":
        numbers[f"{kind}.attention.sliding_window"] = 4
    floats = {f"{kind}.rope.freq_base": 100.0, f"{kind}.attention.layer_norm_rms_epsilon": 1e-5}
    texts = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.chat_template": CHAT}
    writer = gguf.GGUFWriter(path, changed.pop("architecture", kind))
    for adds, values in (
        (writer.add_uint32, numbers),
        (writer.add_float32, floats),
        (writer.add_string, texts),
    ):
        for key, value in values.items():
            value = changed.pop(key, value)
            if value is not None:
                adds(key, value)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_array("tokenizer.ggml.tokens", pieces)
    writer.add_array("tokenizer.ggml.merges", [" ".join(merge) for merge in library["model"]["merges"]])
    writer.add_array("tokenizer.ggml.token_type", [3 if i in (BOS, EOS) else 1 for i in range(VOCAB)])
    rng = np.random.default_rng(0)
    types = sorted(TYPES)
    for i, (name, shape) in enumerate(shapes(kind).items()):
        around = np.float32(1.0 if "norm" in name else 0.0)
        values = changed.pop(name, around + rng.normal(0, 0.3, shape).astype(np.float32))
        if values is None:
            continue
        type_ = gguf.GGMLQuantizationType[types[i % len(types)] if len(shape) > 1 else "F32"]
        plain = type_.name in ("F32", "F16")
        raw = values if type_.name == "F32" else gguf.quants.quantize(values, type_)
        writer.add_tensor(name, raw, raw_dtype=None if plain else type_)
    for name, value in changed.items():
        if isinstance(value, np.ndarray):
            writer.add_tensor(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_uint32(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
