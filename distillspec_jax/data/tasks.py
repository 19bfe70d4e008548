"""The only place that registers seqio tasks: those of the catalog, a mixture, and a user's own JSON lines.

    inputs:  text -> prefix -> token ids -> truncate to length - 1 -> EOS    (as in T5)
    targets: text -> token ids -> EOS -> truncate to length    (T5 ends a truncated text with EOS, too)

unless a model reads prompts in another way (`prompt_reader.Reader`). Importing this module registers the
catalog without reading data. In a gin file, `jsonl_task` adds a task and `known_task` changes its vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distillspec_jax.buckets import copies
from distillspec_jax.data import catalog, text_metrics, tfds_provider
from distillspec_jax.data.task_spec import BRACES, PROMPT_GROUPS, TaskSpec
from distillspec_jax.data.tensorflow_setup import seqio, tf
from distillspec_jax.data.text_sources import Files, Tfds
from distillspec_jax.errors import UsageError
from distillspec_jax.tokenization.prompt_reader import Reader
from distillspec_jax.tokenization.tokenizer import Tokenizer

_Way = Callable[[str, int | None, bool], list[int]]
"""Maps a text, the most ids and whether the text is whole to ids."""


class TokenizerVocabulary(seqio.Vocabulary):
    """A `Tokenizer` as a seqio vocabulary, so training and serving share the same text -> ids code."""

    def __init__(self, tokenizer: Tokenizer):
        super().__init__(extra_ids=0)
        self.tokenizer = tokenizer

    @property
    def eos_id(self) -> int:
        return self.tokenizer.eos_id

    @property
    def unk_id(self) -> int:
        return self.tokenizer.unk_id

    @property
    def _base_vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    def _encode(self, s: str) -> Sequence[int]:
        return self.tokenizer.encode(s)

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        return _in_graph(lambda text, *_: self.tokenizer.encode(text), s)

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        def decode(row: np.ndarray) -> bytes:
            return self.tokenizer.decode(row).encode()

        return tf.numpy_function(decode, [ids], tf.string, stateful=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenizerVocabulary) and self.tokenizer == other.tokenizer

    def __hash__(self) -> int:
        return hash(self.tokenizer)


_ENDED = "ended"
"""A row's reference was not cut by who wrote it."""


