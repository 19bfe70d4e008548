"""Files that programs write and people touch: each field of each dataclass, with each value that it cannot have."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal

from tests.attack.case import EITHER, MISSING, REFUSED, Case, call
from tests.attack.cases.commands import (
    MERGE,
    PILOTED,
    POWER,
    REDISTILL,
    REGISTRY,
    REPORT,
    ROLLOUT,
    SHORTLIST,
    SWEEP,
    WATCH,
)

VALUES: tuple[str, ...] = (
    "null",
    "true",
    "-1",
    "0",
    "1",
    "1.5",
    "1e400",
    "1000000000",
    "9" * 30,
    "9" * 5000,
    "NaN",
    "-Infinity",
    '""',
    '"x"',
    '"[/b]\\u001b[31m$\\\\frac"',
    '"\\ud800"',
    '"' + "x" * 100_000 + '"',
    "[]",
    "[[]]",
    "[null]",
    "[1.5]",
    "[99999999]",
    "[-1]",
    "[" + "1," * 20_000 + "1]",
    "{}",
    '{"a": 1}',
    '{"template": 5}',
    "[" * 100_000 + "]" * 100_000,
    '{"a":' * 50_000 + "1" + "}" * 50_000,
    MISSING,
)
"""As JSON text, some of which is none."""

WHOLE: tuple[str, ...] = (
    "",
    " ",
    "\n\n",
    "null",
    "[]",
    "5",
    '"x"',
    "{}",
    "{",
    '{"a": 1',
    "{'a': 1}",
    '{"a": 1}}',
    "NaN",
    '{"a": NaN}',
    "\ufeff{}",
    '{"a": "\\ud800"}',
    "\udcff",
    "\0",
    "[" * 100_000,
    '{"a":' * 100_000,
    "9" * 100_000,
    "x" * 10_000_000,
)
"""Contents of a whole file."""

CARDED = "draft --target=target --layers=0 --output=out"
"""Reads a model's card and its weights, and writes another; compiles nothing."""

READ_ROWS = '''api "ds.read_results('results.jsonl')"'''
"""Refuses any bad line; `report` counts and names them, and takes the rest."""

FILES: dict[str, tuple[str, ...]] = {
    "target/model.json": (CARDED, "generate --model=target --input=asked.jsonl --output=out"),
    "texts/set.json": (SHORTLIST + " --output=out",),
    "texts/texts.jsonl": (SHORTLIST + " --output=out",),
    "results.jsonl": (REPORT, POWER, f"{SWEEP} --output_dir=."),
    "metrics.jsonl": (REPORT,),
    "served.jsonl": (WATCH,),
    "asked.jsonl": ("generate --model=target --input=asked.jsonl --output=out",),
    "hf/config.json": ("convert --from=hf --input=hf --output=out",),
    "hf/generation_config.json": ("convert --from=hf --input=hf --output=out",),
    "hf/tokenizer_config.json": ("convert --from=hf --input=hf --output=out",),
    "target/checkpoints/1/params/_METADATA": (CARDED,),
    "target/checkpoints/1/params/_sharding": (CARDED,),
    "orbax/state/_METADATA": ("convert --from=t5x --input=orbax --mlp_activations=gelu,linear --output=out",),
    "out-00001-of-00002/shard.json": (MERGE,),
    "out-00001-of-00002/lines.jsonl": (MERGE,),
    "drafts/registry.json": (REGISTRY, ROLLOUT),
    "drafts/versions/v2/lineage.json": (REGISTRY,),
    "drafts/versions/v2/model.json": (REGISTRY,),
    "drafts/prompts.jsonl": (REDISTILL,),
    "piloted/job.json": (PILOTED,),
    "held_out.json": ("evaluate --model=target --task=office_help_ende --limit=2 --output=held_out.json",),
    "advice.json": ("advise --target=target --drafter=draft --inputs=asked.jsonl --output=advice.json",),
}
"""What reads a file; its content is replaced whole."""


def cases() -> list[Case]:
    found = []
    for name, lines in FILES.items():
        for line in lines:
            for content in WHOLE:
                again = ("results.jsonl",) if "--output_dir=." in line and not content.strip(" \n{") else ()
                if f"--output={name}" in line and not content:  # nobody's
                    again = (name,)
                found.append(call("schemas", line, ("write", name, content), may=EITHER, rewrites=again))
            found.append(call("schemas", line, ("remove", name), may=EITHER, makes=(name,)))
            found.append(call("schemas", line, ("remove", name), ("mkdir", name), may=EITHER))
            found.append(call("schemas", line, ("chmod", name, 0), may=EITHER))
    return found + _fields()


