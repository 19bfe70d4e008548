"""Connects the routes to the worker: tokenises prompts, bounds the queue, and tracks open outputs."""

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
from distillspec_jax.serving.requests import COMPLETION_TOKENS, Asked
from distillspec_jax.serving.sample import Piece, Sample
from distillspec_jax.serving.text_stream import TextStream
from distillspec_jax.serving.worker import Worker

_SHORT_PROMPTS = 8_192
"""Maximum characters of a request to tokenise in the event loop, which takes about a millisecond."""


class Busy(UsageError):
    """The queue is full.

    Attributes:
      seconds: suggested delay before a retry.
    """

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


@dataclasses.dataclass
class Job:
    """A request in progress.

    Attributes:
      samples: its outputs, those of the first prompt first.
      answers: writes the client's answers.
    """

    samples: Sequence[Sample]
    answers: Answers


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of one request, and of all requests together.

    Attributes:
      prompt_tokens, new_tokens: maximum lengths of prompt and output.
      outputs: maximum number at a time, in slots or waiting for one.
    """

    prompt_tokens: int
    new_tokens: int
    outputs: int


class Service:
    """One served model.

    Args:
      worker: decodes; `begin` starts it.
      form: how a text becomes a prompt; `chat_form`: how a conversation does, None without a template.
      limits: see `Limits`.
      log: receives a line for every output.
      model_name: the clients' name for the model.

    Attributes:
      accepting: whether the server is between its start and its stop.
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
        self.metrics = Metrics(model_name, lambda: worker.loads, lambda: worker.route.drafts)
        worker.on_end = self.ended
        # The server's limit reports prompts that are too long; the form would name a flag of other commands.
        self._form = dataclasses.replace(form, max_tokens=None)
        self._chat_form, self._limits, self._log = chat_form, limits, log
        self._open: dict[int, tuple[Sample, str, str, str | None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended, self._seconds = 0, 0.0
        self.accepting = False
        self.started = int(time.time())

    @property
    def alive(self) -> bool:
        """Tells whether the worker's thread is running."""
        return self.worker.is_alive()

    @property
    def ready(self) -> bool:
        """Tells whether requests are accepted: none is once the worker's thread has ended."""
        return self.accepting and self.alive

    def begin(self) -> None:
        """Starts accepting requests; must be called in the same event loop as `submit`."""
        self._loop = asyncio.get_running_loop()
        self.worker.start()
        self.accepting = True

    async def submit(self, asked: Asked, pieces: asyncio.Queue[tuple[int, Piece]]) -> Job:
        """Queues the outputs of a request.

        Args:
          asked: the request.
          pieces: receives (number of the output, piece).

        Raises:
          Busy: too many outputs are open.
          UsageError: a prompt is too long, or the tokenizer or template rejects it.
        """
        outputs = len(asked.prompts) * asked.samples
        self._check_queue(outputs)
        # Third-party tokenizers run in a separate process and are slow, as are long texts: use a thread.
        long = sum(len(prompt) for prompt in asked.prompts) > _SHORT_PROMPTS
        if long or asked.chat or not self._form.reader.tokenizer.in_process:
            prompts = await asyncio.to_thread(self._all_ids, asked)
        else:
            prompts = self._all_ids(asked)
        self._check_queue(outputs)
        most = self._limits.new_tokens
        limit = asked.max_new_tokens or (most if asked.chat else min(most, COMPLETION_TOKENS))
        if limit > self._limits.new_tokens:
            raise UsageError(f"max_tokens is {limit:,}, must be at most {self._limits.new_tokens:,} here")
        job = Job([], Answers(asked, self.model_name, self._form.reader.tokenizer, sum(map(len, prompts))))
        samples: list[Sample] = []
        for place, (text, ids) in enumerate(zip(asked.texts, prompts, strict=True)):
            request = job.answers.identity + (f"-{place}" if len(prompts) > 1 else "")
            for number in range(asked.samples):
                index = len(samples)
                # With a client's seed, each prompt's text is as if it were alone; else none share noise.
                noise = number if asked.seeded else index
                sample = Sample(
                    prompt=OnlinePrompt(
                        ids, limit, asked.temperature, asked.top_k, asked.top_p, asked.seed, noise
                    ),
                    stream=TextStream(self._form.reader.tokenizer, asked.stop),
                    deliver=self._deliverer(index, pieces),
                    key=asked.user or job.answers.identity,
                    logprobs=asked.logprobs is not None,
                    streams=asked.stream,
                )
                samples.append(sample)
                identity = job.answers.identity + (f"-{index}" if outputs > 1 else "")
                self._open[id(sample)] = sample, identity, request, text
        job.samples = samples
        for sample in samples:
            self.worker.start_sample(sample)
        return job

    def release(self, job: Job) -> None:
        """Cancels the unfinished outputs of a request whose client is done or gone."""
        for sample in job.samples:
            if sample.ending is None:
                self.worker.cancel(sample)

    def ended(self, sample: Sample) -> None:
        """Counts and logs a sample that has ended; called in the worker's thread."""
        self.metrics.ended(sample)
        _, identity, request, inputs = self._open.pop(id(sample))
        assert sample.ended is not None
        self._ended, self._seconds = self._ended + 1, self._seconds + sample.ended - sample.arrived
        if self._log is not None:
            self._log.write(sample, identity, request, inputs)

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
            with contextlib.suppress(RuntimeError):  # the loop has ended, so no client waits
                loop.call_soon_threadsafe(pieces.put_nowait, (number, piece))

        return deliver
