"""Makes the batches that serve a target, one per draft."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax

from distillspec_jax.decoding import drafter_registry
from distillspec_jax.decoding.online import OnlineBatch
from distillspec_jax.decoding.runner import Prepared
from distillspec_jax.decoding.stopping import StopOnEos
from distillspec_jax.generation.pairing import pair
from distillspec_jax.generation.prompt_format import PromptFormat
from distillspec_jax.models import registry
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.partitioning import Partitioner
from distillspec_jax.serving.scoring import Scorer
from distillspec_jax.terminal import news


@dataclasses.dataclass(frozen=True)
class BatchSettings:
    """Settings shared by the batches of a server.

    Attributes:
      slots: prompts decoded together, per draft in service.
      prompt_tokens, new_tokens: maximum lengths of prompts and outputs.
      rounds_per_visit: see `OnlineBatch`.
      block_size, rule, epsilon, candidates, assume_same_vocabulary: see `TextGenerator`.
      dtype: of drafts whose name gives none.
    """

    slots: int = 8
    prompt_tokens: int = 512
    new_tokens: int = 128
    rounds_per_visit: int = 4
    block_size: int | str | None = 5
    rule: str = "token"
    epsilon: float | None = None
    candidates: int = 1
    assume_same_vocabulary: bool = False
    dtype: str | None = None


class BatchMaker:
    """Makes batches of one target; they share its weights.

    Args:
      target: the model.
      form: how inputs become prompts.
      settings: see `BatchSettings`.
      partitioner: decode on its mesh: the target partitioned by its rules, drafts replicated on every device.
    """

    def __init__(
        self,
        target: Pretrained,
        form: PromptFormat,
        settings: BatchSettings,
        partitioner: Partitioner | None = None,
    ) -> None:
        if partitioner is not None:
            shardings = registry.shardings(target.model, partitioner)
            target = dataclasses.replace(target, params=jax.device_put(target.params, shardings))
        self._target, self._form, self._settings = target, form, settings
        self._partitioner = partitioner
        self._params = Prepared(target.model, target.params)

    def batch(self, drafts: Sequence[str]) -> OnlineBatch:
        """Loads drafts and makes a warm (compiled) batch.

        Args:
          drafts: names of models or drafters; empty decodes one token at a time.

        Raises:
          UsageError: a draft does not exist or has another vocabulary, or the models or the machine cannot
            hold the sizes.
        """
        wanted = self._settings
        made = pair(
            self._target,
            [drafter_registry.load(name, wanted.dtype) for name in drafts],
            form=self._form,
            block_size=5 if wanted.block_size is None else wanted.block_size,
            rule=wanted.rule,
            epsilon=wanted.epsilon,
            candidates=wanted.candidates,
            assume_same_vocabulary=wanted.assume_same_vocabulary,
        )
        tokenizer, params = self._form.reader.tokenizer, made.drafter_params
        if self._partitioner is not None:
            params = jax.device_put(params, self._partitioner.replicated)
        batch = OnlineBatch(
            self._target.model,
            self._params,
            made.drafter,
            params,
            vocabulary=tokenizer.vocabulary,
            verifier=made.verifier,
            stopping=StopOnEos(tokenizer.eos_ids),
            block_size=made.block_sizes,
            slots=wanted.slots,
            prompt_width=wanted.prompt_tokens,
            width=wanted.new_tokens,
            rounds_per_visit=wanted.rounds_per_visit,
            partitioner=self._partitioner,
        )
        length = f"prompts of up to {wanted.prompt_tokens:,} and {wanted.new_tokens:,} new tokens"
        news(f"compiling for {' and '.join(drafts) or 'no draft'}: {wanted.slots} rows, {length}")
        batch.warm()
        return batch

    def scorer(self) -> Scorer:
        """Makes and compiles the target's scorer."""
        scorer = Scorer(
            self._target.model,
            self._target.params,
            self._form.reader.tokenizer.vocabulary,
            self._settings.prompt_tokens,
            self._settings.new_tokens,
        )
        scorer.score([0], [0])
        return scorer
