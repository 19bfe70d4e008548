"""The text of a run: a task's references or a target's own texts, and the tokenizer to read them with."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from distillspec_jax import model_card
from distillspec_jax.data import catalog
from distillspec_jax.data.length_window import length_sorted
from distillspec_jax.data.target_set import TargetSet
from distillspec_jax.data.text_sources import Files
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.models import fingerprints, pretrained
from distillspec_jax.tokenization.prompt_reader import Reader
from distillspec_jax.tokenization.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The text of a run.

    Attributes:
      mixture_or_task_name: a seqio task or mixture.
      feature_lengths: `{"inputs": tokens, "targets": tokens}`; None: the task's own.
      split: of the training data.
      pack: put several short examples into a row (supervised training only).
      eval_limit: number of held-out examples per task, from the start of `validation`. 0: none.
      target_set: a folder written by `distillspec collect`: train on the target's texts in it instead of the
        references. Their prompts must be the task's.
      held_out_set: such a folder for held-out data, instead of `validation`.
      with_logprobs: batches carry the distributions in these sets.
      tokenizer_of: the checkpoint directory, or `zoo:NAME`, whose tokenizer and prompt format read the text;
        None: those of the run's initial checkpoint, or else the task's own vocabulary.
      chat: wrap prompts in its chat template.
      length_window: number of batches whose rows are sorted by length together and truncated to the longest,
        see `length_window.length_sorted`; 0: every batch has the full width.
      samples_targets: texts sampled in a step replace the targets, whose width is kept.
    """

    mixture_or_task_name: str
    feature_lengths: Mapping[str, int] | None = None
    split: str = "train"
    pack: bool = False
    eval_limit: int = 96
    target_set: str | None = None
    held_out_set: str | None = None
    with_logprobs: bool = False
    tokenizer_of: str | None = None
    chat: bool = False
    length_window: int = 0
    samples_targets: bool = False

    @property
    def tasks(self) -> tuple[str, ...]:
        """The mixture's tasks, or the task itself.

        Raises:
          UsageError: there is no such task or mixture; names the nearest.
        """
        name = self.mixture_or_task_name
        if name == catalog.EMBEDDED_MIXTURE:
            return tuple(catalog.EMBEDDED_MIXTURE_RATES)
        try:
            return (catalog.find_task(name).name,)
        except UsageError:
            from distillspec_jax.data import features  # knows mixtures and every registered task

            raise UsageError(
                f"unknown task or mixture {name!r}: {nearest(name, features.task_names())}"
            ) from None

    @property
    def lengths(self) -> dict[str, int]:
        """Tokens per row of training data, by feature."""
        if self.feature_lengths is not None:
            catalog.check_lengths(self.feature_lengths)
            return dict(self.feature_lengths)
        specs = [catalog.find_task(task) for task in self.tasks]
        return {name: max(spec.feature_lengths[name] for spec in specs) for name in ("inputs", "targets")}

    def read_by(self, *parents: str | None) -> DataConfig:
        """Returns a copy that reads with the first parent's tokenizer, unless `tokenizer_of` is set."""
        given = [parent for parent in parents if parent is not None]
        if self.tokenizer_of is not None or not given:
            return self
        known = [parent for parent in given if pretrained.read_card(parent).tokenizer_fingerprint]
        return dataclasses.replace(self, tokenizer_of=[*known, *given][0])

    @property
    def reader(self) -> Reader:
        """The reader of the text; a target-generated set brings its own.

        Raises:
          UsageError: the checkpoint, set or chat template is missing.
        """
        return self._reader if self.texts is None else self.texts.reader

    @functools.cached_property
    def _reader(self) -> Reader:
        # A vocabulary given to the task takes precedence; `describe_run` then rejects a parent with another.
        spec = catalog.find_task(self.tasks[0])
        own = catalog.reader(spec)
        if self.tokenizer_of is None:
            if self.chat:
                raise UsageError("CHAT=True needs TOKENIZER_OF, whose chat template is used")
            return own
        card = pretrained.read_card(self.tokenizer_of)
        content = model_card.read_tokenizer(pretrained.resolve(self.tokenizer_of))
        known = spec.vocabulary_path is None or card.tokenizer_fingerprint == own.tokenizer.fingerprint
        tokenizer = Tokenizer.from_bytes(content, card.eos_ids) if content and known else own.tokenizer
        return Reader.of_card(card, tokenizer, chat=self.chat, name=self.tokenizer_of)

    def tokenizer(self) -> Tokenizer:
        """Returns the tokenizer that reads the text."""
        return self.reader.tokenizer

    def conventions(self) -> dict[str, Any]:
        """Returns the card's fields that describe the prompt format and the ends of texts."""
        card = None if self.tokenizer_of is None else pretrained.read_card(self.tokenizer_of)
        kept = {} if card is None else {name: getattr(card, name) for name in ("eos_ids", "chat")}
        return {
            **kept,
            "prompts_end_with_eos": self._reader.ends_with_eos,
            "prompts_begin_with_eos": self._reader.begins_with_eos,
        }

    @functools.cached_property
    def texts(self) -> TargetSet | None:
        """The target-generated set, checked against task, vocabulary and lengths; None without one.

        Raises:
          UsageError: the set is incomplete, does not match, or conflicts with other settings.
        """
        if self.target_set is None:
            return None
        if self.pack:
            raise UsageError(
                "DataConfig.pack=True: texts of a target-generated set are not packed; set it to False"
            )
        texts = self._open(self.target_set)
        if self.chat and texts.reader.chat is None:
            raise UsageError(
                f"CHAT=True, but {self.target_set} was written without a chat template: leave it out, or "
                "collect with --chat"
            )
        return texts

    @functools.cached_property
    def held_out_texts(self) -> TargetSet | None:
        """The held-out set, checked in the same way; its prompt format must be that of the training text.

        Raises:
          UsageError: see `texts`.
        """
        if self.held_out_set is None:
            return None
        texts = self._open(self.held_out_set)
        if texts.reader != self.reader:
            raise UsageError(
                f"{self.held_out_set} has prompts of another form (chat template, EOS) than the training "
                "text: collect both alike"
            )
        return texts

    def _open(self, directory: str) -> TargetSet:
        texts = TargetSet(directory, with_logprobs=self.with_logprobs)
        if self.with_logprobs and not texts.has_logprobs:
            raise UsageError(
                f"{directory} holds texts but no log-probabilities: collect with --top_logprobs=32, "
                "or give TARGET"
            )
        texts.check(self.mixture_or_task_name, self._reader.tokenizer, self.lengths)
        return texts

    def check(self) -> None:
        """Reads the data that is loaded fully anyway, to find errors: a target's texts, and files of rows.

        Raises:
          UsageError: see `texts`, `held_out_texts` and `catalog.read_rows`.
        """
        if self.texts is None:
            for spec in map(catalog.find_task, self.tasks):
                if not isinstance(spec.source, Files):  # a TFDS data set may be huge and is streamed
                    continue
                if not collections.deque(catalog.read_rows(spec, self.split), maxlen=1):
                    raise UsageError(f"task {spec.name!r}: split {self.split!r} is empty")
        _ = self.held_out_texts

    def check_references(self) -> None:
        """Rejects tasks without references, for training that uses references.

        Raises:
          UsageError: names the task.
        """
        for spec in map(catalog.find_task, self.tasks) if self.texts is None else ():
            if spec.targets_field is None:
                raise UsageError(
                    f"task {spec.name!r} has prompts and no references to learn from: let a target write "
                    "texts (`distillspec collect`, then TARGET_SET), or distil on sampled ones"
                )

    def fingerprint(self) -> str:
        """Computes a SHA-256 over the fingerprints of the tasks' sources, which `provenance` records."""
        digest = hashlib.sha256()
        if self.texts is not None:
            header, lines = (
                dataclasses.asdict(self.texts.header),
                [text["tokens"] for text in self.texts.texts],
            )
            return fingerprints.of_json([header, lines])
        for task in self.tasks:
            source = catalog.find_task(task).source
            if self.split in source.splits:
                digest.update(source.fingerprint(self.split))
        return digest.hexdigest()[:16]

    def train_batches(
        self, batch_size: int, seed: int, start_step: int = 0
    ) -> Iterator[dict[str, np.ndarray]]:
        """Makes a run's endless training stream, starting at a step.

        Every host reads all of it, so a step's batch does not depend on the number of hosts and a run can
        resume with more or fewer.
        """
        batches = functools.partial(self._train_batches, batch_size, seed)
        if not self.length_window:
            return batches(start_step)
        if self.pack:
            raise UsageError("LENGTH_WINDOW: packed rows are full already; set it to 0, or PACK=False")
        sides = ("inputs",) if self.samples_targets else ("inputs", "targets")
        return length_sorted(batches, start_step, self.length_window, seed, sides)

    def _train_batches(self, batch_size: int, seed: int, start_step: int) -> Iterator[dict[str, np.ndarray]]:
        if self.texts is not None:
            return self.texts.batches(
                lengths=self.lengths, batch_size=batch_size, seed=seed, start_step=start_step
            )
        from distillspec_jax.data import features  # imports TensorFlow, which a stored set does not need

        return features.train_batches(
            self.mixture_or_task_name,
            lengths=self.lengths,
            batch_size=batch_size,
            seed=seed,
            pack=self.pack,
            start_step=start_step,
            split=self.split,
            reader=self.reader,
        )

    def held_out_batches(self, batch_size: int) -> dict[str, list[dict[str, np.ndarray]]]:
        """Reads the first validation examples of each task that has some into unpacked batches.

        A mixture's tasks keep their own lengths.
        """
        if not self.eval_limit:
            return {}
        if self.held_out_set is not None:
            assert self.held_out_texts is not None
            batches = self.held_out_texts.once(
                lengths=self.lengths, batch_size=batch_size, limit=self.eval_limit
            )
            return {self.mixture_or_task_name: list(batches)}
        from distillspec_jax.data import features

        specs = [catalog.find_task(task) for task in self.tasks]
        return {
            spec.name: list(
                features.eval_batches(
                    spec.name,
                    split="validation",
                    lengths=spec.feature_lengths if len(specs) > 1 else self.lengths,
                    batch_size=batch_size,
                    limit=self.eval_limit,
                    reader=self.reader,
                )
            )
            for spec in specs
            if "validation" in spec.splits
        }
