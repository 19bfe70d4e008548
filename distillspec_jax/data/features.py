"""Batches of model features from seqio tasks, as numpy arrays under T5X's names.

    encoder_input_tokens    [B, T_inputs]   int32    prompt ids, EOS last, 0 pads (-1 if 0 is a token)
    decoder_input_tokens    [B, T_targets]  int32    targets shifted right, 0 first
    decoder_target_tokens   [B, T_targets]  int32    target ids, EOS last unless cut, 0 pads
    decoder_loss_weights    [B, T_targets]  float32  1 on targets (EOS too), 0 on padding

and, when several examples share a row (`pack`), int32 arrays of the same shapes `encoder_segment_ids`,
`encoder_positions`, `decoder_segment_ids` and `decoder_positions`: segments count from 1 with 0 for padding,
positions count from 0 in each segment.

The training stream is a pure function of (task, lengths, seed, step): a run that restarts at step n sees the
same batches as an uninterrupted run.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping

import numpy as np

from distillspec_jax import bounds
from distillspec_jax.data import catalog, packing, tasks
from distillspec_jax.data.examples import Example, examples
from distillspec_jax.data.tensorflow_setup import seqio, tf
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.tokenization.prompt_reader import Reader

__all__ = ["Batch", "Example", "eval_batches", "examples", "task_names", "train_batches"]

Batch = dict[str, np.ndarray]

SHUFFLE_BUFFER = 1 << 20
"""Splits with at most this many rows are held in memory as token ids and fully shuffled; larger or unsized
ones are streamed through a shuffle buffer of this many examples."""
TENSORFLOW_THREADS = 2
TENSORFLOW_PREFETCH = 256


def task_names() -> list[str]:
    """Lists every registered task and mixture."""
    return sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})


def train_batches(
    task_or_mixture: str,
    *,
    lengths: Mapping[str, int],
    batch_size: int,
    seed: int,
    pack: bool,
    start_step: int = 0,
    split: str = "train",
    shard: tuple[int, int] = (0, 1),
    reader: Reader | None = None,
) -> Iterator[Batch]:
    """Makes endless shuffled batches; each epoch of a task is a new permutation of all its rows.

    Args:
      task_or_mixture: a registered name; a mixture draws each example's task by the mixture's rates.
      lengths: {"inputs", "targets"} in tokens; longer examples are truncated (a prompt keeps its EOS).
      batch_size: rows per batch over all shards.
      seed: of the permutations and of the mixing.
      pack: put several short examples into one row.
      start_step: number of batches to skip.
      split: name of the split.
      shard: (index, count): this host takes its part of every task's rows, batch_size / count per batch.
      reader: of the texts; default: the tasks' own.

    Raises:
      UsageError: an unknown task or split, an empty split, a malformed line, or an invalid length, batch size
        or shard.
    """
    provider = _provider(task_or_mixture, reader, lengths)
    rows = _rows_per_shard(batch_size, shard)
    if start_step < 0 or seed < 0:
        raise UsageError(f"start_step is {start_step} and seed is {seed}; need at least 0")
    members = [_with_split(task, split) for task in seqio.get_subtasks(provider)]
    mixing_seed, *order_seeds = np.random.SeedSequence(seed).generate_state(1 + len(members)).tolist()
    streams = [
        _epochs(task, lengths, split, shard, order_seed)
        for task, order_seed in zip(members, order_seeds, strict=True)
    ]
    if isinstance(provider, seqio.Mixture):
        rates = np.array([provider.get_rate(task) for task in members])
        stream = tf.data.Dataset.sample_from_datasets(streams, weights=rates / rates.sum(), seed=mixing_seed)
    else:
        (stream,) = streams
    skipped = start_step * rows
    if pack:
        packed = packing.pack(_numpy(stream.prefetch(TENSORFLOW_PREFETCH)), lengths)
        return _batched(itertools.islice(packed, skipped, None), rows)
    features = _convert(stream.skip(skipped), lengths)
    batches = _numpy(features.batch(rows, drop_remainder=True).prefetch(2))
    return (_finished(batch, reader) for batch in batches)


def eval_batches(
    task: str,
    *,
    split: str,
    lengths: Mapping[str, int],
    batch_size: int,
    limit: int | None = None,
    reader: Reader | None = None,
) -> Iterator[Batch]:
    """Yields every example once, in order, unpacked; the last batch is padded with all-zero rows.

    A padding row has no loss weight, so sums of weighted losses ignore it. A row is real if its
    `decoder_loss_weights` have any weight. A mixture yields its tasks one after another.

    Args:
      task: a registered task or mixture.
      split: name of the split.
      lengths: {"inputs", "targets"} in tokens; longer examples are truncated (a prompt keeps its EOS).
      batch_size: rows per batch.
      limit: maximum number of examples, from the first.
      reader: see `train_batches`.

    Raises:
      UsageError: see `train_batches`.
    """
    provider = _provider(task, reader, lengths)
    rows = _rows_per_shard(batch_size, (0, 1))
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}; need at least 1 example")
    bounds.check_most("limit", limit, bounds.COUNT)
    members = [_with_split(member, split) for member in seqio.get_subtasks(provider)]
    streams = [_once(member, lengths, split) for member in members]
    stream = streams[0]
    for following in streams[1:]:
        stream = stream.concatenate(following)
    features = _convert(stream.take(-1 if limit is None else limit), lengths)
    return (_fill(_finished(batch, reader), rows) for batch in _numpy(features.batch(rows)))


def _provider(name: str, reader: Reader | None, lengths: Mapping[str, int]) -> seqio.Task | seqio.Mixture:
    tasks.register_known()
    if name not in task_names():
        raise UsageError(f"unknown task {name!r}: {nearest(name, task_names())}")
    catalog.check_lengths(lengths)
    if reader is not None:
        reader.prompt("", lengths["inputs"])  # a broken template fails here, not inside TensorFlow
        name = tasks.read_by(name, reader)
    return seqio.get_mixture_or_task(name)


def _with_split(task: seqio.Task, split: str) -> seqio.Task:
    if split not in task.splits:
        raise UsageError(f"task {task.name!r} has no split {split!r}: {nearest(split, task.splits)}")
    return task


def _rows_per_shard(batch_size: int, shard: tuple[int, int]) -> int:
    index, count = shard
    if not 0 <= index < count:
        raise UsageError(f"shard {index} of {count}: the index must lie in 0 .. count - 1")
    if batch_size < 1:
        raise UsageError(f"batch size is {batch_size}; need at least 1")
    bounds.check_most("batch size", batch_size, bounds.ROWS)
    if batch_size % count:
        raise UsageError(f"batch size {batch_size} on {count} hosts; take a multiple of {count}")
    return batch_size // count


def _once(
    task: seqio.Task, lengths: Mapping[str, int], split: str, shard: tuple[int, int] = (0, 1)
) -> tf.data.Dataset:
    """Makes one pass over a task in order: {"inputs", "targets"} token ids, truncated."""
    index, count = shard
    if missing := {"inputs", "targets"} - set(task.output_features):
        raise UsageError(f"task {task.name!r} has no feature {sorted(missing)[0]!r}; need inputs and targets")
    dataset = task.get_dataset(
        sequence_length=dict(lengths),
        split=split,
        shuffle=False,
        num_epochs=1,
        shard_info=seqio.ShardInfo(index=index, num_shards=count),
    )
    if _size(dataset) == 0:
        where = f" on shard {index} of {count}" if count > 1 else ""
        raise UsageError(f"task {task.name!r}: split {split!r} is empty{where}")
    return dataset.map(lambda row: {feature: row[feature] for feature in ("inputs", "targets")})


def _size(dataset: tf.data.Dataset) -> int | None:
    """Returns the number of elements, or None if the source does not know it."""
    size = int(dataset.cardinality())
    return size if size >= 0 else None


def _epochs(
    task: seqio.Task, lengths: Mapping[str, int], split: str, shard: tuple[int, int], seed: int
) -> tf.data.Dataset:
    """Makes endless passes over a task's rows, each in its own order.

    It shuffles before repeating: seqio repeats first, so a row may come twice before another comes once.
    """
    dataset = _once(task, lengths, split, shard)
    size = _size(dataset)
    if size is not None and size <= SHUFFLE_BUFFER:
        dataset = dataset.cache()
    return dataset.shuffle(min(size or SHUFFLE_BUFFER, SHUFFLE_BUFFER), seed=seed).repeat()


def _convert(stream: tf.data.Dataset, lengths: Mapping[str, int]) -> tf.data.Dataset:
    """Makes seqio's features with prompt ids one higher, so `_finished` can tell an id 0 from padding."""
    raised = stream.map(lambda row: {**row, "inputs": row["inputs"] + 1})
    return seqio.EncDecFeatureConverter(pack=False)(raised, dict(lengths))


