"""The counters of a service, in Prometheus' format."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ml.serving.feature_tables import ServedTables
from ml.serving.item_sides import ItemSides
from ml.serving.start import Engine

_BUCKETS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.05, 0.1, 0.25, 1.0)


class Metrics:
    """Counters of one app.

    Args:
        engine: What answers its requests.
    """

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.seconds = Histogram(
            "evergreen_request_seconds",
            "Time of a request inside the service.",
            ["route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.requests = Counter("evergreen_requests", "Requests by status.", ["route", "status"], registry=self.registry)
        self.missing = Counter(
            "evergreen_missing_columns", "Requests in which a column was missing.", ["column"], registry=self.registry
        )
        self.events = Counter("evergreen_events", "Events stored.", ["log"], registry=self.registry)
        lag = Gauge(
            "evergreen_model_lag_seconds",
            "Time since the publication of the oldest version that is not served.",
            ["model"],
            registry=self.registry,
        )
        age = Gauge("evergreen_items_age_seconds", "Age of the live items.", registry=self.registry)
        items = Gauge("evergreen_live_items", "Number of live items.", registry=self.registry)
        for served in engine.models:
            lag.labels(served.version.model).set_function(lambda served=served: served.version.lag_seconds)
        self.registry.register(_Models(engine))
        if (recommender := engine.recommender) is not None:
            items.set_function(lambda: len(recommender.source.live))
            age.set_function(lambda: max(0.0, (engine.clock.now() - recommender.source.live.at) / 1e6))
            self.registry.register(_TableLookups(recommender.tables))
            self.registry.register(_Scores(recommender.item_sides))


class _Models(Collector):
    """What happened to the versions of the models."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        statuses = self._engine.statuses
        for state, text in (("refused", "is refused"), ("pinned", "is not served, because the model is pinned")):
            gauge = GaugeMetricFamily(f"evergreen_model_{state}", f"Whether the newest version {text}.", labels=["model"])
            for name, status in statuses.items():
                gauge.add_metric([name], float(status == state))
            yield gauge
        refusals = CounterMetricFamily("evergreen_model_refusals", "Versions refused by reason.", labels=["model", "reason"])
        rollbacks = CounterMetricFamily(
            "evergreen_model_rollbacks", "Versions rolled back because they are worse on the probe.", labels=["model"]
        )
        for version in (served.version for served in self._engine.models):
            rollbacks.add_metric([version.model], version.rollbacks)
            for reason, count in version.refused.items():
                refusals.add_metric([version.model, reason], count)
        yield refusals
        yield rollbacks


class _TableLookups(Collector):
    """Look-ups of feature tables, counted where they happen."""

    def __init__(self, tables: ServedTables) -> None:
        self._tables = tables

    def collect(self) -> Iterator[Metric]:
        lookup_counts = self._tables.lookup_counts
        for name, text, counts in (
            ("evergreen_feature_lookups", "Entities looked up in feature tables.", lookup_counts.lookups),
            ("evergreen_feature_misses", "Entities without an event, which have default values.", lookup_counts.misses),
        ):
            family = CounterMetricFamily(name, text, labels=["table"])
            for table in self._tables.spec.feature_tables:
                family.add_metric([table.name], counts[table.name])
            yield family


class _Scores(Collector):
    """Requests by what has computed the item side of their candidates."""

    def __init__(self, sides: ItemSides) -> None:
        self._sides = sides

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily("evergreen_scores", "Requests that were scored, by method.", labels=["by"])
        for by, count in dict(self._sides.counts).items():
            family.add_metric([by], count)
        yield family


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
