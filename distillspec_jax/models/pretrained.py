"""Loads and saves checkpoint directories: network, parameters, card and tokenizer bytes."""

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
"""The dtypes in which a model can be loaded."""


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model ready to use.

    Attributes:
      name: the user's name for it (a directory or `zoo:NAME`, perhaps with `@DTYPE`); errors quote it.
      model: the network.
      params: its parameters, float32 unless `load` got another dtype.
      card: the directory's model card.
      tokenizer_bytes: the contents of the tokenizer's file, or None.
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
        """The dtype of the activations, or `int8`."""
        return INT8 if self.model.int8 else str(self.model.config.dtype)

    @property
    def as_draft(self) -> LanguageModel:
        """The network for drafting with these parameters: restricted to its shortlist, if it has one."""
        return Shortlisted(self.model, tuple(self.card.shortlist)) if self.card.shortlist else self.model

    def cost_ratio(self, target: Pretrained, block_size: int = 1) -> float:
        """Computes c: the draft's parameter bytes read per drafted token, divided by the target's bytes.

        Bytes that the shortlist saves do not count, and a one-pass draft reads the others once per block.
        """
        call = self._bytes(shortlist.spared(self.model, len(self.card.shortlist))) / target._bytes()
        return call if self.card.mask_id is None else call / block_size

    def _bytes(self, spared: int = 0) -> float:
        """Counts the bytes of all parameters except `spared` weights of the projection to logits."""
        leaves = jax.tree.leaves(self.params)
        whole = sum(leaf.nbytes for leaf in leaves) * (1 - spared / self.num_parameters)
        if not self.model.int8:
            return whole
        return whole - (quantised.num_weights(self.params) - spared) * (leaves[0].itemsize - 1)


def load(
    name: str | Path,
    step: int | None = None,
    partitioner: Partitioner | None = None,
    dtype: str | None = None,
    attention: str = "plain",
) -> Pretrained:
    """Loads a checkpoint directory or a model of the zoo.

    Args:
      name: a directory, or a zoo name such as `zoo:TASK/target` (`distillspec zoo` lists them); a suffix
        `@DTYPE` sets the dtype of this model.
      step: which checkpoint; the newest by default.
      partitioner: parameters are read directly into its shardings; the first device by default.
      dtype: dtype of parameters, activations and caches, for decoding: `bfloat16` halves the bytes per token
        on an accelerator. Logits, norms and sampling stay in float32. `int8` rounds the decoder's kernels to
        8 bits, which a CPU reads directly for few rows (`quantised.py`); activations keep the card's dtype.
        By default parameters are float32 and activations have the card's dtype.
      attention: kernel for whole sequences, such as prompts, see `attention.KERNELS`.

    Raises:
      UsageError: there is no such model, dtype or finished checkpoint; the configuration is invalid or does
        not fit in memory; or the parameters do not match it.
    """
    name = str(name)
    directory = resolve(name)
    card = read_card(name)
    dtype = split(name)[1] or dtype
    if dtype not in (None, *DTYPES):
        raise UsageError(f"dtype: unknown {dtype!r}: {nearest(dtype, DTYPES)}")
    model = network(name, card, **({} if dtype in (None, INT8) else {"dtype": dtype}))
    model = dataclasses.replace(model, attention=attention)
    registry.check_fits(model, name, partitioner)
    shardings = None if partitioner is None else registry.shardings(model, partitioner)
    params = checkpoint.load_params(directory, registry.shapes(model), step, shardings)
    if dtype == INT8:
        model, params = dataclasses.replace(model, int8=True), quantised.rounded(params)
    elif dtype is not None:
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    return Pretrained(name, model, params, card, model_card.read_tokenizer(directory))


def network(name: str, card: ModelCard, **other: Any) -> Network:
    """Builds the network that a model's card describes, without parameters.

    Args:
      other: configuration fields that override the card's.

    Raises:
      UsageError: the configuration is invalid.
    """
    return registry.build(card.family, card.config | other, str(resolve(name) / model_card.MODEL_FILE))


def with_shortlist(draft: Pretrained, ids: Sequence[int], texts: str) -> Pretrained:
    """Returns the draft restricted to these ids; it keeps its own provenance.

    Args:
      texts: the texts that the ids come from.
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
      UsageError: the directory is not empty.
    """
    with new_folders.new_folder(outputs.place(directory, folder=True)) as folder:
        model_card.write_card(folder, model.card, model.tokenizer_bytes)
        checkpoint.save_params(folder, 0, model.params)
    return dataclasses.replace(model, name=directory)


def split(name: str) -> tuple[str, str | None]:
    """Splits `MODEL@DTYPE`; the dtype is None without a suffix, or if the name is an existing folder."""
    model, at, dtype = name.rpartition("@")
    return (model, dtype) if at and "/" not in dtype and not Path(name).is_dir() else (name, None)


def resolve(name: str) -> Path:
    """Returns the directory of a name; for a model in a bucket, that of its local copy."""
    name, _ = split(name)
    if zoo_manifest.is_zoo_name(name):
        return zoo_manifest.directory(name)
    return copies.local(name, model=True)


def read_card(name: str) -> ModelCard:
    """Reads the card of a directory or of a model of the zoo.

    Raises:
      UsageError: there is no such model (the error names the nearest of either kind), or no valid card.
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
    """Rejects a draft whose vocabulary differs from its target's.

    Args:
      roles: names of the two in the error message.

    Raises:
      UsageError: the fingerprints differ, or one is unknown and `assume_same_vocabulary` is False.
    """
    prints = target.card.tokenizer_fingerprint, draft.card.tokenizer_fingerprint
    check_vocabularies((target.name, draft.name), prints, assume_same_vocabulary, roles)


def check_vocabularies(
    names: tuple[str, str],
    fingerprints: tuple[str | None, str | None],
    assume_same: bool = False,
    roles: tuple[str, str] = ("target", "draft"),
) -> None:
    """Like `check_pair`, given only the names and the tokenizers' fingerprints."""
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
            "if you are sure that it is the other's, pass --assume_same_vocabulary (distill: "
            "--gin.distill.distill.assume_same_vocabulary=True)"
        )
