"""`distillspec advise`: does speculation pay here, and with which block size?"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from distillspec_jax import files, outputs
from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import (
    DRAFTER_HELP,
    DTYPE_HELP,
    RULE_HELP,
    TASK_HELP,
    CommandParser,
    list_of,
    refuse_split,
)

HELP = """Measures what a round costs at each block size on this machine, and how often the draft is accepted.
Prints the costs, the predicted speed-up over decoding without a draft, the best block size and the break-even
acceptance rate.

  distillspec advise --target=zoo:wiki_leads/target --drafter=zoo:wiki_leads/distilled --batch_size=8
"""


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("advise", HELP, gin_sets_flags=True)
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
        help="to try (default: 1,3,5,7)",
    )
    add("--batch_size", type=int, default=1, help="prompts per batch (default: 1)")
    add("--rule", default="token", help=RULE_HELP)
    add("--epsilon", type=float, help="of the lenient rules, in (0, 1]; 1 (default) is lossless")
    add("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    add("--top_k", type=int, default=0, help="0 is off (default)")
    add("--top_p", type=float, default=1.0, help="1 is off (default)")
    add("--max_new_tokens", type=int, help="longest output in tokens, including EOS (default: the task's)")
    add("--dtype", help=DTYPE_HELP)
    add("--assume_same_vocabulary", action="store_true", help="accept a pair with an unknown tokenizer")
    add("--output", metavar="FILE", help="also write the numbers as JSON")
    flags = parser.parse(argv)
    refuse_split(flags)

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
        outputs.check(flags.output, _is_ours)
    tokenizer = tokenizer_of(target)
    found = advice.advise(
        target,
        draft,
        asked.prompts,
        SamplingParams(flags.temperature, flags.top_k, flags.top_p).distribution(tokenizer.vocabulary),
        max_new_tokens=asked.max_new_tokens if flags.max_new_tokens is None else flags.max_new_tokens,
        block_sizes=flags.block_sizes,
        batch_size=flags.batch_size,
        engine_options={"stopping": StopOnEos(tokenizer.eos_ids), "verifier": verifier},
    )
    tables.print_advice(found)
    if flags.output:
        files.write_json(flags.output, dataclasses.asdict(found), _is_ours)
    return 0


def _is_ours(path: Path) -> bool:
    """Whether a file holds advice, as this command writes it."""
    return files.read_json(path).keys() >= {"target", "draft", "plain_ms", "sizes"}


if __name__ == "__main__":
    sys.exit(errors.run(main, command="advise"))
