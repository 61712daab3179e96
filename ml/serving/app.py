"""The HTTP routes of the service. `ml.serving.start` makes the engine behind them, `orchestration.serve` runs both.

One thread computes, so that requests do not compete for the processor. A request that would wait behind `QUEUE` others is
refused at once with 503.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse

from ml.http.app import create_app
from ml.http.errors import error_response
from ml.http.guard import LOOPBACK
from ml.http.limits import Limits
from ml.http.routes import JsonRoute
from ml.retrieval.postings import UnknownColumn
from ml.serving.as_logged import AsLogged
from ml.serving.clicks import click_schema
from ml.serving.engine import Engine
from ml.serving.event_rows import WrongEvent
from ml.serving.explanations import column_contributions, nearest_clicks
from ml.serving.faults import WrongColumn
from ml.serving.forms import Answer, EventsRequest, Item, RankRequest, RecommendRequest, Stored
from ml.serving.journal import Journal, JournalFull
from ml.serving.metrics import Measured, Metrics
from ml.serving.ranker import NAME
from ml.serving.recommender import Ranked, Recommendation
from ml.serving.rows import rank_rows
from ml.serving.served_log import noting
from ml.serving.variants import Variant

QUEUE = 64
"""Requests that may wait for the computing thread."""
MOST_WAIT_SECONDS = 0.02
"""Longest wait of background work for requests before each of its steps, so that it also progresses under full load."""
BODY_LIMIT = 4 << 20
DEFAULT_LIMITS = Limits()
PAGE = Path(__file__).with_name("page.html")
Result = TypeVar("Result")


class Overloaded(Exception):
    """Too many requests wait already."""


class _Worker:
    """The computing thread and its queue."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "recommend")
        self.waiting, self._idle = 0, threading.Event()
        self._idle.set()

    async def __call__(self, work: Callable[[], Result]) -> Result:
        if self.waiting >= QUEUE:
            raise Overloaded
        self.waiting += 1
        self._idle.clear()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self.waiting -= 1
            if not self.waiting:
                self._idle.set()

    def wait_until_idle(self) -> None:
        """Wait until no request is in progress or queued, but no longer than `MOST_WAIT_SECONDS`."""
        self._idle.wait(MOST_WAIT_SECONDS)

    def stop(self) -> None:
        self._pool.shutdown(wait=False)


