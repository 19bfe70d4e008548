"""A checkpoint directory, loaded: network, parameters, card and tokenizer bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from distillspec_jax import checkpoint, model_card, new_folders, outputs, provenance
from distillspec_jax.buckets import copies
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.model_card import ModelCard
from distillspec_jax.models import checks, quantised, registry, shortlist, zoo_manifest
from distillspec_jax.models.interface import LanguageModel
from distillspec_jax.models.network import Network
from distillspec_jax.models.shortlist import Shortlisted
from distillspec_jax.partitioning import Partitioner
from distillspec_jax.shapes import Params

INT8 = "int8"
DTYPES = (*checks.DTYPES, INT8)
"""The types that a model can be loaded in."""


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model ready to use.

    Attributes:
      name: what the user called it (a directory or `zoo:NAME`, perhaps with `@DTYPE`); errors quote it.
      model: the network.
      params: its parameters, float32 unless `load` was asked otherwise.
      card: what the directory says of itself.
      tokenizer_bytes: the tokenizer's file, or None.
    """

    name: str
    model: Network
    params: Params = dataclasses.field(repr=False)
    card: ModelCard = dataclasses.field(repr=False)
    tokenizer_bytes: bytes | None = dataclasses.field(repr=False, default=None)

    @property
    def num_parameters(self) -> int:
        return checkpoint.count_parameters(self.params)

    @property
    def dtype(self) -> str:
        """The dtype of activations that it was loaded in, or `int8`."""
        return INT8 if self.model.int8 else str(self.model.config.dtype)

    @property
    def as_draft(self) -> LanguageModel:
        """The network as it drafts, with these parameters: on its shortlist, where it has one."""
        return Shortlisted(self.model, tuple(self.card.shortlist)) if self.card.shortlist else self.model

    def cost_ratio(self, target: Pretrained, block_size: int = 1) -> float:
        """c: bytes that a drafted token reads of this draft's parameters, over the target's.

        Those that its shortlist spares are not read, and a one-pass draft reads the others once a block.
        """
        call = self._bytes(shortlist.spared(self.model, len(self.card.shortlist))) / target._bytes()
        return call if self.card.mask_id is None else call / block_size

    def _bytes(self, spared: int = 0) -> float:
        """Bytes of all parameters, less those of so many weights of the projection to logits."""
        leaves = jax.tree.leaves(self.params)
        whole = sum(leaf.nbytes for leaf in leaves) * (1 - spared / self.num_parameters)
        if not self.model.int8:
            return whole
        return whole - (quantised.num_weights(self.params) - spared) * (leaves[0].itemsize - 1)


def load(
    name: str,
    step: int | None = None,
    partitioner: Partitioner | None = None,
    dtype: str | None = None,
    attention: str = "plain",
) -> Pretrained:
    """Loads a checkpoint directory or a model of the zoo.

    Args:
      name: a directory, or `zoo:TASK/target` and the like (`distillspec zoo` lists them); `@DTYPE` at its end
        gives it a dtype of its own.
      step: which checkpoint; the newest by default.
      partitioner: parameters are read straight into its shardings; the first device by default.
      dtype: of parameters, activations and caches, for decoding: `bfloat16` halves what a token reads on an
        accelerator. Logits, norms and sampling stay in float32. `int8` rounds the decoder's kernels to eight
        bits, in which a CPU reads them for few rows (`quantised.py`); activations stay as the card says, as
        they do, beside float32 parameters, by default.
      attention: over whole sequences, prompts for one, see `attention.KERNELS`.

    Raises:
      UsageError: no such model, dtype or finished checkpoint, a configuration that no network can have or no
        memory can hold, parameters that contradict it.
    """
    directory = resolve(name)
    card = read_card(name)
    dtype = split(name)[1] or dtype
    if dtype not in (None, *DTYPES):
        raise UsageError(f"dtype: unknown {dtype!r}: {nearest(dtype, DTYPES)}")
    model = network(name, card, **({} if dtype in (None, INT8) else {"dtype": dtype}))
    model = dataclasses.replace(model, attention=attention)
    registry.check_fits(model, name, 1 if partitioner is None else partitioner.mesh.size)
    shardings = None if partitioner is None else registry.shardings(model, partitioner)
    params = checkpoint.load_params(directory, registry.shapes(model), step, shardings)
    if dtype == INT8:
        model, params = dataclasses.replace(model, int8=True), quantised.rounded(params)
    elif dtype is not None:
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    return Pretrained(name, model, params, card, model_card.read_tokenizer(directory))


