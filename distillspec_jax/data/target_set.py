"""A target's own texts on the prompts of a task, written once and learnt from many times. No TensorFlow here.

    DIR/set.json          whose texts, of what task, under which distribution (`Header`)
    DIR/tokenizer.model   the vocabulary of the ids (tokenizer.json, if it is of that kind)
    DIR/texts.jsonl       {"inputs", "outputs", "tokens", "row", "sample", "finish_reason"} a text; `tokens`
                          are the ids as the target emitted them
    DIR/logprobs/NUMBER.npz   optional, `ROWS_A_SHARD` texts each: the target's distribution at every token,
                          as its k likeliest ids and the mass of the others (`TopLogprobs`)

`distillation/collect.py` writes it; `texts.jsonl` is read by `tasks/jsonl.gin`, too.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from distillspec_jax import files, model_card, outputs, schema
from distillspec_jax.buckets import copies
from distillspec_jax.data import logprob_files
from distillspec_jax.data.logprob_files import ROWS_A_SHARD, TopLogprobs, logprobs_file
from distillspec_jax.errors import UsageError, nearest, shown
from distillspec_jax.models.interface import padded_prompts, shift_right, width_of
from distillspec_jax.tokenization.prompt_reader import Reader, chat_template
from distillspec_jax.tokenization.tokenizer import Tokenizer

HEADER_FILE, TEXTS_FILE = "set.json", "texts.jsonl"

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Header:
    """A set's description of itself; a set is only ever added to under an equal one.

    Attributes:
      task, split: the prompts.
      prefix: put before every input.
      feature_lengths: {"inputs", "targets"} in tokens: longer prompts were cut, longer texts ended there.
      rows: prompts.
      samples: texts a prompt.
      temperature, top_k, top_p, seed: of the distribution that the texts were drawn from; several
        temperatures take turns, text by text.
      target: the name under which the target was loaded.
      target_fingerprint: of its parameters.
      tokenizer_fingerprint: of the vocabulary.
      logits: width of the target's logits, padded ids included.
      top_logprobs: k, how many log-probabilities are stored for every token; 0: none.
      eos_ids, prompts_end_with_eos, prompts_begin_with_eos, chat: see `model_card.ModelCard`; `chat` is empty
        where no template was used.

    Raises:
      UsageError: lengths, ids or a number of log-probabilities that no set can have; named by the field.
    """

    task: str
    split: str
    prefix: str
    feature_lengths: dict[str, schema.Size]
    rows: schema.Count
    samples: schema.Count
    temperature: schema.Amount | list[schema.Amount]
    top_k: schema.Count
    top_p: schema.Share
    seed: int
    target: str
    target_fingerprint: str
    tokenizer_fingerprint: str
    logits: schema.Size
    top_logprobs: schema.Count
    eos_ids: list[schema.Id] = dataclasses.field(default_factory=list)
    prompts_end_with_eos: bool = True
    prompts_begin_with_eos: bool = False
    chat: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for feature in ("inputs", "targets"):
            if feature not in self.feature_lengths:
                near = nearest(feature, self.feature_lengths)
                raise UsageError(f"field feature_lengths: it has no {feature!r}: {near}")
        if self.top_logprobs >= self.logits:
            raise UsageError(f"field top_logprobs: {self.top_logprobs} of {self.logits} ids are all of them")
        model_card.check_ids("eos_ids", self.eos_ids, self.logits)
        model_card.check_chat(self.chat)

    @property
    def id_type(self) -> type[np.unsignedinteger]:
        """The smallest type of a stored id."""
        return np.uint16 if self.logits <= 1 << 16 else np.uint32

    @property
    def logprob_bytes(self) -> int:
        """Bytes of one token's distribution: k ids, k half-precision logarithms, a single-precision one."""
        return self.top_logprobs * (np.dtype(self.id_type).itemsize + 2) + 4 if self.top_logprobs else 0