def _numpy(dataset: tf.data.Dataset) -> Iterator[Batch]:
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = TENSORFLOW_THREADS
    options.threading.max_intra_op_parallelism = 1
    try:
        yield from dataset.with_options(options).as_numpy_iterator()
    except Exception as error:  # TensorFlow's, which quotes the error of a template or tokenizer
        if said := re.search(r"UsageError: (.*)", str(error)):
            raise UsageError(said[1]) from error
        raise


def _batched(rows: Iterator[Batch], size: int) -> Iterator[Batch]:
    while group := list(itertools.islice(rows, size)):
        yield {name: np.stack([row[name] for row in group]) for name in group[0]}


def _finished(batch: Batch, reader: Reader | None) -> Batch:
    """Fixes padding and weights for vocabularies without padding, in which the id 0 is a token.

    There, -1 pads prompts, and texts have weights up to their end (seqio: none on a 0). A prompt or a cut
    text that ends with 0 at the full width of its row has no padding after it and loses that 0.
    """
    pad = 0 if reader is None or reader.tokenizer.padding_ids else -1
    tokens_BT = batch["decoder_target_tokens"]
    slot_1T = np.arange(1, tokens_BT.shape[1] + 1)[None]
    length_B1 = np.max(np.where(tokens_BT > 0, slot_1T, 0), axis=1, keepdims=True)
    return {
        **batch,
        "encoder_input_tokens": np.maximum(batch["encoder_input_tokens"] - 1, pad),
        "decoder_loss_weights": (slot_1T <= length_B1).astype(np.float32),
    }


def _fill(batch: Batch, rows: int) -> Batch:
    missing = rows - len(batch["encoder_input_tokens"])
    return {name: np.pad(array, [(0, missing), (0, 0)]) for name, array in batch.items()}