def _fields() -> list[Case]:
    from distillspec_jax.acceptance import COUNTS
    from distillspec_jax.data.target_set import Header
    from distillspec_jax.evaluation.result_row import PerPrompt, ResultRow, Timed
    from distillspec_jax.model_card import ModelCard
    from distillspec_jax.models.decoder_only_config import DecoderOnlyConfig
    from distillspec_jax.models.t5_config import T5Config
    from distillspec_jax.operations.lineage import Lineage, Training
    from distillspec_jax.operations.pilot import Begun, PilotPlan
    from distillspec_jax.operations.prompts import Prompt
    from distillspec_jax.operations.rollout import Settings
    from distillspec_jax.operations.transitions import History, Transition
    from distillspec_jax.shards import Part

    chatty = "generate --model=chatty --input=asked.jsonl --output=out --max_new_tokens=4 --batch_size=2"
    found = [
        *_of(ModelCard, "target/model.json", "", CARDED),
        *_of(ModelCard, "chatty/model.json", "", chatty),
        *_of(T5Config, "target/model.json", "config.", "draft --target=target"),
        *_of(T5Config, "target/model.json", "config.", CARDED),
        *_of(
            DecoderOnlyConfig, "chatty/model.json", "config.", "convert --to=hf --input=chatty --output=out"
        ),
        *_of(Header, "texts/set.json", "header.", f"{SHORTLIST} --output=out"),
        *_of(Part, "out-00001-of-00002/shard.json", "", MERGE),
        *_of(History, "drafts/registry.json", "", ROLLOUT),
        *_of(Transition, "drafts/registry.json", "transitions.1.", ROLLOUT),
        *_of(Settings, "drafts/registry.json", "transitions.1.details.settings.", ROLLOUT),
        *_of(Lineage, "drafts/versions/v2/lineage.json", "", REGISTRY),
        *_of(Training, "drafts/versions/v2/lineage.json", "training.", REGISTRY),
        *_of(Prompt, "drafts/prompts.jsonl:2", "", REDISTILL),
        *_of(Begun, "piloted/job.json", "", PILOTED),
        *_of(PilotPlan, "piloted/job.json", "plan.", PILOTED),
        *_of(ResultRow, "results.jsonl:2", "", READ_ROWS),
        *_of(PerPrompt, "results.jsonl:2", "per_prompt.", READ_ROWS),
        *_of(Timed, "results.jsonl:2", "timing.", READ_ROWS),
    ]
    for path in ("header", "header.feature_lengths.inputs", "header.feature_lengths.targets", "header.chat"):
        found += _plain("texts/set.json", path, f"{SHORTLIST} --output=out")
    for path in ("schema_version", "per_prompt.emitted.0", "timing.seconds.0", "quality.rougeL"):
        found += _plain("results.jsonl:2", path, REPORT)
    for path in ("inputs", "outputs", "tokens", "tokens.0", "row", "sample", "finish_reason"):
        found += _plain("texts/texts.jsonl:2", path, f"{SHORTLIST} --output=out")
    for path in ("per_prompt.emitted.0", "per_prompt.target_calls.0", "timing.baseline_seconds.0"):
        found += _plain("results.jsonl:2", path, POWER)
    for path in (*COUNTS, "inputs", "outputs"):
        found += _plain("served.jsonl:2", path, WATCH)
    for path in (*COUNTS, "draft_version", "registry_revision", "time", "latency_s", "rule", "inputs"):
        found += _plain("served.jsonl:2", path, ROLLOUT)
    for path in ("step", "split", "loss", "acceptance_on_batch"):
        found += _plain("metrics.jsonl:2", path, REPORT)
    for path in (
        "feature_lengths.inputs",
        "feature_lengths.targets",
        "chat.template",
        "chat.bos_token",
        "eos_ids.0",
    ):
        found += _plain("chatty/model.json", path, chatty)
    for path in (
        "vocab_size",
        "hidden_size",
        "model_type",
        "num_hidden_layers",
        "rope_parameters",
        "rope_scaling",
    ):
        found += _plain("hf/config.json", path, "convert --from=hf --input=hf --output=out")
    for path in ("num_attention_heads", "num_key_value_heads", "max_position_embeddings", "hidden_act"):
        found += _plain("hf/config.json", path, "convert --from=hf --input=hf --output=out")
    for path in ("rms_norm_eps", "tie_word_embeddings", "head_dim", "rope_theta", "intermediate_size"):
        found += _plain("hf/config.json", path, "convert --from=hf --input=hf --output=out")
    return found


def _plain(name: str, path: str, line: str) -> list[Case]:
    return [call("schemas", line, ("field", name, path, value), may=EITHER) for value in VALUES]


def _of(kind: type, name: str, outer: str, line: str) -> list[Case]:
    """Every field of a dataclass with every value; what is not of its type must be refused."""
    hints = typing.get_type_hints(kind)
    found = []
    for field in dataclasses.fields(kind):
        if field.name == "unknown":
            continue
        for value in VALUES:
            may = EITHER if _fits(hints[field.name], value) else REFUSED
            needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if value == MISSING:
                may = REFUSED if needed else EITHER
            found.append(call("schemas", line, ("field", name, f"{outer}{field.name}", value), may=may))
    return found


def _fits(hint: Any, text: str) -> bool:
    """Whether JSON text is a value of a type; a rough check of its own, which leaves open what it does not know."""
    if text in ("NaN", "-Infinity", "1e400", '"\\ud800"') or len(text) > 4000:
        return True  # whether the reader takes it at all is its own affair
    import json

    try:
        return _is(hint, json.loads(text))
    except ValueError:
        return True


def _is(hint: Any, value: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_is(one, value) for one in inner)
    if origin is Literal:
        return value in inner
    if origin in (list, tuple) or hint in (list, tuple):
        return isinstance(value, list) and all(_is(inner[0], one) for one in value if inner)
    if hint is type(None):
        return value is None
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    if origin is dict:
        return isinstance(value, dict) and all(_is(inner[1], one) for one in value.values())
    return True