def network(name: str, card: ModelCard, **other: Any) -> Network:
    """The network that a model's card describes, without parameters.

    Args:
      other: fields of its configuration, in place of the card's.

    Raises:
      UsageError: no network can have such a configuration.
    """
    return registry.build(card.family, card.config | other, str(resolve(name) / model_card.MODEL_FILE))


def with_shortlist(draft: Pretrained, ids: Sequence[int], texts: str) -> Pretrained:
    """The draft that proposes these ids alone; its own provenance stays.

    Args:
      texts: where the ids are from.
    """
    step = checkpoint.latest_step(resolve(draft.name)) or 0
    listed = provenance.of_process(draft=draft.name, step=step, texts=texts)
    made = draft.card.provenance | {"shortlist": listed}
    return dataclasses.replace(
        draft, card=dataclasses.replace(draft.card, shortlist=list(ids), provenance=made)
    )


def save(model: Pretrained, directory: str) -> Pretrained:
    """Writes a new checkpoint directory.

    Raises:
      UsageError: it holds something already.
    """
    with new_folders.new_folder(outputs.place(directory, folder=True)) as folder:
        model_card.write_card(folder, model.card, model.tokenizer_bytes)
        checkpoint.save_params(folder, 0, model.params)
    return dataclasses.replace(model, name=directory)


def split(name: str) -> tuple[str, str | None]:
    """`MODEL@DTYPE` in its two parts; None for a name without a dtype, or for a folder that exists."""
    model, at, dtype = name.rpartition("@")
    return (model, dtype) if at and "/" not in dtype and not Path(name).is_dir() else (name, None)


def resolve(name: str) -> Path:
    """The directory behind a name; of a model in a bucket, that of its copy."""
    name, _ = split(name)
    if zoo_manifest.is_zoo_name(name):
        return zoo_manifest.directory(name)
    return copies.local(name, model=True)


def read_card(name: str) -> ModelCard:
    """Reads the card of a directory or of a model of the zoo.

    Raises:
      UsageError: no such model (names the nearest of either kind), or no card of ours.
    """
    directory = resolve(name)
    name, _ = split(name)
    if not directory.is_dir():
        beside = [str(card.parent) for card in directory.parent.glob(f"*/{model_card.MODEL_FILE}")]
        near = nearest(name, [*beside, *zoo_manifest.names()])
        raise UsageError(f"{name} is not a checkpoint directory (no such folder): {near}")
    card = model_card.read_card(directory)
    outputs.reads(directory, name)
    ids = (
        zoo_manifest.shortlists().get(name.removeprefix(zoo_manifest.PREFIX))
        if zoo_manifest.is_zoo_name(name)
        else None
    )
    return card if ids is None else dataclasses.replace(card, shortlist=ids)


def check_pair(
    target: Pretrained,
    draft: Pretrained,
    assume_same_vocabulary: bool = False,
    roles: tuple[str, str] = ("target", "draft"),
) -> None:
    """Refuses a draft whose token ids mean something else than its target's.

    Args:
      roles: what the message calls the two.

    Raises:
      UsageError: the fingerprints differ, or one is unknown and the caller does not vouch for it.
    """
    prints = target.card.tokenizer_fingerprint, draft.card.tokenizer_fingerprint
    check_vocabularies((target.name, draft.name), prints, assume_same_vocabulary, roles)


def check_vocabularies(
    names: tuple[str, str],
    fingerprints: tuple[str | None, str | None],
    assume_same: bool = False,
    roles: tuple[str, str] = ("target", "draft"),
) -> None:
    """As `check_pair`, of the names and the tokenizers' fingerprints alone."""
    ours, theirs = fingerprints
    if ours is not None and theirs is not None:
        if ours != theirs:
            raise UsageError(
                f"{roles[1]} {names[1]} has another vocabulary than {roles[0]} {names[0]} "
                f"(tokenizer {theirs[:12]} against {ours[:12]}): "
                "use a draft trained with the target's tokenizer"
            )
    elif not assume_same:
        unknown = names[1] if theirs is None else names[0]
        raise UsageError(
            f"the vocabulary of {unknown} is unknown (no tokenizer in its checkpoint): "
            "pass --assume_same_vocabulary if you are sure that it is the other's"
        )