def _source(spec: TaskSpec) -> seqio.DataSource:
    if isinstance(spec.source, Tfds):
        return tfds_provider.provider(spec.source.name, spec.source.data_dir, spec.source.slices)

    def rows(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        del shuffle_files, seed  # Always in file order; `features` shuffles.
        # Read eagerly, so a malformed line raises its own one-line error outside TensorFlow, and the number
        # of rows is known for shuffling.
        examples = list(catalog.read_rows(spec, split))
        columns = {
            name: tf.constant([row[name] for row in examples], tf.string) for name in ("inputs", "targets")
        }
        ended = [row.get(catalog.FINISH_REASON) != catalog.CUT for row in examples]
        return tf.data.Dataset.from_tensor_slices({**columns, _ENDED: tf.constant(ended, tf.bool)})

    return seqio.FunctionDataSource(rows, splits=tuple(spec.splits))


def _as_pairs(spec: TaskSpec) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """Extracts the two fields of a TFDS row, as `catalog.read_rows` does in Python."""

    def pair(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        assert spec.targets_field is not None  # every published task has references
        texts = {"inputs": _filled(row, spec.inputs_field), "targets": _filled(row, spec.targets_field)}
        if not spec.is_language_modelling:
            return texts
        return {
            feature: tf.strings.regex_replace(text, spec.prompt_pattern, PROMPT_GROUPS[feature])
            for feature, text in texts.items()
        }

    return lambda dataset: dataset.map(pair)


def _filled(row: Mapping[str, tf.Tensor], field: str) -> tf.Tensor:
    """Does the same as `catalog._field` in a graph, for a flat row."""
    parts = [field] if field in row else BRACES.split(field)
    return tf.strings.join([row[part] if i % 2 or len(parts) == 1 else part for i, part in enumerate(parts)])


def _as_ids(reader: Reader, prefix: str) -> Callable[..., tf.data.Dataset]:
    """Converts both texts of a row to ids, with the code that also serves prompts."""
    ways: Mapping[str, _Way] = {
        "inputs": lambda text, length, _: reader.prompt(prefix + text, length),
        "targets": lambda text, length, ended: reader.target(text, length, ended=ended),
    }

    def preprocess(dataset: tf.data.Dataset, sequence_length: Mapping[str, int] | None) -> tf.data.Dataset:
        def read(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return {
                name: _in_graph(way, row[name], (sequence_length or {}).get(name), row.get(_ENDED, True))
                for name, way in ways.items()
            }

        return dataset.map(read)

    return preprocess


def _in_graph(
    way: _Way, text: tf.Tensor, length: int | None = None, ended: tf.Tensor | bool = True
) -> tf.Tensor:
    def read(content: bytes | np.ndarray, ended: np.ndarray) -> np.ndarray:
        # Bytes in a graph, a scalar array in eager mode.
        content = content if isinstance(content, bytes) else content.item()
        return np.array(way(content.decode(), length, bool(ended)), np.int32)

    ids = tf.numpy_function(read, [text, ended], tf.int32, stateful=False)
    ids.set_shape([None])
    return ids


_registered: set[str] = set()


def register(spec: TaskSpec) -> str:
    """Adds `spec` to the catalog and to seqio's registry, once; returns its name.

    Raises:
      UsageError: another task or mixture has that name, or the vocabulary is missing or does not pad with 0.
    """
    reader = catalog.reader(spec)
    _check(spec, reader)
    taken = {*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()} - _registered
    if spec.name in taken:
        raise UsageError(f"task name {spec.name!r} is taken by another seqio task or mixture; choose another")
    catalog.add_task(spec)
    if spec.name not in _registered:
        _add(spec.name, spec, reader)
        _registered.add(spec.name)
    return spec.name


def _check(spec: TaskSpec, reader: Reader) -> None:
    tokenizer = reader.tokenizer
    if tokenizer.pad_id != 0:
        raise UsageError(
            f"task {spec.name!r}: its vocabulary pads with id {tokenizer.pad_id}; seqio needs id 0"
        )
    if tokenizer.eos_id == 0:
        raise UsageError(f"task {spec.name!r}: its vocabulary ends texts with id 0, which fills rows up here")


def _add(name: str, spec: TaskSpec, reader: Reader) -> None:
    vocabulary = TokenizerVocabulary(reader.tokenizer)
    metric = text_metrics.find_metric(spec.metric).corpus
    seqio.TaskRegistry.add(
        name,
        source=_source(spec),
        preprocessors=[
            *([_as_pairs(spec)] if isinstance(spec.source, Tfds) else []),
            _as_ids(reader, spec.prefix),
        ],
        output_features={
            feature: seqio.Feature(vocabulary, add_eos=True) for feature in ("inputs", "targets")
        },
        metric_fns=[metric] if metric else [],
    )


def read_by(name: str, reader: Reader) -> str:
    """Registers a catalog task, or the mixture, with another reader and returns its seqio name.

    Raises:
      UsageError: there is no such task, or the vocabulary does not pad with id 0.
    """
    mixed = name == catalog.EMBEDDED_MIXTURE
    rates = dict(catalog.EMBEDDED_MIXTURE_RATES) if mixed else {name: 1.0}
    specs = {member: catalog.find_task(member) for member in rates}
    if all(reader == catalog.reader(spec) for spec in specs.values()):
        return name
    suffix = f"_read_by_{reader.fingerprint}"
    for member, spec in specs.items():
        _check(spec, reader)
        if member + suffix in seqio.TaskRegistry.names():
            seqio.TaskRegistry.remove(member + suffix)  # its data location may have changed
        _add(member + suffix, spec, reader)
    if mixed:
        _add_mixture(name, suffix)
    return name + suffix


def register_known() -> None:
    """Registers the catalog's tasks and `embedded_mixture` without reading data; repeating it is harmless."""
    for spec in catalog.known_tasks():
        register(spec)
    if catalog.EMBEDDED_MIXTURE not in seqio.MixtureRegistry.names():
        _add_mixture(catalog.EMBEDDED_MIXTURE)


def _add_mixture(name: str, suffix: str = "") -> None:
    """Makes the mixture, anew if it is there: seqio keeps its members' tasks, not their names."""
    if name + suffix in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.remove(name + suffix)
    rates = catalog.EMBEDDED_MIXTURE_RATES.items()
    seqio.MixtureRegistry.add(name + suffix, [(member + suffix, rate) for member, rate in rates])


def jsonl_task(
    name: str,
    train_path: str,
    validation_path: str | None = None,
    test_path: str | None = None,
    inputs_field: str = "inputs",
    targets_field: str | None = "targets",
    prefix: str = "",
    inputs_length: int = 192,
    targets_length: int = 128,
    metric: str = "none",
    vocabulary_path: str | None = None,
    needs_prompt: bool = False,
    prompt_words: int | None = None,
) -> str:
    """Registers a task over a user's own JSON lines (.jsonl or .jsonl.gz) and returns its name.

    Args:
      name: the task's name, for MIXTURE_OR_TASK_NAME.
      train_path, validation_path, test_path: one file per split; None: there is no such split.
      inputs_field, targets_field: the JSON fields of the prompt and of the reference, or of a list of
        references; see `TaskSpec`. `targets_field` None: the rows are only prompts.
      prefix: prepended to every input.
      inputs_length, targets_length: default lengths in tokens, including EOS.
      metric: "rouge", "rouge2", "bleu", "number", "answer" or "none".
      vocabulary_path: a SentencePiece model with pad 0 and eos; default: the embedded vocabulary.
      needs_prompt: reject rows with an empty prompt.
      prompt_words: both fields are the same text, whose first words (this many) are the prompt.

    Raises:
      UsageError: a missing file, an unknown metric or one without references, a length below 2, a negative
        number of words, or a name that is taken or has invalid characters.
    """
    if not re.fullmatch(r"[\w.:]+", name):
        raise UsageError(f"task name {name!r}: use letters, digits, '_', '.' and ':' only")
    paths: Mapping[str, str | None] = {"train": train_path, "validation": validation_path, "test": test_path}
    splits = {split: copies.local(path) for split, path in paths.items() if path}
    for split, path in splits.items():
        if not path.is_file():
            raise UsageError(f"task {name!r}: {split}_path {str(path)!r} is not a file")
    if text_metrics.find_metric(metric).primary is not None and targets_field is None:
        raise UsageError(
            f"metric {metric!r} needs references: name their field by targets_field, or take 'none'"
        )
    _check_words(prompt_words)
    lengths = {"inputs": inputs_length, "targets": targets_length}
    catalog.check_lengths(lengths)
    return register(
        TaskSpec(
            name=name,
            description=f"JSON lines from {train_path}",
            prefix=prefix,
            inputs_field=inputs_field,
            targets_field=targets_field,
            source=Files.one_each(splits),
            metric=metric,
            feature_lengths=lengths,
            licence="the user's",
            vocabulary_path=Path(vocabulary_path) if vocabulary_path else None,
            needs_prompt=needs_prompt,
            prompt_words=prompt_words,
        )
    )


def _check_words(prompt_words: int | None) -> None:
    if prompt_words is not None and prompt_words < 0:
        raise UsageError(f"prompt_words is {prompt_words}, must be 0 (no prompt) or more")


def known_task(
    name: str,
    vocabulary_path: str | None = None,
    data_dir: str | None = None,
    prompt_words: int | None = None,
) -> str:
    """Reads a catalog task with another vocabulary or from another place; returns its name.

    Args:
      name: of the task.
      vocabulary_path: a SentencePiece model with pad 0 and eos, such as T5's, or the `tokenizer.model` of a
        checkpoint; default: the task's own.
      data_dir: the folder of TFDS data sets; default: $TFDS_DATA_DIR or ~/tensorflow_datasets.
      prompt_words: of a language-modelling task, see `TaskSpec`; default: the task's own.

    Raises:
      UsageError: there is no such task (names the nearest) or vocabulary file, or `prompt_words` is given for
        a task with a separate prompt field.
    """
    spec = catalog.find_task(name)
    changes: dict[str, Any] = {}
    if prompt_words is not None:
        _check_words(prompt_words)
        if not spec.is_language_modelling:
            raise UsageError(f"prompt_words is {prompt_words}, but task {name!r} has prompts of its own")
        changes["prompt_words"] = prompt_words
    if vocabulary_path is not None:
        Tokenizer.from_file(vocabulary_path)
        changes["vocabulary_path"] = Path(vocabulary_path)
    if data_dir is not None:
        changes["source"] = spec.source.at(Path(data_dir))
    if changes:
        if name in _registered:
            seqio.TaskRegistry.remove(name)
            _registered.remove(name)
        register(catalog.replace_task(name, **changes))
        if name in catalog.EMBEDDED_MIXTURE_RATES:
            _add_mixture(catalog.EMBEDDED_MIXTURE)
    return name


register_known()
