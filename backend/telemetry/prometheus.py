"""What the backend counts and times, for Prometheus. One registry per app, so that tests can make many."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        to = self.registry
        self.requests = Counter("calico_requests", "Requests answered", ["route", "status"], registry=to)
        self.request_seconds = Histogram(
            "calico_request_seconds", "Time to answer", ["route"], buckets=_SECONDS, registry=to
        )
        self.span_seconds = Histogram(
            "calico_span_seconds",
            "Time by span: fetch, decode, model, encode, json",
            ["span"],
            buckets=_SECONDS,
            registry=to,
        )
        self.groups = Counter(
            "calico_groups", "Groups by outcome: answered, late, posted, failed, refused", ["outcome"], registry=to
        )
        self.regions = Counter("calico_regions", "Regions answered", registry=to)
        self.problems = Counter("calico_problems", "Problems reported on the way, by code", ["code"], registry=to)
        self.cache = Counter("calico_cache", "Cache look-ups", ["cache", "outcome"], registry=to)
        self.events = Counter("calico_webhook_events", "Webhook events received, by action", ["action"], registry=to)
        self.queue_depth = Gauge("calico_queue_depth", "Calls that wait", ["queue"], registry=to)
        self.model_info = Gauge("calico_model_info", "1 for the version that serves", ["version"], registry=to)
        self.switches = Counter("calico_model_switches", "Changes of the model, by outcome", ["outcome"], registry=to)
        self.model_ready = Gauge("calico_model_ready", "1 once the weights are loaded", registry=to)

    def follow_workers(self, workers: Callable[[], Sequence[Mapping[str, Any]]], num_deaths: Callable[[], int]) -> None:
        """workers: each worker, with its `worker` (a number), `state` and `calls`."""
        self.registry.register(_Workers(workers))
        deaths = Gauge("calico_worker_deaths", "Workers that died since the start", registry=self.registry)
        deaths.set_function(num_deaths)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Times a block as one span, whether it ends well or not."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.span_seconds.labels(name).observe(time.perf_counter() - start)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)


class _Workers(Collector):
    """Those that there are when it is asked: a worker that died leaves no series behind."""

    def __init__(self, workers: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
        self._workers = workers

    def collect(self) -> Iterator[GaugeMetricFamily]:
        workers = self._workers()
        states = GaugeMetricFamily("calico_workers", "Workers of the model, by state", labels=["state"])
        for state in ("starting", "idle", "busy"):
            states.add_metric([state], sum(worker["state"] == state for worker in workers))
        yield states
        calls = GaugeMetricFamily("calico_worker_calls", "Calls that each worker answered", labels=["worker", "state"])
        for worker in workers:
            calls.add_metric([str(worker["worker"]), worker["state"]], worker["calls"])
        yield calls
