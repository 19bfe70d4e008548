"""Measures drafts on held-out prompts, decoded as in service: counts per prompt, and the cost of a round."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from distillspec_jax import acceptance, files, schema
from distillspec_jax.acceptance import Record
from distillspec_jax.acceptance_profile import Counts
from distillspec_jax.distillation.deployment import Deployment
from distillspec_jax.evaluation import profiling
from distillspec_jax.generation.prompt_format import prompt_format, tokenizer_of
from distillspec_jax.models import pretrained
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.operations import costs
from distillspec_jax.operations.gate import Measured
from distillspec_jax.operations.prompts import Prompt
from distillspec_jax.schema import Amount

_SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Kept:
    """A measurement as stored in its file."""

    new: Counts
    old: Counts
    seconds_per_round: Amount


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The held-out prompts of one redistillation, and their decoding settings.

    Attributes:
      target: the model that is decoded.
      new, old: prompts.
      settings: the sampling distribution of the service.
      block_size: drafts per round.
      chat: whether to wrap prompts in the target's chat template.
    """

    target: Pretrained
    new: Sequence[Prompt]
    old: Sequence[Prompt]
    settings: Deployment
    block_size: int
    chat: bool = False

    def measure(self, draft: str | Path, kept: Path) -> Measured:
        """Decodes all prompts with a draft, or reads the stored measurement.

        Args:
          draft: its folder.
          kept: the file of this measurement; it lets a killed run resume after it.
        """
        if kept.is_file():
            found = schema.read_file(_Kept, kept, "a measurement")
            return Measured(
                new=found.new.records, old=found.old.records, seconds_per_round=found.seconds_per_round
            )
        records, seconds = self._decode(pretrained.load(str(draft)))
        new, old = records[: len(self.new)], records[len(self.new) :]
        measured = _Kept(new=Counts.of(new), old=Counts.of(old), seconds_per_round=seconds)
        files.write_json(kept, dataclasses.asdict(measured))
        return Measured(new=new, old=old, seconds_per_round=seconds)

    def _decode(self, draft: Pretrained) -> tuple[Sequence[Record], float]:
        tokenizer = tokenizer_of(self.target, draft)
        form = prompt_format(self.target, tokenizer=tokenizer, truncate=True, chat=self.chat)
        prompts = [form.ids(one.inputs, "a prompt of the log") for one in (*self.new, *self.old)]
        longest = profiling.room_for(self.target, draft, prompts, self.block_size, form.max_new_tokens)
        engine = profiling.engine_for(self.target, draft, prompts, self.block_size)
        distribution = self.settings.distribution(tokenizer.vocabulary)
        engine.generate(prompts[:1], distribution, longest, _SEED)  # compiles
        began = costs.now()
        done = engine.generate(prompts, distribution, longest, _SEED)
        seconds = costs.now() - began
        records = acceptance.checked([one.record for one in done])
        rounds = Record.total(records).target_calls
        return records, seconds / max(rounds, 1)
