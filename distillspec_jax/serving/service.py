"""Between the routes and the worker: prompts become ids, a bounded queue, and who waits for which output."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from distillspec_jax.decoding.online import OnlinePrompt
from distillspec_jax.errors import UsageError
from distillspec_jax.generation.prompt_format import PromptFormat
from distillspec_jax.models.interface import width_of
from distillspec_jax.serving.answers import Answers
from distillspec_jax.serving.metrics import Metrics
from distillspec_jax.serving.request_log import RequestLog
from distillspec_jax.serving.requests import Asked
from distillspec_jax.serving.sample import Piece, Sample
from distillspec_jax.serving.text_stream import TextStream
from distillspec_jax.serving.worker import Worker

_SHORT_PROMPTS = 8_192
"""Characters of a request that may be tokenised in the event loop, in about a millisecond."""


class Busy(UsageError):
    """The queue is full.

    Attributes:
      seconds: after which it is worth asking again.
    """

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


@dataclasses.dataclass
class Job:
    """A request under way.

    Attributes:
      samples: its outputs, those of the first prompt first.
      answers: writes what the client gets.
    """

    samples: Sequence[Sample]
    answers: Answers


@dataclasses.dataclass(frozen=True)
class Limits:
    """The most that one request, and all of them, may ask for.

    Attributes:
      prompt_tokens, new_tokens: longest prompt and longest output.
      outputs: under way at once, in slots or waiting for one.
    """

    prompt_tokens: int
    new_tokens: int
    outputs: int


class Service:
    """One model being served.

    Args:
      worker: decodes; begins when `begin` is called.
      form: how a text becomes a prompt; `chat_form` how a conversation does, None without a template.
      limits: see `Limits`.
      log: gets a line for every output.
      model_name: as clients name the model.

    Attributes:
      ready: whether requests are taken.
      started: seconds since 1970.
    """

    def __init__(
        self,
        worker: Worker,
        form: PromptFormat,
        chat_form: PromptFormat | None,
        limits: Limits,
        log: RequestLog | None,
        model_name: str,
    ) -> None:
        self.worker, self.model_name = worker, model_name
        self.metrics = Metrics(model_name, lambda: worker.loads)
        worker.on_end = self.ended
        # What is too long is for the server's limit to say: the form would name a flag of other commands.
        self._form = dataclasses.replace(form, max_tokens=None)
        self._chat_form, self._limits, self._log = chat_form, limits, log
        self._open: dict[int, tuple[Sample, str, str | None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended, self._seconds = 0, 0.0
        self.ready = False
        self.started = int(time.time())

    @property
    def alive(self) -> bool:
        """Whether the worker's thread runs."""
        return self.worker.is_alive()

    def begin(self) -> None:
        """Takes requests from now on; called in the event loop that `submit` is called in."""
        self._loop = asyncio.get_running_loop()
        self.worker.start()
        self.ready = True

    async def submit(self, asked: Asked, pieces: asyncio.Queue[tuple[int, Piece]]) -> Job:
        """Queues the outputs of a request.

        Args:
          asked: the request.
          pieces: gets (number of the output, piece).

        Raises:
          Busy: too many outputs wait.
          UsageError: a prompt that is too long, or that tokenizer or template refuse.
        """
        outputs = len(asked.prompts) * asked.samples
        self._check_queue(outputs)
        # Tokenizers of others run in a process of their own, which takes its time; so do long texts.
        long = sum(len(prompt) for prompt in asked.prompts) > _SHORT_PROMPTS
        if long or asked.chat or not self._form.reader.tokenizer.in_process:
            prompts = await asyncio.to_thread(self._all_ids, asked)
        else:
            prompts = self._all_ids(asked)
        self._check_queue(outputs)
        limit = self._limits.new_tokens if asked.max_new_tokens is None else asked.max_new_tokens
        if limit > self._limits.new_tokens:
            raise UsageError(f"max_tokens is {limit:,}, must be at most {self._limits.new_tokens:,} here")
        job = Job([], Answers(asked, self.model_name, self._form.reader.tokenizer, sum(map(len, prompts))))
        samples: list[Sample] = []
        for prompt, ids in zip(asked.prompts, prompts, strict=True):
            for number in range(asked.samples):
                index = len(samples)
                sample = Sample(
                    prompt=OnlinePrompt(
                        ids, limit, asked.temperature, asked.top_k, asked.top_p, asked.seed, number
                    ),
                    stream=TextStream(self._form.reader.tokenizer, asked.stop),
                    deliver=self._deliverer(index, pieces),
                    key=asked.user or job.answers.identity,
                    logprobs=asked.logprobs is not None,
                    streams=asked.stream,
                )
                samples.append(sample)
                identity = job.answers.identity + (f"-{index}" if outputs > 1 else "")
                self._open[id(sample)] = sample, identity, prompt if isinstance(prompt, str) else None
        job.samples = samples
        for sample in samples:
            self.worker.start_sample(sample)
        return job

    def release(self, job: Job) -> None:
        """Gives up the outputs of a request that nobody waits for any more."""
        for sample in job.samples:
            if sample.ending is None:
                self.worker.cancel(sample)

    def ended(self, sample: Sample) -> None:
        """Counts and logs a sample that has ended; called in the worker's thread."""
        self.metrics.ended(sample)
        _, identity, inputs = self._open.pop(id(sample))
        assert sample.ended is not None
        self._ended, self._seconds = self._ended + 1, self._seconds + sample.ended - sample.arrived
        if self._log is not None:
            self._log.write(sample, identity, inputs)

    def _check_queue(self, outputs: int) -> None:
        if outputs > self._limits.outputs:
            raise UsageError(f"{outputs:,} outputs are asked for, must be at most {self._limits.outputs:,}")
        if (there := len(self._open)) + outputs > self._limits.outputs:
            mean = self._seconds / self._ended if self._ended else 1.0
            raise Busy(
                f"{there:,} outputs are under way, at most {self._limits.outputs:,} may be: try again", mean
            )

    def _all_ids(self, asked: Asked) -> list[list[int]]:
        return [self._ids(asked, prompt) for prompt in asked.prompts]

    def _ids(self, asked: Asked, prompt: Any) -> list[int]:
        if asked.chat:
            if self._chat_form is None:
                raise UsageError("the model has no chat template: use /v1/completions")
            ids = self._chat_form.reader.conversation(prompt)
        elif isinstance(prompt, str):
            ids = self._form.ids(prompt, "the prompt")
        else:
            ids, size = list(prompt), self._form.reader.tokenizer.vocab_size
            for one in ids:
                if not 0 <= one < size:
                    raise UsageError(f"prompt holds the id {one}, must be from 0 to {size - 1}")
        if ids and width_of([ids]) > self._limits.prompt_tokens:
            zero = " and ends in id 0, which takes one more" if ids[-1] == 0 else ""
            raise UsageError(
                f"the prompt has {len(ids):,} tokens{zero}, must have at most "
                f"{self._limits.prompt_tokens:,} here"
            )
        return ids

    def _deliverer(self, number: int, pieces: asyncio.Queue[tuple[int, Piece]]) -> Any:
        loop = self._loop
        assert loop is not None

        def deliver(piece: Piece) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                loop.call_soon_threadsafe(pieces.put_nowait, (number, piece))

        return deliver