def create_serving_app(
    engine: Engine,
    token: str | None,
    hosts: Iterable[str] = LOOPBACK,
    limits: Limits = DEFAULT_LIMITS,
    counters: Path | None = None,
    instance: str = "",
) -> FastAPI:
    """Create the app of a service.

    Args:
        engine: What answers the requests. The app keeps it up to date while it runs.
        token: Token that requests have to present; None for an open service.
        hosts: Host names under which the service is reached.
        limits: Rate of each client, and requests in progress.
        counters: Folder in which several processes count together; see `ml.serving.metrics.Metrics`.
        instance: The word in `/health` by which others tell the service from another one at its address; see
            `ml.serving.announced`.

    Returns:
        The app.
    """

    def health() -> dict[str, Any]:
        models = engine.statuses
        events = {log: "waiting" if count else "published" for log, count in engine.journal.waiting.items()}
        is_degraded = "refused" in models.values() or "waiting" in events.values()
        status = "degraded" if is_degraded else "ok"
        return {"status": status, "instance": instance, "models": models, "events": events}

    app = create_app(
        f"Evergreen: {engine.spec.name}", token, hosts, BODY_LIMIT, open_paths=("/",), health=health, limits=limits
    )
    worker, metrics, stop = _Worker(), Metrics(engine, counters), threading.Event()
    logged = AsLogged.of(engine.spec)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        thread = threading.Thread(target=engine.follow, args=(stop, worker.wait_until_idle), name="refresh", daemon=True)
        thread.start()
        yield
        stop.set()
        await run_in_threadpool(thread.join)
        if isinstance(engine.journal, Journal):
            await run_in_threadpool(engine.journal.rotate, True)
        if engine.served is not None:
            await run_in_threadpool(engine.served.flush)
        worker.stop()

    app.router.lifespan_context = lifespan

    app.add_middleware(Measured, metrics=metrics)
    for kind, status in ((WrongColumn, 400), (UnknownColumn, 400), (WrongEvent, 400), (JournalFull, 503)):
        app.add_exception_handler(kind, _handler(status))
    app.add_exception_handler(Overloaded, _handler(503, "the service is overloaded; try again later", {"retry-after": "1"}))

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"
        return HTMLResponse(PAGE.read_text(), headers={"content-security-policy": policy + "; frame-ancestors 'none'"})

    @app.get("/version")
    def version() -> dict[str, Any]:
        """What is served: the models with their versions and their lag, and the live items."""
        recommender, spec = engine.recommender, engine.spec
        return {
            "dataset": spec.name,
            "user": spec.user,
            "item": spec.item,
            "click": click_schema(spec),
            "ranking": asdict(engine.ranking.version),
            "retrieval": asdict(engine.retrieval.version) if engine.retrieval else None,
            "models": {served.version.model: asdict(served.version) for served in engine.models},
            "scored_by_bundle": recommender.item_sides.reason if recommender else None,
            "ranker": _ranker(engine.default),
            "variants": {name: _ranker(variant) for name, variant in engine.variants.items()},
            "items": len(recommender.source.live) if recommender else None,
            "items_at": recommender.source.live.at if recommender else None,
            "now": engine.clock.now(),
            "is_live": engine.clock.is_live,
            "columns": {name: str(kind) for name, kind in engine.ranking.bundle.columns.items()},
            "filters": list(recommender.source.live.postings.columns) if recommender else [],
        }

    @app.get("/metrics", response_class=Response)
    def prometheus() -> Response:
        """Counters and latencies in Prometheus' text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/users")
    def users() -> dict[str, Any]:
        """Some users with recent events, for the page."""
        users = engine.recommender.window.users(50) if engine.recommender else []
        return {"users": [logged.as_given(engine.spec.user, user) for user in users]}

    bodies = APIRouter(route_class=JsonRoute)

    @bodies.post("/recommend", response_model=Answer)
    async def recommend(asked: RecommendRequest) -> Response:
        """Recommend items to a user: candidates from several sources, ranked by the model."""
        if engine.recommender is None:
            return _without_item(engine)
        asked = asked.model_copy(
            update={
                "user": logged.value(engine.spec.user, asked.user),
                "context": logged.row(asked.context),
                "filters": logged.row(asked.filters),
            }
        )
        return _json(
            await worker(lambda: _as_given(engine, logged, _logged(engine, lambda: _recommend(engine, asked, metrics))))
        )

    @bodies.post("/rank", response_model=Answer)
    async def rank(asked: RankRequest) -> Response:
        """Rank given items, or rows of the log, for a user."""
        read = [logged.row(one) if isinstance(one, dict) else logged.value(engine.spec.item, one) for one in asked.candidates]
        given = asked.candidates
        user, context = logged.value(engine.spec.user, asked.user), logged.row(asked.context)
        asked = asked.model_copy(update={"user": user, "context": context, "candidates": read})
        return _json(await worker(lambda: _as_given(engine, logged, _logged(engine, lambda: _rank(engine, asked)), given)))

    @bodies.post("/events", status_code=202, response_model=Stored)
    async def events(asked: EventsRequest) -> Response:
        """Store events durably. They change the next recommendations, and online training learns from them."""
        return _json(await run_in_threadpool(_store, engine, asked, metrics), status=202)

    app.include_router(bodies)
    return app


def _json(answer: BaseModel, status: int = 200) -> Response:
    return Response(answer.model_dump_json(), status, media_type="application/json")


def _handler(status: int, message: str = "", headers: dict[str, str] | None = None) -> Any:
    async def handle(_: Request, error: Exception) -> Response:
        return error_response(status, message or str(error), headers)

    return handle


def _ranker(variant: Variant) -> dict[str, Any]:
    """What orders recommendations."""
    model, version = variant.ranked_by
    held = variant.ranker or variant.model.version
    return {"model": model, "version": version, "pinned": held.pinned, "refusal": held.refusal}


def _without_item(engine: Engine) -> Response:
    return error_response(
        409, f"the catalog entry {engine.spec.name} has no `item`, so there are no items to recommend; use /rank with rows"
    )


def _logged(engine: Engine, answer: Callable[[], Answer]) -> Answer:
    """Answer a request, and log the values of feature tables that the answer was based on."""
    engine.catch_up()
    if engine.served is None:
        return answer()
    with noting() as served:
        found = answer()
    engine.served.answered(found.request_id, served, [ranked.item for ranked in found.items])
    return found


def _as_given(engine: Engine, logged: AsLogged, answer: Answer, given: Sequence[Any] = ()) -> Answer:
    """Write an answer's items and columns as the log has them, and candidates as the request has them."""
    for ranked in answer.items:
        place = ranked.place
        ranked.item = logged.as_given(engine.spec.item, ranked.item) if place is None else given[place]
        ranked.columns = logged.row_as_given(ranked.columns)
        if ranked.nearest is not None:
            ranked.nearest = [logged.as_given(engine.spec.item, item) for item in ranked.nearest]
    answer.context = [logged.as_given(engine.spec.item, item) for item in answer.context]
    answer.request = None if answer.request is None else logged.row_as_given(answer.request)
    return answer


