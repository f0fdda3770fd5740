"""/metrics: the scheduler's counters as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from livekv.serve.scheduler import Scheduler

_COUNTERS = {
    "requests": "Requests that were taken.",
    "refused": "Requests that were refused, as the queue was full.",
    "failed": "Requests that were taken and failed.",
    "cancelled": "Requests whose clients went.",
    "prompt_tokens": "Tokens of prompts, cached ones included.",
    "cached_tokens": "Tokens of prompts that were not computed.",
    "generated_tokens": "Tokens sampled.",
    "drafted_tokens": "Tokens that steps were given as drafts.",
    "accepted_tokens": "Those of them that were right.",
    "steps": "Steps of the engine.",
}
_STORE = {
    "pieces_read": "Pieces of prompts that the store had.",
    "tokens_read": "Their tokens.",
    "pieces_written": "Pieces that were stored.",
    "bytes_written": "Their bytes.",
    "damaged": "Stored pieces that were damaged, and removed.",
    "foreign": "Stored pieces under names of others, passed over.",
    "unreadable": "Stored pieces that could not be read.",
    "failed": "Times that a piece could not be stored; some are not tried after that.",
    "evicted": "Stored pieces removed for the limit.",
    "remote_fetched": "Files fetched from the store's URL.",
    "remote_sent": "Files sent there.",
    "remote_failed": "Times that it could not be reached.",
}
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)


class Metrics(Collector):
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._first = Histogram(
            "livekv_first_piece_seconds", "To the first piece of an answer.", buckets=_SECONDS, registry=self.registry
        )
        self._next = Histogram(
            "livekv_next_piece_seconds", "From a piece to the next.", buckets=_SECONDS, registry=self.registry
        )

    def on_piece(self, since: float, first: bool) -> None:
        """since: seconds."""
        (self._first if first else self._next).observe(since)

    def collect(self) -> Iterable[Metric]:
        scheduler = self._scheduler
        for name, what in _COUNTERS.items():
            yield CounterMetricFamily(f"livekv_{name}", what, getattr(scheduler.counters, name))
        for name, count in (scheduler.model.store.counts if scheduler.model.store else {}).items():
            yield CounterMetricFamily(f"livekv_store_{name}", _STORE[name], count)
        yield GaugeMetricFamily("livekv_waiting", "Requests that wait.", scheduler.n_waiting)
        yield GaugeMetricFamily("livekv_texts", "Texts under way, those being read included.", scheduler.n_texts)
        yield GaugeMetricFamily("livekv_kv_bytes", "Bytes of their caches.", scheduler.kv_bytes_seen)
        yield GaugeMetricFamily("livekv_kept", "Sequences kept for prompts to come.", scheduler.n_kept_seen)
        yield GaugeMetricFamily("livekv_kept_bytes", "Bytes of their caches.", scheduler.kept_bytes_seen)
        yield GaugeMetricFamily("livekv_prefix_bytes", "Bytes of chunks kept for them.", scheduler.prefix_bytes_seen)
        yield GaugeMetricFamily("livekv_memory_bytes", "Bytes that all caches may take.", scheduler.limits.memory)
