"""A recorded engine beside our own decoding of the same pair."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from benchmarks.engines import recording
from benchmarks.engines.counters import differing, print_counters, shown
from benchmarks.engines.recording import ANSWERS, VERSION, Serving, Texts
from benchmarks.engines.replay import replayed
from benchmarks.greedy_identity import differences
from benchmarks.smollm2 import questions
from distillspec_jax.acceptance import PartialRecord, Record
from distillspec_jax.decoding import Engine, SamplingParams, StopOnEos
from distillspec_jax.evaluation import paired
from distillspec_jax.evaluation.watch_state import Stream
from distillspec_jax.evaluation.watching import Watch
from distillspec_jax.generation.prompt_format import tokenizer_of
from distillspec_jax.generation.trace import rounds_of
from distillspec_jax.models import pretrained
from distillspec_jax.models.pretrained import Pretrained


def main(serving: Serving, argv: Sequence[str], doc: str, binary: str, module: str) -> int:
    """Runs a benchmark of one engine; ends with 1 if counters and answers differ.

    Args:
      doc, binary, module: what it is, the name of the server, and how the command is called.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=doc)
    parser.add_argument("--server", default=binary, help=f"the engine's server (default: {binary})")
    parser.add_argument("--target", required=True, help="checkpoint directory of a decoder-only model")
    parser.add_argument("--draft", required=True, help="checkpoint directory")
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--new_tokens", type=int, default=48)
    parser.add_argument("--block_size", type=int, default=3)
    parser.add_argument("--clients", type=int, default=2, help="requests at a time")
    parser.add_argument(
        "--transformers", type=int, default=0, metavar="N", help="so many prompts in transformers, too"
    )
    parser.add_argument(
        "--recorded", action="store_true", help="compare the recording that is in --output; start no server"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/engines") / serving.engine, help="folder of the recording"
    )
    flags = parser.parse_args(argv)
    target = pretrained.load(flags.target)
    if not flags.recorded:
        flags.output.mkdir(parents=True, exist_ok=True)
        line = recording.deployed(serving, flags.target, flags.draft, flags.block_size, flags.output)
        prompts = questions(target, flags.prompts)
        with recording.server(serving, flags.server, line, flags.output / "server.log") as url:
            recording.record(serving, url, prompts, flags.new_tokens, flags.clients, flags.output)
    texts = Texts.read(flags.output)
    prompts = texts.prompts
    print((flags.output / VERSION).read_text().strip())
    equal = print_counters(flags.output)
    print_acceptance(serving, target, pretrained.load(flags.draft), texts, flags)
    if flags.transformers:
        # torch takes seconds to import and is needed nowhere else.
        from benchmarks.assisted_acceptance import beside_ours

        names, some = (flags.target, flags.draft), prompts[: flags.transformers]
        where = f"T = 0, {len(some)} of the prompts"
        print(beside_ours(names, some, flags.new_tokens, flags.block_size, where).what)
    return 0 if equal else 1


@dataclasses.dataclass(frozen=True)
class Beside:
    """One prompt here and there.

    Attributes:
      ours: our counts, by our definitions.
      theirs: the engine's counts, as it tells them.
      expected: what the engine would count of our rounds; None where its text is another.
    """

    ours: Record
    theirs: PartialRecord
    expected: PartialRecord | None

    @property
    def same(self) -> bool:
        """Whether the engine counted what was expected."""
        return self.expected is not None and not differing(self.theirs, self.expected)


def print_acceptance(
    serving: Serving,
    target: Pretrained,
    draft: Pretrained,
    recorded: Texts,
    flags: argparse.Namespace,
) -> None:
    """Decodes the same prompts here, and prints how acceptance compares."""
    prompts, limit = recorded.prompts, recorded.limit
    eos_ids = tokenizer_of(target).eos_ids
    distribution = SamplingParams(0.0).distribution(tokenizer_of(target).vocabulary)
    alone = Engine(target.model, target.params, batch_size=8, stopping=StopOnEos(eos_ids))
    texts = [list(one.tokens) for one in alone.generate(prompts, distribution, limit, seed=0)]
    units = Watch().read(Stream("answers"), str(flags.output / ANSWERS))[: len(prompts)]
    decoded = functools.partial(
        rounds_of,
        target,
        draft,
        block_size=flags.block_size,
        max_new_tokens=limit + flags.block_size,
        eos_ids=(),
        width=max(map(len, prompts)) + 2,
    )
    found = []
    for prompt, text, theirs, unit in zip(prompts, texts, recorded.answers, units, strict=True):
        rounds = list(decoded(prompt))
        expected = None
        if theirs == text:
            expected = replayed(
                [one.accepted for one in decoded([*prompt, text[0]])],
                tokens=len(text),
                limit=limit,
                block_size=flags.block_size,
                room=serving.room,
            )
        ours = _until([(one.tested, one.accepted, len(one.tokens)) for one in rounds], len(text))
        found.append(Beside(ours, unit.record, expected))
    _print(found)
    for one in differences(target, prompts, recorded.answers, texts):
        print(
            f"Prompt {one.prompt} parts at token {one.position}, where our two largest logits are "
            f"{one.gap:.1e} apart."
        )


def _until(rounds: Sequence[tuple[int, int, int]], tokens: int) -> Record:
    """Our counts of the first tokens of a text, as if it had ended there."""
    kept: list[tuple[int, int, int]] = []
    for tested, accepted, emitted in rounds:
        left = tokens - sum(one[2] for one in kept)
        if left > 0:
            kept.append((min(tested, left), min(accepted, left), min(emitted, left)))
    return Record.of_rounds(kept)


def _print(found: Sequence[Beside]) -> None:
    equal = [one for one in found if one.expected is not None]
    print(f"\n{len(equal)} of {len(found)} greedy texts are those of our target alone.")
    print(f"{sum(one.same for one in equal)} of these have the counts that follow from our rounds.\n")
    print("| of the equal texts | rounds | drafted | accepted | accepted / drafted |\n|---|---|---|---|---|")
    theirs, expected = [one.theirs for one in equal], [one.expected for one in equal if one.expected]
    for name, records in (("there", theirs), ("reckoned from our rounds", expected)):
        total = PartialRecord.total(records)
        share = paired.of_records(records, "acceptance_drafted")
        counts = " | ".join(shown(getattr(total, count)) for count in ("target_calls", "drafted", "accepted"))
        print(f"| {name} | {counts} | {share.value:.4f} ({share.low:.4f} – {share.high:.4f}) |")
    own = [one.ours for one in equal]
    total, rate = Record.total(own), paired.of_records(own, "acceptance_tested")
    print(
        f"\nBy our definitions: {total.accepted:,} of {total.tested:,} tested drafts in "
        f"{total.target_calls:,} rounds, {rate.value:.4f} ({rate.low:.4f} – {rate.high:.4f})"
    )
