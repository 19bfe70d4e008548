"""What `finetune` and `distill` share: the text, the checkpoint directory and its card, parameters."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from distillspec_jax import checkpoint
from distillspec_jax import metrics as metrics_lib
from distillspec_jax.checkpoint import ModelCard
from distillspec_jax.data import catalog
from distillspec_jax.data.reader import Reader
from distillspec_jax.data.target_set import TargetSet
from distillspec_jax.data.tokenizer import Tokenizer
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.models import fingerprints, pretrained, registry
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.models.registry import Network
from distillspec_jax.partitioning import Partitioner, sharded_init
from distillspec_jax.shapes import Params
from distillspec_jax.training import hosts
from distillspec_jax.training.loop import Batches, Evaluate, LoopConfig
from distillspec_jax.training.step import LossFn, evaluate

OptimizerFactory = Callable[[optax.Schedule], optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which text a run sees.

    Attributes:
      mixture_or_task_name: a seqio task or mixture.
      feature_lengths: `{"inputs": tokens, "targets": tokens}`; None: the task's own.
      split: of the training data.
      pack: several short examples in a row (supervised training only).
      eval_limit: held-out examples a task; the first ones of `validation`.
      target_set: a folder written by `distillspec collect`: train on the target's texts in it, instead of the
        references. Their prompts must be the task's.
      held_out_set: likewise for what is held out, in the place of `validation`.
      with_laws: batches carry the laws in these sets.
      tokenizer_of: the checkpoint directory, or `zoo:NAME`, whose tokenizer and form of prompts the text is
        read with; None: what the run starts from, or else the task's own vocabulary.
      chat: wrap prompts in its chat template.
    """

    mixture_or_task_name: str
    feature_lengths: Mapping[str, int] | None = None
    split: str = "train"
    pack: bool = False
    eval_limit: int = 96
    target_set: str | None = None
    held_out_set: str | None = None
    with_laws: bool = False
    tokenizer_of: str | None = None
    chat: bool = False

    @property
    def tasks(self) -> tuple[str, ...]:
        """The mixture's tasks, or the task itself.

        Raises:
          UsageError: no such task or mixture; names the nearest.
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
        """Tokens of a row of training data."""
        if self.feature_lengths is not None:
            catalog.check_lengths(self.feature_lengths)
            return dict(self.feature_lengths)
        specs = [catalog.find_task(task) for task in self.tasks]
        return {name: max(spec.feature_lengths[name] for spec in specs) for name in ("inputs", "targets")}

    def read_by(self, *parents: str | None) -> DataConfig:
        """The same text as the first parent that has a tokenizer reads it, unless told otherwise."""
        given = [parent for parent in parents if parent is not None]
        if self.tokenizer_of is not None or not given:
            return self
        known = [parent for parent in given if pretrained.read_card(parent).tokenizer_fingerprint]
        return dataclasses.replace(self, tokenizer_of=[*known, *given][0])

    @property
    def reader(self) -> Reader:
        """How the text is read; a set of a target's texts knows that itself.

        Raises:
          UsageError: no such checkpoint or set, or no chat template.
        """
        return self._reader if self.texts is None else self.texts.reader

    @functools.cached_property
    def _reader(self) -> Reader:
        # A vocabulary that the task was given comes first: `describe_run` then refuses a parent of another.
        spec = catalog.find_task(self.tasks[0])
        own = catalog.reader(spec)
        if self.tokenizer_of is None:
            if self.chat:
                raise UsageError("CHAT=True: nobody's chat template; give TOKENIZER_OF")
            return own
        card = pretrained.read_card(self.tokenizer_of)
        content = checkpoint.read_tokenizer(pretrained.resolve(self.tokenizer_of))
        known = spec.vocabulary_path is None or card.tokenizer_fingerprint == own.tokenizer.fingerprint
        tokenizer = Tokenizer.from_bytes(content, card.eos_ids) if content and known else own.tokenizer
        return Reader.of_card(card, tokenizer, chat=self.chat, name=self.tokenizer_of)

    def tokenizer(self) -> Tokenizer:
        """The vocabulary that the text is read with."""
        return self.reader.tokenizer

    def conventions(self) -> dict[str, Any]:
        """What a card tells of the form of prompts and of the end of texts, by field."""
        if self.tokenizer_of is None:
            return {}
        card = pretrained.read_card(self.tokenizer_of)
        return {name: getattr(card, name) for name in ("eos_ids", "prompts_end_with_eos", "chat")}

    @functools.cached_property
    def texts(self) -> TargetSet | None:
        """The target-generated set, checked against task, vocabulary and lengths; None without one.

        Raises:
          UsageError: no whole set, one that does not fit, or settings that it has no part in.
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
        """Likewise of what is held out; its prompts must have the form of those that are trained on.

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
        texts = TargetSet(directory, with_laws=self.with_laws)
        if self.with_laws and not texts.has_laws:
            raise UsageError(
                f"{directory} holds texts but no laws: collect with --law_ids=32, or give TARGET"
            )
        texts.check(self.mixture_or_task_name, self._reader.tokenizer, self.lengths)
        return texts

    def fingerprint(self) -> str:
        """sha256 over what every task's source says of its rows: what `provenance` remembers of the data."""
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

    def train_batches(self, loop: LoopConfig) -> Batches:
        """The training stream of a run, as `training.loop` wants it.

        Every host reads all of it, so that a step's batch does not depend on how many hosts there are and a
        run may go on with more or fewer.
        """

        def batches(start_step: int) -> Iterator[dict[str, np.ndarray]]:
            if self.texts is not None:
                return self.texts.batches(
                    lengths=self.lengths,
                    batch_size=loop.batch_size,
                    seed=loop.seed,
                    start_step=start_step,
                )
            from distillspec_jax.data import features  # TensorFlow, which a stored set does without

            return features.train_batches(
                self.mixture_or_task_name,
                lengths=self.lengths,
                batch_size=loop.batch_size,
                seed=loop.seed,
                pack=self.pack,
                start_step=start_step,
                split=self.split,
                reader=self.reader,
            )

        return batches

    def held_out_batches(self, batch_size: int) -> dict[str, list[dict[str, np.ndarray]]]:
        """The first validation examples of each task that has some, read at once, unpacked.

        A mixture's tasks keep their own lengths.
        """
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


