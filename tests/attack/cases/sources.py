"""Checkpoints of other frameworks, and our own weights: folders with parts missing, swapped, cut or of another kind."""

from __future__ import annotations

from tests.attack.case import EITHER, REFUSED, Case, Step, call
from tests.attack.cases.commands import FROM_GGUF, FROM_HF, FROM_ORBAX, FROM_T5X, REPORT, SHORTLIST, TO_HF

HF, GGUF, T5X, ORBAX = (f"{line} --output=out" for line in (FROM_HF, FROM_GGUF, FROM_T5X, FROM_ORBAX))
OURS, STORED = "convert --to=hf --input=target --output=out", f"{SHORTLIST} --output=out"
KERNEL = "t5x/target.decoder.layers_1.mlp.wo.kernel"

LINES: tuple[tuple[str, tuple[Step, ...], str], ...] = (
    # command, what is done first, how it may end
    (HF, (("remove", "hf/config.json"),), REFUSED),
    (HF, (("remove", "hf/model.safetensors"),), REFUSED),
    (HF, (("write", "hf/model.safetensors", ""),), REFUSED),
    (HF, (("write", "hf/model.safetensors", b"\xff" * 8),), REFUSED),
    (HF, (("write", "hf/model.safetensors", b"\x00" * 8),), REFUSED),
    (HF, (("write", "hf/model.safetensors", b"\x02" + b"\x00" * 7 + b"{}"),), REFUSED),
    (HF, (("write", "hf/model.safetensors", b"\xff" * 7 + b"\x7f" + b"{}"),), REFUSED),
    (HF, (("cut", "hf/model.safetensors", 1000),), REFUSED),
    (HF, (("remove", "hf/model.safetensors"), ("mkdir", "hf/model.safetensors")), REFUSED),
    (HF, (("rename", "hf/model.safetensors", "hf/pytorch_model.bin"),), REFUSED),
    (
        HF,
        (
            ("rename", "hf/model.safetensors", "hf/x"),
            ("write", "hf/model.safetensors.index.json", '{"weight_map": {"a": "x"}}'),
        ),
        REFUSED,
    ),
    (
        HF,
        (
            ("rename", "hf/model.safetensors", "hf/x"),
            ("write", "hf/model.safetensors.index.json", '{"weight_map": {"a": "../../etc/passwd"}}'),
        ),
        REFUSED,
    ),
    (
        HF,
        (
            ("rename", "hf/model.safetensors", "hf/x"),
            ("write", "hf/model.safetensors.index.json", '{"weight_map": {"a": 5}}'),
        ),
        REFUSED,
    ),
    (
        HF,
        (
            ("rename", "hf/model.safetensors", "hf/x"),
            ("write", "hf/model.safetensors.index.json", '{"weight_map": []}'),
        ),
        REFUSED,
    ),
    (
        HF,
        (("rename", "hf/model.safetensors", "hf/x"), ("write", "hf/model.safetensors.index.json", "{")),
        REFUSED,
    ),
    (HF, (("json", "hf/config.json", "", "it | {'vocab_size': 10 ** 9}"),), REFUSED),
    (HF, (("json", "hf/config.json", "", "it | {'num_hidden_layers': 10 ** 9}"),), REFUSED),
    (HF, (("json", "hf/config.json", "", "it | {'num_hidden_layers': 0}"),), REFUSED),
    (HF, (("json", "hf/config.json", "", "it | {'hidden_size': -8}"),), REFUSED),
    (HF, (("json", "hf/config.json", "", "it | {'num_attention_heads': 0}"),), REFUSED),
    (HF, (("json", "hf/config.json", "", "it | {'num_attention_heads': 3}"),), REFUSED),
    (HF, (("json", "hf/config.json", "", "it | {'num_key_value_heads': 0}"),), EITHER),
    (HF, (("json", "hf/config.json", "", "it | {'model_type': 't5'}"),), REFUSED),
    (HF, (("json", "hf/config.json", "", "it | {'model_type': 'gpt2'}"),), REFUSED),
    (HF, (("json", "hf/config.json", "", "it | {'rope_scaling': {'rope_type': 'yarn'}}"),), EITHER),
    (HF, (("json", "hf/config.json", "", "it | {'rope_scaling': {'rope_type': 'llama3'}}"),), EITHER),
    (HF, (("json", "hf/config.json", "", "{'model_type': 'llama'}"),), REFUSED),
    (HF, (("remove", "hf/tokenizer.json"),), EITHER),
    (HF, (("symlink", "alias", "hf/loop"), ("symlink", "hf/loop", "../alias")), EITHER),
    ("convert --from=hf --input=target --output=out", (), REFUSED),
    ("convert --from=hf --input=notes.txt --output=out", (), REFUSED),
    ("convert --from=hf --input=nothing --output=out", (), REFUSED),
    ("convert --from=hf --input=zoo:target --output=out", (), REFUSED),
    ("convert --from=hf --input=hf --output=out --mlp_activations=relu", (), REFUSED),
    ("convert --from=hf --input=hf --output=out --tokenizer=notes.txt", (), REFUSED),
    ("convert --from=hf --input=hf --output=out --tokenizer=full", (), REFUSED),
    ("convert --from=hf --input=hf --output=out --tokenizer=spiece.model", (), REFUSED),
    ("convert --from=hf --to=hf --input=hf --output=out", (), REFUSED),
    ("convert --input=hf --output=out", (), REFUSED),
    ("convert --to=hf --input=target --output=out --eos_ids=1", (), REFUSED),
    ("convert --to=hf --input=zoo:nothing --output=out", (), REFUSED),
    ("convert --to=hf --input=texts --output=out", (), REFUSED),
    (GGUF, (("write", "tiny.gguf", ""),), REFUSED),
    (GGUF, (("write", "tiny.gguf", "GGUF"),), REFUSED),
    (GGUF, (("write", "tiny.gguf", b"GGUF\x03\x00\x00\x00" + b"\xff" * 16),), REFUSED),
    (GGUF, (("write", "tiny.gguf", b"GGUF\x03\x00\x00\x00" + b"\x00" * 16),), REFUSED),
    (GGUF, (("write", "tiny.gguf", b"GGUF\x63\x00\x00\x00" + b"\x00" * 16),), REFUSED),
    (
        GGUF,
        (
            (
                "write",
                "tiny.gguf",
                b"GGUF\x03\x00\x00\x00" + b"\x00" * 8 + b"\x01" + b"\x00" * 7 + b"\xff" * 8 + b"x" * 99,
            ),
        ),
        REFUSED,
    ),
    (GGUF, (("write", "tiny.gguf", b"FUGG\x00\x00\x00\x03" + b"\x00" * 16),), REFUSED),
    *((GGUF, (("cut", "tiny.gguf", size),), REFUSED) for size in (4, 23, 24, 100, 1000, 5000, 20_000)),
    ("convert --from=gguf --input=hf --output=out", (), REFUSED),
    ("convert --from=gguf --input=nothing --output=out", (), REFUSED),
    ("convert --from=gguf --input=asked.jsonl --output=out", (), REFUSED),
    ("convert --from=gguf --input=/dev/null --output=out", (), REFUSED),
    ("convert --from=gguf --input=hf/model.safetensors --output=out", (), REFUSED),
    (T5X, (("remove", "t5x/checkpoint"),), REFUSED),
    (T5X, (("write", "t5x/checkpoint", ""),), REFUSED),
    (T5X, (("write", "t5x/checkpoint", b"\xff" * 1000),), REFUSED),
    (T5X, (("write", "t5x/checkpoint", b"\xdf\xff\xff\xff\xff"),), REFUSED),
    (T5X, (("write", "t5x/checkpoint", b"\xc6\xff\xff\xff\xff"),), REFUSED),
    (T5X, (("write", "t5x/checkpoint", b"\x91" * 100_000),), REFUSED),
    (T5X, (("write", "t5x/checkpoint", b"\xc7\x05\x01hello"),), REFUSED),
    (T5X, (("cut", "t5x/checkpoint", 500),), REFUSED),
    (T5X, (("remove", KERNEL),), REFUSED),
    (T5X, (("remove", f"{KERNEL}/.zarray"),), REFUSED),
    (T5X, (("write", f"{KERNEL}/.zarray", "{}"),), REFUSED),
    (T5X, (("write", f"{KERNEL}/.zarray", "{"),), REFUSED),
    (T5X, (("json", f"{KERNEL}/.zarray", "", "it | {'shape': [10 ** 9, 10 ** 9]}"),), REFUSED),
    (T5X, (("json", f"{KERNEL}/.zarray", "", "it | {'shape': [-1, 5]}"),), REFUSED),
    (T5X, (("json", f"{KERNEL}/.zarray", "", "it | {'chunks': [10 ** 6, 10 ** 6]}"),), REFUSED),
    (T5X, (("json", f"{KERNEL}/.zarray", "", "it | {'dtype': '|O'}"),), REFUSED),
    (T5X, (("json", f"{KERNEL}/.zarray", "", "it | {'compressor': {'id': 'nothing'}}"),), REFUSED),
    (T5X, (("write", f"{KERNEL}/0.0", ""),), REFUSED),
    (T5X, (("write", f"{KERNEL}/0.0", b"\x1f\x8b" + b"\x00" * 99),), REFUSED),
    ("convert --from=t5x --input=t5x --output=out", (), REFUSED),
    ("convert --from=t5x --input=t5x --mlp_activations=x --output=out", (), REFUSED),
    ("convert --from=t5x --input=t5x --mlp_activations= --output=out", (), REFUSED),
    (
        "convert --from=t5x --input=t5x --mlp_activations=gelu,linear --tokenizer=spiece.model --output=out",
        (),
        EITHER,
    ),
    (
        "convert --from=t5x --input=t5x --mlp_activations=gelu,linear --relpos_max_distance=1 --output=out",
        (),
        REFUSED,
    ),
    (
        "convert --from=t5x --input=t5x --mlp_activations=gelu,linear --decoder_start_id=-1 --output=out",
        (),
        REFUSED,
    ),
    (
        "convert --from=t5x --input=t5x --mlp_activations=gelu,linear --decoder_start_id=9999999 --output=out",
        (),
        REFUSED,
    ),
    ("convert --from=t5x --input=target --mlp_activations=relu --output=out", (), REFUSED),
    ("convert --from=t5x --input=. --mlp_activations=relu --output=out", (), REFUSED),
    (ORBAX, (("remove", "orbax/state/_METADATA"),), REFUSED),
    (ORBAX, (("write", "orbax/state/_METADATA", "{}"),), REFUSED),
    (ORBAX, (("write", "orbax/state/_METADATA", "["),), REFUSED),
    (ORBAX, (("write", "orbax/state/_METADATA", '{"tree_metadata": 5}'),), REFUSED),
    (ORBAX, (("write", "orbax/state/_METADATA", '{"tree_metadata": {"x": 5}}'),), REFUSED),
    (ORBAX, (("write", "orbax/state/_METADATA", '{"tree_metadata": {"(1)": {}}}'),), REFUSED),
    (
        ORBAX,
        (
            (
                "write",
                "orbax/state/_METADATA",
                "{\"tree_metadata\": {\"__import__('os').system('touch stolen')\": {}}}",
            ),
        ),
        REFUSED,
    ),
    (ORBAX, (("remove", "orbax/state/manifest.ocdbt"),), REFUSED),
    (ORBAX, (("write", "orbax/state/manifest.ocdbt", ""),), REFUSED),
    (ORBAX, (("remove", "orbax/state/d"),), EITHER),
    (OURS, (("remove", "target/checkpoints"),), REFUSED),
    (OURS, (("remove", "target/checkpoints/1"),), REFUSED),
    (OURS, (("remove", "target/checkpoints/1/params/_METADATA"),), REFUSED),
    (OURS, (("remove", "target/checkpoints/1/params/manifest.ocdbt"),), REFUSED),
    (OURS, (("remove", "target/checkpoints/1/params/d"),), EITHER),
    (OURS, (("remove", "target/checkpoints/1/params/ocdbt.process_0"),), EITHER),
    (OURS, (("rename", "target/checkpoints/1", "target/checkpoints/99999999999999999999999"),), EITHER),
    (OURS, (("rename", "target/checkpoints/1", "target/checkpoints/٣"),), EITHER),
    (OURS, (("rename", "target/checkpoints/1", "target/checkpoints/-1"),), REFUSED),
    (OURS, (("rename", "target/checkpoints/1", "target/checkpoints/" + "9" * 200),), EITHER),
    (
        OURS,
        (("rename", "target/checkpoints", "x"), ("symlink", "target/checkpoints", "checkpoints")),
        REFUSED,
    ),
    (OURS, (("rename", "target/checkpoints", "x"), ("write", "target/checkpoints", "mine")), REFUSED),
    (OURS, (("chmod", "target/checkpoints", 0),), REFUSED),
    (OURS, (("remove", "target/tokenizer.model"),), EITHER),
    (OURS, (("write", "target/tokenizer.model", "mine"),), REFUSED),
    (OURS, (("rename", "target/tokenizer.model", "target/tokenizer.json"),), EITHER),
    (STORED, (("remove", "texts/logprobs"),), REFUSED),
    (STORED, (("remove", "texts/texts.jsonl"),), REFUSED),
    (STORED, (("remove", "texts/tokenizer.model"),), REFUSED),
    (STORED, (("write", "texts/tokenizer.model", "mine"),), REFUSED),
    (STORED, (("write", "texts/logprobs/00000.npz", ""),), REFUSED),
    (STORED, (("write", "texts/logprobs/00000.npz", "mine"),), REFUSED),
    (STORED, (("write", "texts/logprobs/00000.npz", b"PK\x03\x04" + b"\x00" * 99),), REFUSED),
    (STORED, (("write", "texts/logprobs/00000.npz", b"\x93NUMPY\x01\x00\x05\x00{}   "),), REFUSED),
    (STORED, (("cut", "texts/logprobs/00000.npz", 200),), REFUSED),
    (STORED, (("remove", "texts/logprobs/00000.npz"), ("mkdir", "texts/logprobs/00000.npz")), REFUSED),
    *(
        (STORED, (("npz", "texts/logprobs/00000.npz", key, change),), REFUSED)
        for key in ("ids", "log_p", "log_tail")
        for change in (
            "None",
            "it[:-1]",
            "it[None]",
            "it.ravel()",
            "np.array(5)",
            "np.array('x')",
            "it.astype(str)",
            "it.astype(complex)",
            "it[:0]",
            "np.zeros((0, 0))",
            "it.astype(object) if False else np.array([b'x'])",
        )
    ),
    *(
        (STORED, (("npz", "texts/logprobs/00000.npz", "log_p", change),), REFUSED)
        for change in (
            "it * np.nan",
            "it + 5",
            "it * 0 + np.inf",
            "it * 0 - np.inf",
            "it.astype(np.int64)",
            "it.astype(bool)",
        )
    ),
    *(
        (STORED, (("npz", "texts/logprobs/00000.npz", "log_tail", change),), REFUSED)
        for change in (
            "it * np.nan",
            "it + 5",
            "it * 0 + np.inf",
            "it.astype(bool)",
        )
    ),
    *(
        (STORED, (("npz", "texts/logprobs/00000.npz", "ids", change),), REFUSED)
        for change in (
            "it.astype(np.float32) + 0.5",
            "it.astype(np.int64) - 9999",
            "it * 0 + 65535",
            "it.astype(np.uint64) * 0 + 2**63",
        )
    ),
    (REPORT, (("remove", "metrics.jsonl"), ("mkdir", "metrics.jsonl")), REFUSED),
    (REPORT, (("remove", "results.jsonl"), ("symlink", "results.jsonl", "results.jsonl")), REFUSED),
    (REPORT, (("chmod", "results.jsonl", 0),), REFUSED),
    (f"{TO_HF} --output=out", (("remove", "chatty/tokenizer.json"),), EITHER),
    (f"{TO_HF} --output=out", (("write", "chatty/tokenizer.json", "mine"),), REFUSED),
)


def cases() -> list[Case]:
    return [call("sources", line, *steps, may=may) for line, steps, may in LINES]
