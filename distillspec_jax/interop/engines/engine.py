"""Inference engines: how each is told to serve a pair, and which pairs it must not be asked to serve.

An engine is a file of this package with facts that were read in its source, at the version it names. It
refuses what would fail there, and what would silently give other texts; for the rest it writes a shell
script.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Sequence

from distillspec_jax.errors import UsageError
from distillspec_jax.interop.engines.served_model import ServedModel, taught
from distillspec_jax.models.decoder_only_config import DecoderOnlyConfig


@dataclasses.dataclass(frozen=True)
class Deployment:
    """A pair, and how it is to be served.

    Attributes:
      block_size: drafted tokens a round.
      temperature: of the requests.
      tensor_parallel: devices that share a layer.
      exported: the folder for what has to be converted first.
      gguf_type: of weights that are converted to GGUF.
    """

    target: ServedModel
    draft: ServedModel
    block_size: int = 5
    temperature: float = 0.0
    tensor_parallel: int = 1
    exported: str = "exported"
    gguf_type: str = "f32"

    @property
    def positions(self) -> int | None:
        """The longest sequence that both were made for."""
        known = [model.positions for model in (self.target, self.draft) if model.positions is not None]
        return min(known, default=None)

    def path(self, model: ServedModel, form: str) -> str:
        """Where a model lies in a form, once `exports` has run."""
        if model.form == form:
            return model.name
        role = "target" if model is self.target else "draft"
        return f"{self.exported}/{role}{'.gguf' if form == 'gguf' else ''}"

    def exports(self, form: str) -> list[str]:
        """The commands that write both models in a form."""
        made: list[str] = []
        for model in (self.target, self.draft):
            source, path = model.name, self.path(model, form)
            if model.form == form:
                continue
            if model.form != "checkpoint":
                source = f"{self.exported}/{'target' if model is self.target else 'draft'}_checkpoint"
                made.append(_convert(f"--from={model.form}", model.name, source))
            flags = [f"--to={form}"] + [f"--type={self.gguf_type}"] * (form == "gguf")
            made.append(_convert(*flags, source, path))
        return made


def _convert(*arguments: str) -> str:
    *flags, source, path = arguments
    return shell("distillspec", "convert", *flags, f"--input={source}", f"--output={path}")


def shell(*words: str) -> str:
    """A line of shell."""
    return shlex.join(words)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Says how a pair is served.

    Attributes:
      commands: lines of shell, in order.
      python: lines of Python to run after those.
      notes: what to know, a sentence or two each.
    """

    commands: list[str]
    python: str = ""
    notes: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Engine:
    """An engine, as its file in this package describes it.

    Attributes:
      name: what `--engine` calls it.
      version: where the facts were read.
      families: `model_type`s that it can draft for, of those that we write.
      pairing: what it does of itself about two different vocabularies, as the end of a sentence.
      recipe: what serves a pair that `check` has passed; raises UsageError if the engine would refuse it, or
        give other texts without a word.
      reads_masks: it lets a draft that was taught to propose a block do so in one call.
    """

    name: str
    version: str
    families: tuple[str, ...]
    pairing: str
    recipe: Callable[[Deployment], Recipe]
    reads_masks: bool = False


def check(engine: Engine, deployment: Deployment, others: Sequence[Engine]) -> None:
    """Refuses what no recipe of this engine could serve.

    Args:
      others: all engines, one of which a refusal may name.

    Raises:
      UsageError: a family that the engine does not draft for, a pair of two families' kinds, vocabularies
        that are not known to be one, or heads that cannot be shared out.
    """
    target, draft = deployment.target, deployment.draft
    for model in (target, draft):
        if model.family not in engine.families:
            able = [other.name for other in others if model.family in other.families]
            instead = f"--engine={able[0]} does, and so does" if able else "no engine here does, only"
            raise UsageError(
                f"{model.name} is a {model.family}, which {engine.name} {engine.version} does not draft for: "
                f"{instead} `distillspec generate`"
            )
        if model.tokenizer is None:
            raise UsageError(
                f"{model.name} has no tokenizer: nobody can tell whether the two share one, and "
                f"{engine.name} {engine.pairing}"
            )
    if (target.family == "t5") != (draft.family == "t5"):
        raise UsageError(f"{draft.name} is a {draft.family} and {target.name} a {target.family}: no pair")
    if target.tokenizer != draft.tokenizer:
        forms = "" if target.form == draft.form else f" (or give both as {target.form})"
        raise UsageError(
            f"{draft.name} has another vocabulary than {target.name}, and {engine.name} {engine.pairing}: "
            f"use a draft trained with the target's tokenizer{forms}"
        )


def check_equal_sizes(engine: Engine, deployment: Deployment) -> None:
    """Refuses embeddings of two sizes, for an engine that compares them.

    Raises:
      UsageError: names both.
    """
    target, draft = deployment.target, deployment.draft
    if target.vocab_size != draft.vocab_size:
        raise UsageError(
            f"{draft.name} has logits for {draft.vocab_size:,} ids and {target.name} for "
            f"{target.vocab_size:,}: {engine.name} {engine.version} refuses such a pair; train a draft with "
            "as many rows"
        )


def check_shares(engine: Engine, deployment: Deployment) -> None:
    """Refuses heads that cannot be shared out among the devices, of either model.

    Raises:
      UsageError: names the model and its heads.
    """
    devices = deployment.tensor_parallel
    for model in (deployment.target, deployment.draft):
        config = model.config
        if not isinstance(config, DecoderOnlyConfig):
            continue
        heads, kv_heads = config.num_heads, config.num_kv_heads
        if heads % devices or (kv_heads % devices and devices % kv_heads):
            raise UsageError(
                f"--tensor_parallel={devices}: {model.name} has {heads} heads and {kv_heads} of keys and "
                f"values, which {engine.name} cannot share out among {devices} devices (a draft gets the "
                "target's)"
            )


def check_one_device(engine: Engine, deployment: Deployment) -> None:
    """Refuses tensor parallelism for an engine whose recipe has no flag for it."""
    if deployment.tensor_parallel > 1:
        raise UsageError(f"--tensor_parallel belongs to vllm and sglang, {engine.name} does not take it here")


def notes(engine: Engine, deployment: Deployment) -> list[str]:
    """Sentences that hold of a pair, whatever the engine's recipe says."""
    target, draft = deployment.target, deployment.draft
    found = []
    if draft.mask_id is not None and not engine.reads_masks:
        found.append(
            "The draft proposes a block in one call here and in vLLM; this engine calls it token by token."
        )
    if draft.shortlisted:
        found.append("The draft's shortlist is left behind: engines draft over all ids, which takes longer.")
    if getattr(draft.config, "embedding_rank", 0):
        found.append("The draft's factorised embedding is multiplied out: it reads more bytes a token there.")
    if target.defaults:
        found.append(
            f"The target's generation_config.json sets {', '.join(target.defaults)}, which `generate` does "
            "not follow: this script leaves it out; requests may ask for it."
        )
    if target.prefix:
        found.append(f"Prompts need the prefix {target.prefix!r}, which `generate` puts before them.")
    if not taught(target.name, draft):
        found.append(f"The draft was distilled from {draft.taught_by!r}: of another target it drafts worse.")
    if None not in (target.positions, draft.positions) and target.positions != draft.positions:
        found.append(
            f"The target was made for {target.positions:,} positions and the draft for {draft.positions:,}: "
            f"sequences end at {deployment.positions:,}, beyond which drafts would be of no use."
        )
    return found