def describe_run(model: Network, data: DataConfig, parents: Mapping[str, str], gin: str) -> ModelCard:
    """The card of a run that is about to start.

    Args:
      model: the network to be trained.
      data: its text.
      parents: role to checkpoint directory or `zoo:NAME`, of what the run starts from.
      gin: the bindings in force.

    Raises:
      UsageError: the model is too small for the text's vocabulary, or a parent has another one (a task
        that was given a vocabulary keeps it).
    """
    family, config = registry.describe(model)
    _ = data.held_out_texts  # refused before anything is written
    spec = catalog.find_task(data.tasks[0])
    tokenizer = data.tokenizer()
    if tokenizer.vocab_size > model.vocab_size:
        raise UsageError(
            f"the model's vocab_size {model.vocab_size} is smaller than the vocabulary of {spec.name!r} "
            f"({tokenizer.vocab_size} pieces): set vocab_size to at least that"
        )
    for role, parent in parents.items():
        known = pretrained.read_card(parent).tokenizer_fingerprint
        if known not in (None, tokenizer.fingerprint):
            raise UsageError(
                f"{role} {parent} was trained with another vocabulary than {spec.name!r} is read with "
                f"(tokenizer {known[:12]} against {tokenizer.fingerprint[:12]}): choose a task with its own"
            )
    return ModelCard(
        family=family,
        config=config,
        tokenizer_fingerprint=tokenizer.fingerprint,
        task=data.mixture_or_task_name,
        prefix=spec.prefix if len(data.tasks) == 1 else "",
        feature_lengths=data.lengths,
        provenance=checkpoint.provenance(
            gin=gin,
            parents=dict(parents),
            data={
                "name": data.mixture_or_task_name,
                "sha256": data.fingerprint(),
                "chat": data.reader.chat is not None,
            },
        ),
        **data.conventions(),
    )


def open_directory(directory: str | Path, card: ModelCard, tokenizer: bytes) -> Path:
    """Creates the run's directory, or checks that the one there belongs to the same run.

    Raises:
      UsageError: it holds another run (the first difference is named), or is one of the run's own parents.
    """
    root = Path(directory)
    if jax.process_index():
        hosts.wait("directory")  # until the first host has written it
    try:
        _open(root, card, tokenizer)
    finally:
        if not jax.process_index():
            hosts.wait("directory")
    return root


def _open(root: Path, card: ModelCard, tokenizer: bytes) -> None:
    for role, parent in card.provenance.get("parents", {}).items():
        if pretrained.resolve(parent).resolve() == root.resolve():
            raise UsageError(f"MODEL_DIR={root} is the {role} that the run starts from: choose another")
    if not (root / checkpoint.MODEL_FILE).exists():
        checkpoint.write_card(root, card, tokenizer)
        return
    there, here = _identity(checkpoint.read_card(root)), _identity(card)
    for name in here | there:  # in order
        if there.get(name) != here.get(name):
            raise UsageError(
                f"MODEL_DIR={root} holds another run, whose {name} is {there.get(name)!r} and not "
                f"{here.get(name)!r}: choose an empty one"
            )


def _identity(card: ModelCard) -> dict[str, Any]:
    """What may not change when a run goes on; steps, batch sizes and the like may."""
    parents = card.provenance.get("parents", {})
    return {
        "model family": card.family,
        **registry.normalise(card),
        "tokenizer": card.tokenizer_fingerprint,
        "task": card.task,
        **{f"{role} model": name for role, name in parents.items()},
    }


def initial_params(
    model: Network, partitioner: Partitioner, seed: int, initial_checkpoint: str | None
) -> tuple[Params, Params]:
    """Parameters (fresh, or from a checkpoint directory) and their shardings."""
    key = jax.random.key(seed)
    shardings = partitioner.parameters(jax.eval_shape(model.init, key))
    if initial_checkpoint is None:
        return sharded_init(partitioner, model.init, key), shardings
    directory = pretrained.resolve(initial_checkpoint)
    return checkpoint.load_params(directory, registry.shapes(model), shardings=shardings), shardings


def load(name: str, partitioner: Partitioner) -> tuple[Pretrained, Params]:
    """A model whose parameters are read straight into their shardings; and the shardings.

    Raises:
      UsageError: see `pretrained.load`.
    """
    card = pretrained.read_card(name)
    model = registry.build(card.family, card.config)
    shardings = partitioner.parameters(jax.eval_shape(model.init, jax.random.key(0)))
    return pretrained.load(name, shardings=shardings), shardings


def held_out_loss(
    loss_fn: LossFn, data: DataConfig, batch_size: int, partitioner: Partitioner
) -> Evaluate | None:
    """Parameters to `{task/metric: value}` on each task's validation split; None where there is none."""
    batches = data.held_out_batches(batch_size)
    if not batches:
        return None

    def run(params: Params) -> dict[str, float]:
        values: dict[str, float] = {}
        for task, of_task in batches.items():
            merged = evaluate(loss_fn, params, (partitioner.put_batch(batch) for batch in of_task))
            prefix = f"{task}/" if len(data.tasks) > 1 else ""
            values |= {prefix + name: value for name, value in metrics_lib.compute(merged).items()}
        return values

    return run