class TargetSet:
    """A set on disk, whole and checked.

    Args:
      directory: of the set, which may be in a bucket.
      with_logprobs: its log-probabilities, where it has any, must be there and are part of the batches.

    Raises:
      UsageError: no set, an unfinished one, or a damaged line (by file and line).
    """

    def __init__(self, directory: str | Path, *, with_logprobs: bool = True):
        self.directory = directory = copies.local(str(directory))
        outputs.reads(directory)
        self.header = read_header(directory)
        self.reader = self._reader()
        path = self.directory / TEXTS_FILE
        if not path.is_file():
            raise UsageError(f"{directory} is not finished (no {TEXTS_FILE}): run the same `collect` again")
        self.texts = read_texts(path, self.header.logits)
        self.has_logprobs = with_logprobs and self.header.top_logprobs > 0
        missing = [shard for shard in self.shards() if not logprobs_file(directory, shard).is_file()]
        if self.has_logprobs and missing:
            raise UsageError(
                f"{logprobs_file(directory, missing[0])} is missing: run the same `collect` again to "
                "complete it"
            )

    def _reader(self) -> Reader:
        header = self.header
        path = model_card.find_tokenizer(self.directory) or self.directory / model_card.SENTENCEPIECE_FILE
        tokenizer = Tokenizer.from_file(path, header.eos_ids)
        if tokenizer.fingerprint != header.tokenizer_fingerprint:
            raise UsageError(f"{path}: not the vocabulary that {HEADER_FILE} names")
        template = chat_template(header.chat, str(self.directory))
        return Reader(tokenizer, header.prompts_end_with_eos, template, header.prompts_begin_with_eos)

    def shards(self) -> range:
        """Numbers of the files of log-probabilities."""
        return range(-(-len(self.texts) // ROWS_A_SHARD) if self.header.top_logprobs else 0)

    @functools.cached_property
    def longest(self) -> dict[str, int]:
        """{"inputs", "targets"}: tokens of the longest prompt and of the longest text.

        An id 0 at a prompt's end counts twice (`width_of`).
        """
        return {
            "inputs": max(map(self.prompt_width, range(len(self.texts)))),
            "targets": max(len(text["tokens"]) for text in self.texts),
        }

    def prompt_width(self, row: int) -> int:
        """The smallest width of a batch that holds a text's prompt."""
        return width_of([self._prompt(self.texts[row])])

    def check(self, task: str, tokenizer: Tokenizer, lengths: Mapping[str, int]) -> None:
        """Refuses a run that would read these texts as something else.

        Raises:
          UsageError: another task or vocabulary, or rows too short for a prompt or a text.
        """
        header = self.header
        if header.task != task:
            raise UsageError(f"{self.directory} holds texts of task {header.task!r}, not of {task!r}")
        if tokenizer.fingerprint != header.tokenizer_fingerprint:
            raise UsageError(
                f"{self.directory} was written with another vocabulary than {task!r} is read with "
                f"(tokenizer {header.tokenizer_fingerprint[:12]} against {tokenizer.fingerprint[:12]})"
            )
        for feature, length in self.longest.items():
            if length > lengths[feature]:
                raise UsageError(
                    f"{self.directory} has {feature} of {length} tokens, "
                    f"TASK_FEATURE_LENGTHS[{feature!r}] is {lengths[feature]}: raise it to {length}"
                )

    def batches(
        self,
        *,
        lengths: Mapping[str, int],
        batch_size: int,
        seed: int,
        start_step: int = 0,
    ) -> Iterator[Batch]:
        """Endless shuffled batches, each epoch a new permutation; a function of (seed, step) alone.

        The features are those of `data.features`, prompts padded with -1; with log-probabilities, also
        `top_ids` [B, T, K] int32, `top_logprobs` [B, T, K] and `tail_logprob` [B, T] float32, padded with a
        distribution that gives the tail all its mass.

        Args:
          lengths: {"inputs", "targets"} in tokens.
          batch_size: rows of a batch.
          seed: of the permutations.
          start_step: batches to skip.
        """
        position = start_step * batch_size
        while True:
            rows = [self._row_at(position + i, seed) for i in range(batch_size)]
            yield self.batch(rows, lengths)
            position += batch_size

    def once(
        self, *, lengths: Mapping[str, int], batch_size: int, limit: int | None = None
    ) -> Iterator[Batch]:
        """The first `limit` texts once, in order; the last batch is filled up with all-zero rows."""
        rows = list(range(len(self.texts)))[:limit]
        for first in range(0, len(rows), batch_size):
            part = rows[first : first + batch_size]
            missing = batch_size - len(part)
            yield {
                name: np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))
                for name, array in self.batch(part, lengths).items()
            }

    def batch(self, rows: list[int], lengths: Mapping[str, int]) -> Batch:
        """The features of some texts; see `batches`."""
        prompts = [self._prompt(self.texts[row]) for row in rows]
        target_BT = np.zeros((len(rows), lengths["targets"]), np.int32)
        weight_BT = np.zeros(target_BT.shape, np.float32)
        for i, row in enumerate(rows):
            tokens = self.texts[row]["tokens"]
            target_BT[i, : len(tokens)] = tokens
            weight_BT[i, : len(tokens)] = 1.0
        found = {
            "encoder_input_tokens": padded_prompts(prompts, lengths["inputs"]),
            "decoder_input_tokens": shift_right(target_BT),
            "decoder_target_tokens": target_BT,
            "decoder_loss_weights": weight_BT,
        }
        return found | self._logprobs(rows, lengths["targets"]) if self.has_logprobs else found

    def _logprobs(self, rows: list[int], width: int) -> Batch:
        shape = (len(rows), width, self.header.top_logprobs)
        ids_BTK = np.broadcast_to(
            np.arange(shape[2], dtype=np.int32), shape
        ).copy()  # distinct, as real ones are
        log_p_BTK = np.full(shape, -np.inf, np.float32)
        log_tail_BT = np.zeros(shape[:2], np.float32)
        for i, row in enumerate(rows):
            logprobs, bounds = self._shard(row // ROWS_A_SHARD)
            start, stop = bounds[row % ROWS_A_SHARD : row % ROWS_A_SHARD + 2]
            count = stop - start
            ids_BTK[i, :count] = logprobs.ids_NK[start:stop]
            log_p_BTK[i, :count] = logprobs.log_p_NK[start:stop]
            log_tail_BT[i, :count] = logprobs.log_tail_N[start:stop]
        return {"top_ids": ids_BTK, "top_logprobs": log_p_BTK, "tail_logprob": log_tail_BT}

    def logprobs(self) -> Iterator[TopLogprobs]:
        """Yields the stored log-probabilities of all texts, file by file; nothing where there are none."""
        return (self._shard(shard)[0] for shard in (self.shards() if self.has_logprobs else ()))

    @functools.lru_cache(maxsize=64)  # noqa: B019 (a set lives as long as the run that reads it)
    def _shard(self, shard: int) -> tuple[TopLogprobs, np.ndarray]:
        texts = self.texts[shard * ROWS_A_SHARD : (shard + 1) * ROWS_A_SHARD]
        bounds = np.cumsum([0, *(len(text["tokens"]) for text in texts)])
        header, known = self.header, self.reader.tokenizer.vocab_size  # padded rows are never stored
        path, count = logprobs_file(self.directory, shard), header.top_logprobs
        return logprob_files.read(path, int(bounds[-1]), count, known, header.logprob_bytes), bounds

    def _row_at(self, position: int, seed: int) -> int:
        epoch, index = divmod(position, len(self.texts))
        return int(self._order(seed, epoch)[index])

    @functools.lru_cache(maxsize=2)  # noqa: B019
    def _order(self, seed: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(len(self.texts))

    def _prompt(self, text: Mapping[str, Any]) -> list[int]:
        header = self.header
        return self.reader.prompt(header.prefix + text["inputs"], header.feature_lengths["inputs"])


def read_header(directory: str | Path) -> Header:
    """The header of a set.

    Raises:
      UsageError: there is none, or it is not one of ours.
    """
    path = Path(directory) / HEADER_FILE
    if not path.is_file():
        raise UsageError(
            f"{directory} holds no target-generated set (no {HEADER_FILE}): write one with `collect`"
        )
    what = "the header of a target-generated set"
    fields: Any = schema.read_object(path, what).get("header")
    if isinstance(fields, dict) and "law_ids" in fields:  # its name in 0.1
        fields["top_logprobs"] = fields.pop("law_ids")
    found = schema.read(Header, fields, str(path), what)
    known = {field.name for field in dataclasses.fields(Header)}
    for name in sorted(fields.keys() - known):  # a condition that texts would be added without
        raise UsageError(f"{path}: unknown field {shown(name)}: {nearest(name, known)}")
    return found


@dataclasses.dataclass(frozen=True)
class _Text:
    """The fields of a line that are read again."""

    inputs: str
    tokens: Annotated[list[schema.Id], msgspec.Meta(min_length=1)]


def read_texts(path: Path, logits: int) -> list[dict[str, Any]]:
    """The lines of `texts.jsonl`.

    Args:
      logits: ids are below it.

    Raises:
      UsageError: names the file and line of one that is not as it was written.
    """
    texts = []
    for place, text in files.json_lines(files.read_lines(path), path):
        schema.read(_Text, text, place, "a line of a target-generated set")
        if (largest := max(text["tokens"])) >= logits:
            raise UsageError(f"{place}: field tokens: {largest} is not in the vocabulary of {logits}")
        texts.append(text)
    if not texts:
        raise UsageError(f"{path} is empty")
    return texts


def token_mass(texts: TargetSet) -> np.ndarray:
    """Averages the distributions at all tokens of a set, as far as they are known: `[V]`, of sum 1 or less.

    The stored top-k log-probabilities count, without the mass that they keep for all other ids together; in a
    set without any, each token counts 1. A draft's shortlist is made of it.
    """
    mass_V, tokens = np.zeros(texts.header.logits), 0
    for distribution in texts.logprobs():
        np.add.at(mass_V, distribution.ids_NK, np.exp(distribution.log_p_NK.astype(np.float64)))
        tokens += len(distribution.ids_NK)
    if not tokens:
        for text in texts.texts:
            np.add.at(mass_V, text["tokens"], 1.0)
            tokens += len(text["tokens"])
    return mass_V / tokens


def heaviest(mass_V: np.ndarray, count: int, always: Sequence[int] = ()) -> list[int]:
    """Picks `count` ids, ascending: those of `always`, then the heaviest; the lowest of equal ones.

    Raises:
      UsageError: not fewer than all ids, or too few for `always`.
    """
    least, all_ids = max(len(always), 1), len(mass_V)
    if not least <= count < all_ids:
        raise UsageError(f"--shortlist={count}: must be at least {least} and below {all_ids}, all ids")
    order = np.argsort(-mass_V, kind="stable")
    rest = order[~np.isin(order, always)]
    return sorted({*always, *rest[: count - len(always)].tolist()})
