"""The counters of a service, in Prometheus' format."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ml.serving.engine import Engine

_BUCKETS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.05, 0.1, 0.25, 1.0)


class Metrics:
    """Counters of one app. If several processes serve it, each answers with the counts of all of them.

    Args:
        engine: What answers its requests.
        folder: The folder of `ml.serving.processes.counters.count_together`; None if no other process serves the app.
    """

    def __init__(self, engine: Engine, folder: Path | None = None) -> None:
        self._registry = CollectorRegistry()
        own: CollectorRegistry | None = self._registry
        if folder is not None:
            own = None  # the collector reads the counts of this process from the folder, too
            MultiProcessCollector(self._registry, str(folder))
        self.seconds = Histogram(
            "evergreen_request_seconds", "Time of a request inside the service.", ["route"], buckets=_BUCKETS, registry=own
        )
        self.requests = Counter("evergreen_requests", "Requests by status.", ["route", "status"], registry=own)
        self.missing = Counter("evergreen_missing_columns", "Requests in which a column was missing.", ["column"], registry=own)
        self.events = Counter("evergreen_events", "Events stored.", ["log"], registry=own)
        self._registry.register(_Models(engine))
        self._registry.register(_Items(engine))
        self._registry.register(_Journals(engine))
        self._lock, self._followed = threading.Lock(), list[_Followed]()
        if (recommender := engine.recommender) is not None:
            counts, tables = recommender.tables.lookup_counts, [table.name for table in engine.spec.feature_tables]
            for name, text, held in (
                ("evergreen_feature_lookups", "Entities looked up in feature tables.", counts.lookups),
                ("evergreen_feature_misses", "Entities without an event, which have default values.", counts.misses),
            ):
                self._followed.append(_Followed(Counter(name, text, ["table"], registry=own), held, tables))
            scores = Counter("evergreen_scores", "Requests that were scored, by method.", ["by"], registry=own)
            self._followed.append(_Followed(scores, recommender.item_sides.counts))

    def follow(self) -> None:
        """Add what was counted elsewhere in the process since the last call."""
        with self._lock:
            for followed in self._followed:
                followed.add()

    def text(self) -> bytes:
        """Return all counters in Prometheus' text format."""
        self.follow()
        return generate_latest(self._registry)


class _Followed:
    """A counter of what is counted where it happens."""

    def __init__(self, counter: Counter, counts: Mapping[Any, int], labels: Sequence[str] = ()) -> None:
        self._counter, self._counts, self._added = counter, counts, dict.fromkeys(labels, 0)
        for label in labels:
            counter.labels(label)

    def add(self) -> None:
        """Add what is new."""
        for label, count in dict(self._counts).items():
            self._counter.labels(label).inc(count - self._added.get(label, 0))
            self._added[label] = count


class _Models(Collector):
    """The versions of the models, and what happened to them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        statuses, versions = self._engine.statuses, [served.version for served in self._engine.models]
        lag = GaugeMetricFamily(
            "evergreen_model_lag_seconds",
            "Time since the publication of the oldest version that is not served.",
            labels=["model"],
        )
        for version in versions:
            lag.add_metric([version.model], version.lag_seconds)
        yield lag
        for state, text in (("refused", "is refused"), ("pinned", "is not served, because the model is pinned")):
            gauge = GaugeMetricFamily(f"evergreen_model_{state}", f"Whether the newest version {text}.", labels=["model"])
            for name, status in statuses.items():
                gauge.add_metric([name], float(status == state))
            yield gauge
        refusals = CounterMetricFamily("evergreen_model_refusals", "Versions refused by reason.", labels=["model", "reason"])
        rollbacks = CounterMetricFamily(
            "evergreen_model_rollbacks", "Versions rolled back because they are worse on the probe.", labels=["model"]
        )
        for version in versions:
            rollbacks.add_metric([version.model], version.rollbacks)
            for reason, count in version.refused.items():
                refusals.add_metric([version.model, reason], count)
        yield refusals
        yield rollbacks


class _Items(Collector):
    """The live items of this process; a dataset without an item has none."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        age, count = 0.0, 0
        if (recommender := self._engine.recommender) is not None:
            live = recommender.source.live
            age, count = max(0.0, (self._engine.clock.now() - live.at) / 1e6), len(live)
        yield GaugeMetricFamily("evergreen_items_age_seconds", "Age of the live items.", value=age)
        yield GaugeMetricFamily("evergreen_live_items", "Number of live items.", value=count)


class _Journals(Collector):
    """The journals whose events are stored, and could not be published."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        gauge = GaugeMetricFamily("evergreen_waiting_journals", "Closed journals that cannot be published.", labels=["log"])
        for log, count in self._engine.journal.waiting.items():
            gauge.add_metric([log], count)
        yield gauge


class Measured:
    """ASGI middleware that counts requests and their seconds by route."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), "500"

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.seconds.labels(route).observe(time.perf_counter() - began)
            self._metrics.requests.labels(route, status).inc()
            self._metrics.follow()
