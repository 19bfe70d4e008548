"""Writing a target's texts on a task's prompts once, with its distributions if wanted: `distillspec collect`.

The texts come from the batched decoder, drafted for if there is a draft: the distribution is the target's
anyhow. A run that was cut off continues where it was, text by text and then file of distributions by file of
distributions.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from distillspec_jax import bounds, files, memory, model_card, outputs, provenance, shards
from distillspec_jax.data import catalog, logprob_files
from distillspec_jax.data.logprob_files import ROWS_A_SHARD, TopLogprobs, logprobs_file
from distillspec_jax.data.target_set import (
    HEADER_FILE,
    TEXTS_FILE,
    Header,
    TargetSet,
    read_header,
)
from distillspec_jax.decoding.engine import DecodingProgress
from distillspec_jax.decoding.sampling import SamplingParams
from distillspec_jax.distillation.stored_logprobs import likeliest
from distillspec_jax.errors import UsageError
from distillspec_jax.generation import request_files
from distillspec_jax.generation.pairing import Drafts
from distillspec_jax.generation.prompt_format import prompt_format, tokenizer_of
from distillspec_jax.generation.request_files import GenerationRequest
from distillspec_jax.generation.text_generator import Generation, TextGenerator
from distillspec_jax.models import fingerprints
from distillspec_jax.models.interface import width_of
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.new_folders import new_folder
from distillspec_jax.partitioning import Partitioner

_LEAST_WIDTH = 32
"""Tokens to which shorter prompts are padded where distributions are computed."""


@outputs.one_run
def collect(
    target: Pretrained,
    directory: str | Path,
    task: str,
    *,
    split: str = "train",
    limit: int | None = None,
    num_samples: int = 1,
    temperature: float | Sequence[float] = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    max_new_tokens: int | None = None,
    lengths: Mapping[str, int] | None = None,
    chat: bool = False,
    seed: int = 0,
    top_logprobs: int = 0,
    draft: Drafts = None,
    block_size: int | str = 5,
    batch_size: int = 8,
    shard: str | None = None,
    partitioner: Partitioner | None = None,
    progress: Callable[[DecodingProgress], None] | None = None,
    say: Callable[[str], None] = print,
) -> TargetSet:
    """Writes a set, or completes the one that is there.

    Args:
      target: whose texts.
      directory: of the set; see `data.target_set`.
      task, split, limit: the prompts: the first `limit` rows (all by default), cut as in training.
      num_samples: texts a prompt.
      temperature, top_k, top_p: of the distribution that is drawn from; several temperatures take turns, text
        by text.
      max_new_tokens: longest text; the target length by default.
      lengths: {"inputs", "targets"} in tokens, to which prompts are cut and texts are limited; default: the
        task's own.
      chat: wrap the prompts in the target's chat template.
      seed: of all draws.
      top_logprobs: store the target's distribution (at temperature 1) at every token: so many ids and the
        mass of the rest.
      draft, block_size, batch_size, partitioner: see `TextGenerator`; distributions are computed where the
        target is.
      shard: `I/N`, see `shards.parse`: write the I-th of N shares of the texts, whole files of distributions
        where they are stored; `merge_sets` makes one set of them.
      progress: called while texts are decoded.
      say: called with a line about each slow part.

    Raises:
      UsageError: an unknown task or split, an impossible number, no chat template, or a set of other texts in
        `directory`.
    """
    for name, value, least in (
        ("limit", limit, 1),
        ("num_samples", num_samples, 1),
        ("top_k", top_k, 0),
        ("top_logprobs", top_logprobs, 0),
    ):
        if value is not None and value < least:
            raise UsageError(f"{name} is {value}, must be at least {least}")
        bounds.check_most(name, value, bounds.SAMPLES if name == "num_samples" else bounds.COUNT)
    temperatures = [float(temperature)] if isinstance(temperature, (int, float)) else list(temperature)
    if not temperatures:
        raise UsageError("temperature names none: give at least one")
    if num_samples > len(temperatures) and 0 in temperatures:
        named = ", ".join(f"{one:g}" for one in temperatures)
        raise UsageError(
            f"num_samples is {num_samples} at temperature {named}, so that those of a prompt at 0 are equal: "
            f"ask for {len(temperatures)}"
        )
    known = min(target.model.vocab_size, tokenizer_of(target).vocab_size)
    if top_logprobs >= known:
        raise UsageError(
            f"top_logprobs is {top_logprobs}, must be below the {known} ids that the target knows"
        )
    SamplingParams(temperatures, top_k, top_p)  # refuses impossible values before anything is decoded
    rows = list(itertools.islice(catalog.read_rows(catalog.find_task(task), split), limit))
    if not rows:
        raise UsageError(f"task {task!r}: split {split!r} is empty")
    form = prompt_format(target, task=task, truncate=True, chat=chat)
    if lengths is not None:
        catalog.check_lengths(lengths)
        form = dataclasses.replace(form, max_tokens=lengths["inputs"], max_new_tokens=lengths["targets"])
    assert form.max_tokens is not None  # a task's
    longest = form.max_new_tokens if max_new_tokens is None else max_new_tokens
    if top_logprobs:
        logits = 2 * 4 * batch_size * longest * target.model.vocab_size  # and their logarithms
        memory.check(f"log-probabilities of batches of {batch_size:,} texts of {longest:,} tokens", logits)
    generator = TextGenerator(
        target, draft, form=form, block_size=block_size, batch_size=batch_size, partitioner=partitioner
    )
    header = Header(
        task=task,
        split=split,
        prefix=form.prefix,
        feature_lengths={"inputs": form.max_tokens, "targets": longest},
        rows=len(rows),
        samples=num_samples,
        temperature=temperatures if len(temperatures) > 1 else temperatures[0],
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        target=target.name,
        target_fingerprint=fingerprints.of_params(target.params),
        tokenizer_fingerprint=generator.tokenizer.fingerprint,
        logits=target.model.vocab_size,
        top_logprobs=top_logprobs,
        eos_ids=list(target.card.eos_ids),
        prompts_end_with_eos=form.reader.ends_with_eos,
        prompts_begin_with_eos=form.reader.begins_with_eos,
        chat=dict(target.card.chat) if chat else {},
    )
    asked = [
        GenerationRequest(row["inputs"], f"{task}:{split}:{number}", {"row": number, "sample": sample})
        for number, row in enumerate(rows)
        for sample in range(num_samples)
    ]
    root, share, part = Path(directory), range(len(asked)), None
    if shard is not None:
        own, texts_a_unit = shards.parse(shard), ROWS_A_SHARD if top_logprobs else 1
        what = f"files of {ROWS_A_SHARD} texts" if top_logprobs else "texts"
        units = own.of(-(-len(asked) // texts_a_unit), what)
        share = share[units.start * texts_a_unit : units.stop * texts_a_unit]
        settings = {name: value for name, value in dataclasses.asdict(header).items() if name != "target"}
        lines = {TEXTS_FILE: len(share)}
        part = shards.Part("collect", own.index, own.count, len(asked), lines, settings)
        root = own.folder(directory)
    root = outputs.place(root, folder=True)
    if part is not None:
        part.check(root)
    _check_same(root, header)
    model_card.take_folder(root, HEADER_FILE, generator.tokenizer.model_bytes)
    path = root / TEXTS_FILE
    if not path.is_file():
        done = request_files.finished(str(path), [asked[number] for number in share])
        numbers = share[done:]
        left = [asked[number] for number in numbers]
        # Nothing is decoded yet, but all is checked: what cannot be decoded leaves no set behind.
        texts = generator.stream(
            [request.inputs for request in left],
            temperature=[temperatures[number % len(temperatures)] for number in numbers],
            top_k=top_k,
            top_p=top_p,
            max_new_tokens=longest,
            seed=seed,
            names=[request.where for request in left],
            progress=progress,
            numbers=numbers,
        )
        if part is not None:
            part.begin(root)
        _open(root, header, generator.tokenizer.model_bytes)
        if done:
            say(f"resuming after {done} of {len(share)} texts")
        _write_texts(path, left, texts)
    if top_logprobs:
        # One width for all texts of the run, whichever of them this process has.
        widest = width_of([form.ids(row["inputs"], task) for row in rows])
        _write_logprobs(root, target, header, batch_size, {"inputs": widest, "targets": longest}, say)
    outputs.publish(root)
    return TargetSet(root)


def merge_sets(folders: Sequence[Path], directory: str | Path) -> TargetSet:
    """Makes one set of what all shards of a run wrote.

    Args:
      folders: as `shards.find` gives them.
      directory: of the set, which appears when it is whole.

    Raises:
      UsageError: a part whose files of distributions are missing, or a place that holds something.
    """
    first, parts = folders[0], [TargetSet(folder) for folder in folders]
    found = files.read_json(first / HEADER_FILE)
    provenance = found.get("provenance")
    if isinstance(provenance, dict) and "command" in provenance:
        provenance["command"] = shards.whole_command(provenance["command"])
    tokenizer = model_card.find_tokenizer(first)
    assert tokenizer is not None  # the set was read with it
    directory = outputs.place(directory, folder=True)
    with new_folder(directory) as root:
        with files.saving(directory):
            shutil.copyfile(tokenizer, root / tokenizer.name)
            shards.joined(folders, TEXTS_FILE, root / TEXTS_FILE)
            logprobs = [logprobs_file(part.directory, shard) for part in parts for shard in part.shards()]
            if logprobs:
                logprobs_file(root, 0).parent.mkdir()
            for number, path in enumerate(logprobs):
                shutil.copyfile(path, logprobs_file(root, number))
        files.write_json(root / HEADER_FILE, found)
    return TargetSet(directory)


def _check_same(root: Path, header: Header) -> None:
    """Refuses a folder that holds a set of other texts."""
    if not (root / HEADER_FILE).exists():
        return
    there, here = (dataclasses.asdict(one) for one in (read_header(root), header))
    del there["target"], here["target"]  # the same model may go by another name
    for name in here:
        if there[name] != here[name]:
            raise UsageError(
                f"{root} holds a set whose {name} is {there[name]!r} and not {here[name]!r}: "
                "choose another folder"
            )


def _open(root: Path, header: Header, tokenizer: bytes) -> None:
    """Writes the header and the vocabulary, unless they are there."""
    if (root / HEADER_FILE).exists():
        return
    files.write_whole(root / model_card.tokenizer_file(tokenizer), tokenizer)
    content = {"header": dataclasses.asdict(header), "provenance": provenance.of_process()}
    files.write_json(root / HEADER_FILE, content)


def _write_texts(path: Path, left: list[GenerationRequest], texts: Iterator[Generation]) -> None:
    with request_files.output_lines(str(path), resume=True) as write:
        for request, text in zip(left, texts, strict=True):
            if text.finish_reason == "failed":
                raise UsageError(f"{request.where}: the target's logits were not finite")
            line = {**request.extra, "inputs": text.inputs, "outputs": text.outputs, "tokens": text.tokens}
            write(files.as_json({**line, "finish_reason": text.finish_reason}))


def _write_logprobs(
    root: Path,
    target: Pretrained,
    header: Header,
    batch_size: int,
    lengths: Mapping[str, int],
    say: Callable[[str], None],
) -> None:
    """Writes every missing file of distributions; each text takes a forward pass of the target."""
    with files.saving(root):
        logprobs_file(root, 0).parent.mkdir(exist_ok=True)
    texts = TargetSet(root, with_logprobs=False)
    for shard in texts.shards():
        path = logprobs_file(root, shard)
        if path.is_file():
            continue
        first = shard * ROWS_A_SHARD
        numbers = list(range(first, min(first + ROWS_A_SHARD, len(texts.texts))))
        parts: dict[int, TopLogprobs] = {}
        # A text's own prompt decides how far it is padded, not the other texts.
        width_of_text = {number: _reading_width(texts.prompt_width(number), lengths) for number in numbers}
        for width in sorted(set(width_of_text.values())):
            alike = [number for number in numbers if width_of_text[number] == width]
            for i in range(0, len(alike), batch_size):
                batch = alike[i : i + batch_size]
                found = _distributions(target, texts, batch, batch_size, {**lengths, "inputs": width})
                parts |= zip(batch, found, strict=True)
        distributions = TopLogprobs(
            np.concatenate([parts[number].ids_NK for number in numbers]),
            np.concatenate([parts[number].log_p_NK for number in numbers]),
            np.concatenate([parts[number].log_tail_N for number in numbers]),
        )
        files.write_whole_by(path, functools.partial(logprob_files.write, distributions))
        outputs.publish(path)
    say(f"distributions of {header.top_logprobs} ids and the rest: {header.logprob_bytes} bytes a token")


def _reading_width(width: int, lengths: Mapping[str, int]) -> int:
    """Rounds a prompt's width up to a power of two: each width is a program to compile."""
    return min(max(_LEAST_WIDTH, 1 << (width - 1).bit_length()), lengths["inputs"])


def _distributions(
    target: Pretrained, texts: TargetSet, numbers: list[int], batch_size: int, lengths: Mapping[str, int]
) -> list[TopLogprobs]:
    """Computes the distributions at the N tokens of each of some texts, as they are stored."""
    filled = numbers + numbers[:1] * (batch_size - len(numbers))  # one shape, one compilation
    batch = texts.batch(filled, lengths)
    known = texts.reader.tokenizer.vocab_size
    found = likeliest(target.model, target.params, batch, texts.header.top_logprobs, known)
    ids_BTK, log_p_BTK = (np.asarray(x) for x in jax.device_get(found))
    real_BT = batch["decoder_loss_weights"] > 0
    return [
        TopLogprobs(
            ids_TK[real_T].astype(texts.header.id_type),
            log_p_TK[real_T, :-1].astype(np.float16),
            log_p_TK[real_T, -1].astype(np.float32),
        )
        for ids_TK, log_p_TK, real_T in zip(ids_BTK, log_p_BTK, real_BT, strict=True)
    ][: len(numbers)]