def _recommend(engine: Engine, asked: RecommendRequest, metrics: Metrics) -> Answer:
    began, now = time.perf_counter(), engine.clock.now()
    recommender = engine.recommender
    assert recommender is not None
    variant = engine.variant_of(asked.user)
    ranking, version, ranker = variant.model.bundle, variant.model.version, variant.ranker.current if variant.ranker else None
    found = recommender.recommend(
        *(ranking, asked.user, asked.context, asked.k, now, asked.filters, asked.exclude_seen),
        ranker=ranker.ranker if ranker else None,
        explain=asked.explain,
    )
    for name in found.missing:
        metrics.missing.labels(name).inc()
    reasons = found.reasons
    if asked.explain and found.items and not found.by_ranker:
        row = recommender.row_of(ranking, asked.user, asked.context, now)
        items = pa.Table.from_pylist([ranked.columns for ranked in found.items], recommender.source.live.items.schema)
        items = recommender.with_tables(items, asked.user, asked.context, now)
        reasons = column_contributions(ranking, row, items)
    by = (NAME, ranker.day) if ranker and found.by_ranker else (version.model, version.version)
    answer = _answer(variant, found, began, by, reasons)
    if asked.explain:
        window = recommender.window
        known = recommender.columns_of_request(asked.user, asked.context, now)
        answer.request = {name: known[name] for name in recommender.context_columns if name in known}
        items = pa.array([ranked.item for ranked in found.items], window.types[window.item])
        for item, nearest in zip(answer.items, nearest_clicks(recommender.source, found.context, items), strict=True):
            item.nearest = nearest
        answer.milliseconds = (time.perf_counter() - began) * 1e3
    return answer


def _rank(engine: Engine, asked: RankRequest) -> Answer:
    began, now = time.perf_counter(), engine.clock.now()
    variant = engine.variant_of(asked.user)
    ranking, version = variant.model.bundle, variant.model.version
    by = version.model, version.version
    rows = [candidate for candidate in asked.candidates if isinstance(candidate, dict)]
    if rows and len(rows) < len(asked.candidates):
        raise WrongColumn("candidates: give either items or rows, not both")
    if rows:
        scored = rank_rows(engine.spec, ranking, asked.user, asked.context, rows, now)
        found = Recommendation([Ranked(rows[at], score, [], {}, labels, at) for at, score, labels in scored])
        return _answer(variant, found, began, by)
    if engine.recommender is None:
        raise WrongColumn(f"candidates: the dataset {engine.spec.name} has no `item`, so give rows: objects of columns")
    found = engine.recommender.rank(ranking, asked.user, asked.context, asked.candidates, now)
    return _answer(variant, found, began, by)


def _answer(
    variant: Variant,
    found: Recommendation,
    began: float,
    by: tuple[str, str],
    reasons: list[dict[str, float]] | None = None,
) -> Answer:
    """Build an answer. `by` is the model that ranked and its version, read with the model: it may be replaced meanwhile."""
    items = [
        Item(
            item=ranked.item,
            score=ranked.score,
            labels=ranked.labels,
            sources=ranked.sources,
            columns=ranked.columns,
            reasons=reasons[number] if reasons else None,
            place=ranked.place,
        )
        for number, ranked in enumerate(found.items)
    ]
    return Answer(
        request_id=uuid.uuid4().hex,
        model=by[0],
        version=by[1],
        variant=variant.name,
        items=items,
        candidates=found.candidates,
        filled=found.filled,
        missing=found.missing,
        context=[event.item for event in found.context],
        milliseconds=(time.perf_counter() - began) * 1e3,
    )


def _store(engine: Engine, asked: EventsRequest, metrics: Metrics) -> Stored:
    given = {"examples": asked.examples, "impressions": asked.impressions, "actions": asked.actions}
    stored = engine.store(given, engine.clock.now())
    for name, count in stored.items():
        metrics.events.labels(name).inc(count)
    return Stored(stored=sum(stored.values()))
