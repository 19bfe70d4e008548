"""The server's counters as Prometheus text: under vLLM's names where vLLM has them, else under our own.

vLLM's names as of 0.32 (docs/usage/metrics.md, docs/features/speculative_decoding/acceptance_metrics.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from distillspec_jax.evaluation.engines import distillspec, vllm
from distillspec_jax.serving.sample import Sample

REASONS = ("stop", "length", "cancelled", "failed", "error")
_MEANINGS = {
    "texts": "Outputs that ended",
    "emitted_tokens": "Tokens of outputs",
    "target_calls": "Rounds: verify passes of the target",
    "drafted": "Drafts that were offered",
    "tested": "Drafts that were put to the test, up to the first of a round that was rejected",
    "accepted": "Drafts that were accepted",
    "tested_at": "Rounds that tested the draft at a position",
    "accepted_at": "Rounds that accepted the draft at a position",
}
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


class Metrics:
    """The server's counters; those of drafting have a label `draft`.

    The worker's thread counts samples as they end; refused requests are counted where they are refused.

    Args:
      model: the served name.
      loads: returns the numbers of running and waiting samples.
      drafts: returns the names of the drafts in service.
    """

    def __init__(
        self, model: str, loads: Callable[[], tuple[int, int]], drafts: Callable[[], Iterable[str]]
    ) -> None:
        disable_created_metrics()  # the creation time of every series is of no use here
        self._registry = CollectorRegistry()
        self._model, self._in_service = model, drafts

        def labelled(kind: type, name: str, text: str, *labels: str, **options: object) -> object:
            return kind(name, text, ("model_name", *labels), registry=self._registry, **options)

        def counter(name: str, text: str, *labels: str) -> Counter:
            made = labelled(Counter, name, text, *labels)
            assert isinstance(made, Counter)
            return made

        def seconds(name: str, text: str) -> Histogram:
            made = labelled(Histogram, name, text, buckets=_SECONDS)
            assert isinstance(made, Histogram)
            return made

        running = Gauge(
            "vllm:num_requests_running", "Outputs in slots", ("model_name",), registry=self._registry
        )
        waiting = Gauge(
            "vllm:num_requests_waiting",
            "Outputs that wait for a slot",
            ("model_name",),
            registry=self._registry,
        )
        running.labels(model).set_function(lambda: loads()[0])
        waiting.labels(model).set_function(lambda: loads()[1])
        self._prompt = counter("vllm:prompt_tokens", "Tokens of prompts that were read")
        self._generated = counter("vllm:generation_tokens", "Tokens that were emitted")
        self._ended = counter("vllm:request_success", "Outputs that ended", "finished_reason")
        self._first = seconds("vllm:time_to_first_token_seconds", "From a request to its first token")
        self._whole = seconds("vllm:e2e_request_latency_seconds", "From a request to its last token")
        # Under the names of a record, and also under vLLM's names for the same counters.
        theirs = vllm.ENGINE.counters
        assert theirs is not None
        self._drafts: list[tuple[str, Counter]] = []
        for name in distillspec.COUNTERS.names:
            labels = ("draft", "position") if name.endswith("_at") else ("draft",)
            for names in (distillspec.COUNTERS.names, theirs.names):
                if name in names and not names[name].endswith("request_success"):
                    self._drafts.append((name, counter(names[name], _MEANINGS[name], *labels)))
        self._refused = counter("distillspec:refused_requests", "Requests that were refused", "status")
        self._swaps = counter("distillspec:draft_changes", "Changes of the drafts in service", "outcome")
        for reason in REASONS:
            self._ended.labels(model, reason)

    def ended(self, sample: Sample) -> None:
        """Counts a sample that has ended."""
        ending, model = sample.ending, self._model
        assert ending is not None
        assert sample.ended is not None
        self._ended.labels(model, ending.reason).inc()
        self._whole.labels(model).observe(sample.ended - sample.arrived)
        if sample.first_token is not None:
            self._first.labels(model).observe(sample.first_token - sample.arrived)
        record = ending.record
        if record is None:
            return
        self._prompt.labels(model).inc(len(sample.prompt.ids))
        self._generated.labels(model).inc(record.emitted_tokens)
        if not record.tested_at:
            return
        for name, counter in self._drafts:
            counts = getattr(record, name)
            if isinstance(counts, Sequence):
                for position, count in enumerate(counts):
                    counter.labels(model, ending.draft, str(position)).inc(count)
            else:
                counter.labels(model, ending.draft).inc(counts or 0)

    def refused(self, status: int) -> None:
        """Counts a request that was refused."""
        self._refused.labels(self._model, str(status)).inc()

    def changed_drafts(self, outcome: str) -> None:
        """Counts a change of the drafts in service: `done` or `failed`."""
        self._swaps.labels(self._model, outcome).inc()

    def text(self) -> bytes:
        """Returns the counters in Prometheus' exposition format.

        Those of a draft in service are there before its first output ends: a scrape without them would be
        taken for another engine's.
        """
        for draft in self._in_service():
            for name, counter in self._drafts:
                if not name.endswith("_at"):
                    counter.labels(self._model, draft)
        return generate_latest(self._registry)
