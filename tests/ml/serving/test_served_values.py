"""Values that requests were served, compared with the lake: equal, explained by the lag, or neither."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.features.event_days import write_event_day
from ml.http.server import serving
from ml.lake import Lake, MissingPartition
from ml.serving.app import create_serving_app
from ml.serving.engine import Engine
from ml.serving.served_values import compare_served
from ml.serving.start import start
from tests.helpers.kiosk_lake import DAY, END, HOUR, put_raw, raw_rows, spec_of
from tests.helpers.kiosk_tables import TABLES, table_lake, table_spec

NEXT = "2026-01-02"


@pytest.fixture
def spec() -> DatasetSpec:
    return table_spec()


@pytest.fixture
def lake(spec: DatasetSpec, tmp_path: Path) -> Lake:
    return table_lake(tmp_path / "lake", spec)


@pytest.fixture
def engine(spec: DatasetSpec, lake: Lake, tmp_path: Path) -> Engine:
    return start(spec, lake, UPath(tmp_path / "stream"))


@pytest.fixture
def client(engine: Engine) -> Iterator[httpx.Client]:
    with serving(create_serving_app(engine, None)) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def event(rng: np.random.Generator) -> dict[str, Any]:
    user, item, visit = (int(rng.integers(1, high)) for high in (30, 40, 80))
    return {"user": user, "item": item, "visit": visit, "place": str(rng.choice(["here", "there"]))}


def land(spec: DatasetSpec, lake: Lake, stream: Path) -> pa.Table:
    """Make the day of the lake from what the service has stored."""
    stored = [pq.read_table(path) for path in sorted((stream / "examples").glob("journal-*.parquet"))]
    rows = pa.concat_tables(stored).sort_by("event_time")
    put_raw(lake, spec, rows, NEXT)
    write_event_day(spec, NEXT, lake)
    return rows


def ask(client: httpx.Client, rng: np.random.Generator) -> dict[str, Any]:
    one = event(rng)
    context = {"visit": one["visit"], "place": one["place"]}
    if rng.random() < 0.5:
        return client.post("/recommend", json={"user": one["user"], "context": context, "k": 5}).json()
    return client.post("/rank", json={"user": one["user"], "context": context, "candidates": [3, 12345, 5]}).json()


def test_served_values_follow_from_the_events_that_the_service_knew(
    spec: DatasetSpec, lake: Lake, engine: Engine, client: httpx.Client, tmp_path: Path
) -> None:
    rng, answers = np.random.default_rng(4), []
    for number in range(40):
        assert client.post("/events", json={"examples": [event(rng)]}).status_code == 202
        answers.append(ask(client, rng))
        if number % 7 == 6:
            engine.refresh()
    engine.journal.rotate(at_once=True)
    assert engine.served is not None
    engine.served.flush()
    land(spec, lake, tmp_path / "stream")
    found = compare_served(spec, NEXT, lake, UPath(tmp_path / "stream"))
    assert found is not None and found.requests == 40
    assert found.rows == sum(len(answer["items"]) for answer in answers)
    assert {one.value for one in found.differences} == {"seen", "near", "active", "history:last", "seen_here"}
    assert found.unexplained == 0
    assert sum(one.differing for one in found.differences) > 0, "new events count from the next refresh on"
    assert found.lag_seconds[1.0] > 0
    rows = pa.concat_tables([pq.read_table(path) for path in (tmp_path / "stream/served").glob("rows-*.parquet")])
    first = rows.filter(pa.compute.equal(rows["request_id"], answers[0]["request_id"])).sort_by("position")
    assert first["item"].to_pylist() == [one["item"] for one in answers[0]["items"]]


def test_without_new_events_every_value_is_that_of_the_lake(
    spec: DatasetSpec, lake: Lake, engine: Engine, client: httpx.Client, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    for _ in range(10):
        ask(client, rng)
    assert engine.served is not None
    engine.served.flush()
    with pytest.raises(MissingPartition):
        compare_served(spec, NEXT, lake, UPath(tmp_path / "stream"))
    put_raw(lake, spec, raw_rows().slice(0, 0), NEXT)
    write_event_day(spec, NEXT, lake)
    found = compare_served(spec, NEXT, lake, UPath(tmp_path / "stream"))
    assert found is not None and found.requests == 10 and sum(one.differing for one in found.differences) == 0
    assert compare_served(spec, DAY, lake, UPath(tmp_path / "stream")) is None


def test_values_of_users_alone_are_logged_when_no_feature_needs_the_columns_of_candidates(tmp_path: Path) -> None:
    users = [table for table in TABLES if table["entity"] == ["user"]]
    clicks = {
        "name": "clicks_1h",
        "column": "clicks_1h",
        "bucketise": [1, 2, 4],
    }  # not dense: all dense features are of the request
    sparse = ["user", "item", "place", {"name": "history", "history": 3}, clicks]
    spec = spec_of(feature_tables=users, dense=["active"], sparse=sparse)
    held, stream = table_lake(tmp_path / "held", spec), UPath(tmp_path / "other")
    engine = start(spec, held, stream)
    with serving(create_serving_app(engine, None)) as url, httpx.Client(base_url=url, timeout=30) as client:
        assert engine.served is not None and engine.recommender is not None
        engine.recommender.item_sides.counts.clear()
        assert client.post("/recommend", json={"user": 3, "context": {"place": "here"}}).json()["items"]
    engine.served.flush()
    assert engine.recommender.item_sides.counts == {"item_sides": 1}
    put_raw(held, spec, raw_rows().slice(0, 0), NEXT)
    write_event_day(spec, NEXT, held)
    found = compare_served(spec, NEXT, held, stream)
    assert found is not None and found.requests == 1 and [one.value for one in found.differences] == ["active"]


def test_values_that_no_known_event_explains_are_found(
    spec: DatasetSpec, lake: Lake, engine: Engine, client: httpx.Client, tmp_path: Path
) -> None:
    """The log of the service says that it knew an event, and the served values do not count it."""
    rng = np.random.default_rng(6)
    answer = ask(client, rng)
    assert engine.served is not None and answer["items"]
    engine.served.flush()
    (path,) = (tmp_path / "stream/served").glob("rows-*.parquet")
    rows = pq.read_table(path)
    at = rows["event_time"][0].as_py()
    lost = {name: rows[name][0].as_py() for name in ("user", "item", "visit", "place")}
    engine.served.refreshed(
        rows["refreshed_at"][0].as_py(),
        [pa.table({"event_time": [at - HOUR], **{name: [lost[name]] for name in spec.table_columns}, "arrived": [0]})],
    )
    engine.served.flush()
    put_raw(lake, spec, pa.table({"event_time": [max(END, at - HOUR)], "time": [0], **{n: [v] for n, v in lost.items()}}), NEXT)
    write_event_day(spec, NEXT, lake)
    found = compare_served(spec, NEXT, lake, UPath(tmp_path / "stream"))
    assert found is not None and found.unexplained > 0


def test_a_killed_service_continues_with_a_log_of_its_own(
    spec: DatasetSpec, lake: Lake, engine: Engine, client: httpx.Client, tmp_path: Path
) -> None:
    rng = np.random.default_rng(7)
    for _ in range(5):
        client.post("/events", json={"examples": [event(rng)]})
    engine.journal.rotate(at_once=True)
    engine.refresh()
    ask(client, rng)
    assert engine.served is not None
    engine.served.flush()
    again = start(spec, lake, UPath(tmp_path / "stream"))
    with serving(create_serving_app(again, None)) as url, httpx.Client(base_url=url, timeout=30) as other:
        ask(other, rng)
    land(spec, lake, tmp_path / "stream")
    found = compare_served(spec, NEXT, lake, UPath(tmp_path / "stream"))
    assert found is not None and found.requests == 2 and found.unexplained == 0


def test_a_dataset_without_feature_tables_logs_nothing(tmp_path: Path) -> None:
    from tests.helpers.kiosk_lake import kiosk_lake

    plain = start(spec_of(), kiosk_lake(tmp_path / "lake"), UPath(tmp_path / "stream"))
    assert plain.served is None and not (tmp_path / "stream" / "served").exists()
