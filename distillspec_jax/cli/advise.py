"""`distillspec advise`: does speculation pay here, and with which block size?"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from distillspec_jax import bounds, files, outputs
from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import (
    DRAFTER_HELP,
    DTYPE_HELP,
    RULE_HELP,
    TASK_HELP,
    CommandParser,
    list_of,
    refuse_idle,
)
from distillspec_jax.errors import UsageError, nearest

HELP = """Measures what a round costs at each block size on this machine, and how often the draft is accepted.
Prints the costs, the predicted speed-up over decoding without a draft, the best block size and the break-even
acceptance rate.

  distillspec advise --target=zoo:wiki_leads/target --drafter=zoo:wiki_leads/distilled --batch_size=8

With --device it predicts for a chip that you do not have, from its data sheet ({devices}):
nothing is measured, weights are not read, and the acceptance rate is --acceptance or that of the draft's
profile.json. A file NAME.json describes your own device: bandwidth, flops, memory and interconnect, and
measurements on it (python -m benchmarks.prediction measures a machine and writes one).

  distillspec advise --target=runs/target --drafter=runs/distilled --device=v5e --chips=4 --batch_size=1,8,32
  distillspec advise --target=runs/target --drafter=runs/distilled --device=mine.json --dtype=float32
"""


def main(argv: list[str]) -> int:
    """Runs the command."""
    from distillspec_jax.evaluation.devices import DEVICES

    parser = CommandParser("advise", HELP.format(devices=", ".join(DEVICES)), gin_sets_flags=True)
    add = parser.add_argument
    add("--target", required=True, metavar="MODEL", help="a checkpoint directory or zoo:NAME")
    add("--drafter", required=True, metavar="MODEL", help=DRAFTER_HELP)
    add("--task", help=TASK_HELP)
    add("--split", help="train, validation (default) or test")
    add("--inputs", metavar="FILE", help='JSONL of {"inputs": ...} instead of a task')
    add("--truncate_inputs", action="store_true", help="cut lines of --inputs that are too long")
    add("--limit", type=int, default=32, help="number of prompts to measure acceptance on (default: 32)")
    add("--chat", action="store_true", help="wrap prompts in the target's chat template")
    add(
        "--block_sizes",
        type=list_of(int),
        default=[1, 3, 5, 7],
        metavar="N,N",
        help="block sizes to try (default: 1,3,5,7)",
    )
    add(
        "--batch_size",
        type=list_of(int),
        default=[1],
        metavar="N",
        help="prompts per batch (default: 1); several, N,N, only with --device",
    )
    add("--rule", default="token", help=RULE_HELP)
    add("--epsilon", type=float, help="epsilon of the lenient rules, in (0, 1]; 1 (default) is lossless")
    add("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    add("--top_k", type=int, default=0, help="0 is off (default)")
    add("--top_p", type=float, default=1.0, help="1 is off (default)")
    add("--max_new_tokens", type=int, help="longest output in tokens, including EOS (default: the task's)")
    add("--dtype", help=DTYPE_HELP)
    add("--assume_same_vocabulary", action="store_true", help="accept a pair with an unknown tokenizer")
    add("--output", metavar="FILE", help="also write the numbers as JSON")
    add("--device", metavar="NAME", help=f"predict for this chip: {', '.join(DEVICES)}, or FILE.json")
    add("--chips", type=int, default=1, help="with --device: chips that share the target (default: 1)")
    add(
        "--acceptance",
        type=float,
        metavar="RATE",
        help="with --device: acceptance rate, if no profile exists",
    )
    add("--context", type=int, metavar="N", help="with --device: prompt tokens (default: the target's own)")
    flags = parser.parse(argv)
    refuse_idle(flags)
    if flags.device is not None:
        for name in _MEASURED:
            if getattr(flags, name) != parser.get_default(name):
                raise UsageError(f"--{name} is for measuring here: --device predicts without it")
        return _predict(flags)
    for name in ("acceptance", "context"):
        if getattr(flags, name) is not None:
            raise UsageError(f"--{name} needs --device: here it is measured")
    if len(flags.batch_size) > 1 or flags.chips != 1:
        raise UsageError("several batch sizes, and --chips, need --device: one batch is measured at a time")

    from distillspec_jax.decoding import SamplingParams, StopOnEos, drafter_registry, rules
    from distillspec_jax.evaluation import advice, prompts
    from distillspec_jax.generation.prompt_format import tokenizer_of
    from distillspec_jax.models import pretrained
    from distillspec_jax.reports import tables

    verifier = rules.rule(flags.rule, epsilon=flags.epsilon)
    target = pretrained.load(flags.target, dtype=flags.dtype)
    draft = drafter_registry.load(flags.drafter, flags.dtype)
    drafter_registry.check_pairs(target, [draft], flags.assume_same_vocabulary)
    asked = prompts.from_task_or_file(
        target,
        task=flags.task,
        split=flags.split or "validation",
        inputs=flags.inputs,
        limit=flags.limit,
        chat=flags.chat,
        truncate=flags.truncate_inputs,
    )
    if flags.output:
        flags.output = outputs.place(flags.output, folder=False)
        outputs.check(flags.output, _is_ours)
    tokenizer = tokenizer_of(target)
    found = advice.advise(
        target,
        draft,
        asked.prompts,
        SamplingParams(flags.temperature, flags.top_k, flags.top_p).distribution(tokenizer.vocabulary),
        max_new_tokens=asked.max_new_tokens if flags.max_new_tokens is None else flags.max_new_tokens,
        block_sizes=flags.block_sizes,
        batch_size=flags.batch_size[0],
        engine_options={"stopping": StopOnEos(tokenizer.eos_ids), "verifier": verifier},
    )
    tables.print_advice(found)
    if flags.output:
        files.write_json(flags.output, dataclasses.asdict(found), _is_ours)
    return 0


_MEASURED = (
    *("task", "split", "inputs", "truncate_inputs", "limit", "chat", "rule", "epsilon", "top_k", "top_p"),
    "assume_same_vocabulary",
)
"""Flags that no prediction depends on."""


def _predict(flags: argparse.Namespace) -> int:
    """Predicts for a device by its data sheet."""
    from distillspec_jax.data import catalog
    from distillspec_jax.decoding import named_drafters
    from distillspec_jax.evaluation import devices, launches, roofline
    from distillspec_jax.models import pretrained
    from distillspec_jax.reports import tables

    device = devices.find(flags.device)
    for name, values in (("chips", [flags.chips]), ("batch_size", flags.batch_size)):
        if min(values) < 1:
            raise UsageError(f"--{name}={min(values)}: must be at least 1")
        bounds.check_most(f"--{name}", max(values), bounds.ROWS)
    if min(flags.block_sizes) < 1 or max(flags.block_sizes) > bounds.BLOCK_SIZE:
        raise UsageError(f"--block_sizes={flags.block_sizes}: each from 1 to {bounds.BLOCK_SIZE}")
    itemsizes = {None: 2, "bfloat16": 2, "float32": 4, "int8": 1}
    if flags.dtype not in itemsizes:
        raise UsageError(f"--dtype={flags.dtype}: {nearest(flags.dtype, filter(None, itemsizes))}")
    dtype = flags.dtype or device.dtype or "bfloat16"
    if device.dtype not in (None, dtype):
        raise UsageError(f"--dtype={dtype}: {flags.device} was measured in {device.dtype}")
    if flags.output:
        flags.output = outputs.place(flags.output, folder=False)
        outputs.check(flags.output, _is_prediction)
    if flags.drafter in named_drafters.FACTORIES:
        raise UsageError(f"--drafter={flags.drafter}: predictions are for a draft model")
    cards = [pretrained.read_card(name) for name in (flags.target, flags.drafter)]
    if cards[1].mask_id is not None:
        raise UsageError(
            f"{flags.drafter} proposes a block in one call, which is predicted for no device yet: "
            "leave --device out to measure it here"
        )
    networks = [
        pretrained.network(name, card)
        for name, card in zip((flags.target, flags.drafter), cards, strict=True)
    ]
    _, lengths = catalog.form_of_prompts(flags.target, cards[0])
    prompt = lengths.get("inputs", _CONTEXT) if flags.context is None else flags.context
    text = lengths.get("targets", 128) if flags.max_new_tokens is None else flags.max_new_tokens
    for name, value in (("context", prompt), ("max_new_tokens", text)):
        if value < 1:
            raise UsageError(f"--{name}={value}: must be at least 1")
    # Attention reads all the room that a row has, filled or not.
    listed = (None, len(cards[1].shortlist) if cards[1].shortlist else None)
    target, draft = (
        roofline.NetworkSizes.of(one, prompt, text, ids) for one, ids in zip(networks, listed, strict=True)
    )
    reach, told = _reach(flags, max(flags.block_sizes))
    found = [
        roofline.predict(
            target,
            draft,
            device,
            reach,
            batch_size=rows,
            block_sizes=flags.block_sizes,
            itemsize=itemsizes[dtype],
            chips=flags.chips,
            launches=launches.of_rounds(*networks, batch_size=rows, block_sizes=flags.block_sizes)
            if device.launch
            else None,
        )
        for rows in flags.batch_size
    ]
    title = f"{flags.target} drafted by {flags.drafter} on {flags.chips} × {flags.device}"
    context = f"{prompt:,} tokens of prompt and room for {text:,} of text, {dtype}; {told}"
    tables.print_predictions(found, title, f"{context}. {device.source}")
    if flags.output:
        rows = [dataclasses.asdict(one) for one in found]
        written = {"device": flags.device, "chips": flags.chips, "predictions": rows}
        files.write_json(flags.output, written, _is_prediction)
    return 0


_CONTEXT = 512


def _reach(flags: argparse.Namespace, longest: int) -> tuple[list[float], str]:
    """Probabilities that so many drafts of a round are accepted, and where they are from."""
    from distillspec_jax import acceptance_profile
    from distillspec_jax.models import pretrained

    if flags.acceptance is not None:
        if not 0 <= flags.acceptance <= 1:
            raise UsageError(f"--acceptance={flags.acceptance}: must lie in [0, 1]")
        return [
            flags.acceptance**i for i in range(1, longest + 1)
        ], f"acceptance {flags.acceptance:g}, assumed"
    path = pretrained.resolve(flags.drafter) / acceptance_profile.FILE
    if not path.is_file():
        raise UsageError(f"{flags.drafter} has no {acceptance_profile.FILE}: give --acceptance=RATE")
    cells = acceptance_profile.read(path).cells
    cell = next((one for one in cells if one.temperature == flags.temperature), None)
    if cell is None:
        known = ", ".join(f"{one.temperature:g}" for one in cells)
        raise UsageError(f"{path} has no temperature {flags.temperature:g}: choose one of {known}")
    return [
        one or 0.0 for one in cell.acceptance_joint
    ], f"acceptance of its profile, T = {cell.temperature:g}"


def _is_ours(path: Path) -> bool:
    """Whether a file holds advice, as this command writes it."""
    return files.read_json(path).keys() >= {"target", "draft", "plain_ms", "sizes"}


def _is_prediction(path: Path) -> bool:
    """Whether a file holds predictions, as this command writes them."""
    return files.read_json(path).keys() >= {"device", "chips", "predictions"}


if __name__ == "__main__":
    sys.exit(errors.run(main, command="advise"))
