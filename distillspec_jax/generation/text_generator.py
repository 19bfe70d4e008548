"""Text in, text out: a target, an optional draft, and the checkpoint's tokenizer.

No TensorFlow: the checkpoint's own tokenizer tokenises prompts directly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax

from distillspec_jax.acceptance import COUNTS, Record
from distillspec_jax.decoding.engine import Completion, DecodingProgress, Engine
from distillspec_jax.decoding.sampling import SamplingParams
from distillspec_jax.decoding.stopping import StopOnEos, StopOnStrings, Stopping
from distillspec_jax.errors import UsageError
from distillspec_jax.generation.pairing import Drafts, pair
from distillspec_jax.generation.prompt_format import PromptFormat
from distillspec_jax.models import registry
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.partitioning import Partitioner


@dataclasses.dataclass(frozen=True)
class Generation:
    """One prompt's generated text and its counts.

    Attributes:
      inputs: the raw input, as given.
      outputs: the generated text, without EOS and without the stop string.
      emitted_tokens: generated tokens, including EOS.
      target_calls: passes of the target after prefill; without a draft, one per token.
      accepted, tested: drafted tokens that were accepted, and that were tested.
      finish_reason: `eos`, `stop` (a stop string), `length` or `failed`.
      tokens: the ids of `outputs` as emitted, including EOS.
      drafted, tested_at, accepted_at: see `acceptance.Record`; None without a draft.
    """

    inputs: str
    outputs: str
    emitted_tokens: int
    target_calls: int
    accepted: int
    tested: int
    finish_reason: str
    tokens: tuple[int, ...] = ()
    drafted: int | None = None
    tested_at: tuple[int, ...] | None = None
    accepted_at: tuple[int, ...] | None = None

    @property
    def record(self) -> Record:
        """Only the counts."""
        return Record(**{name: getattr(self, name) for name in COUNTS})


class TextGenerator:
    """A target, optionally with a draft, ready to complete texts.

    Args:
      target: the model whose distribution the output follows.
      draft: proposes blocks: a model, or the name of a drafter without a model (`lookup`, see
        `decoding.drafter_registry`); several propose in parallel; None decodes one token at a time.
      form: how inputs become prompts; default: the target's own.
      block_size: drafted tokens per round. `auto` chooses, down to no drafts, by measured costs and
        acceptance; the same seed then need not give the same text, except at temperature 0 with a lossless
        rule.
      rule, epsilon, candidates: see `rules.rule`.
      batch_size: prompts decoded together.
      stop: strings that end an output, which is cut before the first of them.
      assume_same_vocabulary: see `pretrained.check_pair`; one of the two tokenizers then suffices.
      partitioner: decode on its mesh: the target partitioned by its rules, drafts replicated on every device.
      on_compile: called with a line when a new shape is compiled.

    Raises:
      UsageError: a size is below 1, there is no tokenizer, or the vocabularies differ.
    """

    def __init__(
        self,
        target: Pretrained,
        draft: Drafts = None,
        *,
        form: PromptFormat | None = None,
        block_size: int | str = 5,
        rule: str = "token",
        epsilon: float | None = None,
        candidates: int = 1,
        batch_size: int = 8,
        stop: Sequence[str] = (),
        assume_same_vocabulary: bool = False,
        partitioner: Partitioner | None = None,
        on_compile: Callable[[str], None] | None = None,
    ) -> None:
        if isinstance(stop, str):
            raise UsageError(f"stop is the string {stop!r}, must be a list of strings")
        made = pair(
            target,
            draft,
            form=form,
            block_size=block_size,
            rule=rule,
            epsilon=epsilon,
            candidates=candidates,
            assume_same_vocabulary=assume_same_vocabulary,
        )
        self.form, params = made.form, made.drafter_params
        self.tokenizer = self.form.reader.tokenizer
        target_params = target.params
        if partitioner is not None:
            target_params = jax.device_put(target_params, registry.shardings(target.model, partitioner))
            params = jax.device_put(params, partitioner.replicated)
        self._stop = tuple(stop)
        self._engine = Engine(
            target.model,
            target_params,
            made.drafter,
            params,
            verifier=made.verifier,
            block_size=made.block_sizes,
            batch_size=batch_size,
            stopping=self._stopping(),
            partitioner=partitioner,
            on_compile=on_compile,
        )

    def _stopping(self) -> Stopping:
        eos_ids = self.tokenizer.eos_ids
        if not self._stop:
            return StopOnEos(eos_ids)
        ids = range(self.tokenizer.vocab_size)
        pieces, first = (
            tuple(map(bytes_of, ids))
            for bytes_of in (self.tokenizer.piece_bytes, self.tokenizer.first_piece_bytes)
        )
        try:
            strings = tuple(string.encode() for string in self._stop)
        except UnicodeEncodeError as error:
            raise UsageError(
                f"stop string {error.object!r} holds a lone surrogate, no valid Unicode"
            ) from error
        return StopOnStrings(strings, pieces, eos_ids, first)

    def stream(
        self,
        texts: Sequence[str],
        *,
        temperature: float | Sequence[float] = 0.0,
        top_k: int | Sequence[int] = 0,
        top_p: float | Sequence[float] = 1.0,
        max_new_tokens: int | Sequence[int] | None = None,
        seed: int = 0,
        names: Sequence[str] | None = None,
        progress: Callable[[DecodingProgress], None] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[Generation]:
        """Completes texts, in order; yields each when it and all before it are done.

        Args:
          temperature, top_k, top_p: the sampling distribution, one for all or one per text; temperature 0 is
            greedy.
          max_new_tokens: maximum output length, including EOS; one for all or one per text.
          seed: of all draws.
          names: names of the texts in errors (`file:line`); default: `input N`.
          progress: called on the host while decoding.
          numbers: determine the texts' random keys, one per text; default: their indices.

        Raises:
          UsageError: a distribution or length is out of range, or a prompt is too long. Raised by the call,
            not at the first text.
        """
        tokenizer = self.tokenizer
        names = names or [f"input {i}" for i in range(len(texts))]
        distribution = SamplingParams(temperature, top_k, top_p).distribution(tokenizer.vocabulary)
        prompts = [self.form.ids(text, name) for text, name in zip(texts, names, strict=True)]
        limit = self.form.max_new_tokens if max_new_tokens is None else max_new_tokens
        completions = self._engine.stream(prompts, distribution, limit, seed, progress, numbers)
        return self._in_order(texts, completions)

    def _in_order(
        self, texts: Sequence[str], completions: Iterator[tuple[int, Completion]]
    ) -> Iterator[Generation]:
        """Yields texts in order, although prompts finish in any order."""
        early: dict[int, Completion] = {}
        due = 0
        for index, completion in completions:
            early[index] = completion
            while due in early:
                yield self._text(texts[due], early.pop(due))
                due += 1

    def _text(self, inputs: str, completion: Completion) -> Generation:
        text, reason = self.tokenizer.decode(completion.tokens), completion.finish_reason
        if reason == "eos" and completion.tokens[-1] not in self.tokenizer.eos_ids:
            reason = "stop"
            text = text[: min((i for i in map(text.find, self._stop) if i >= 0), default=None)]
        return Generation(
            inputs=inputs,
            outputs=text,
            emitted_tokens=len(completion.tokens),
            target_calls=completion.target_calls,
            accepted=completion.accepted,
            tested=completion.tested,
            finish_reason=reason,
            tokens=tuple(int(token) for token in completion.tokens),
            drafted=completion.drafted if completion.tested_at else None,
            tested_at=completion.tested_at or None,
            accepted_at=completion.accepted_at or None,
        )
