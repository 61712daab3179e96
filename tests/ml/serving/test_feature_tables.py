"""The service computes the values of feature tables for the user, the items and their pairs, and counts misses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.http.server import serving
from ml.serving.app import create_serving_app
from ml.serving.engine import Engine
from ml.serving.start import start
from tests.helpers.kiosk_lake import raw_rows
from tests.helpers.kiosk_tables import table_lake, table_spec


@pytest.fixture
def spec() -> DatasetSpec:
    return table_spec()


@pytest.fixture
def engine(spec: DatasetSpec, tmp_path: Path) -> Engine:
    return start(spec, table_lake(tmp_path / "lake", spec), UPath(tmp_path / "stream"))


@pytest.fixture
def client(engine: Engine) -> Iterator[httpx.Client]:
    with serving(create_serving_app(engine, None)) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def test_values_of_users_items_and_pairs_change_with_events(engine: Engine) -> None:
    held, ranking, now = engine.recommender, engine.ranking.bundle, engine.clock.now()
    assert held is not None
    rows = raw_rows()
    context = {"visit": int(rows["visit"][-1].as_py()), "place": "here"}
    user, item = int(rows["user"][-1].as_py()), int(rows["item"][-1].as_py())
    items = pa.table({"item": [item, 12345]})
    row, of_items = held.row_of(ranking, user, {"place": "here"}, now), held.with_tables(items, user, context, now)
    assert row["active"].as_py() == (rows["user"].to_numpy() == user).sum() and len(row["history:last"].as_py()) == 3
    # At least 1 in the window that negatives are sampled from, as in the daily features.
    assert of_items["seen"].to_pylist() == [(rows["item"].to_numpy() == item).sum(), 1]
    here = (rows["item"].to_numpy() == item) & (np.array(rows["place"].to_pylist()) == "here")
    assert of_items["seen_here"].to_pylist() == [here.sum(), 0] and of_items["near"][1].as_py() == 0
    event = {"event_time": [now - 1], "user": [user], "item": [12345], "visit": [context["visit"]], "place": ["here"]}
    engine.observe(pa.table(event))
    engine.refresh()
    after, later = held.with_tables(items, user, context, now), held.row_of(ranking, user, {"place": "here"}, now)
    assert later["active"].as_py() == row["active"].as_py() + 1
    assert later["history:last"].as_py()[1:] == row["history:last"].as_py()[:2]
    assert after["seen_here"].to_pylist() == [here.sum(), 1]
    assert after["near"][0].as_py() > 0


def test_the_values_reach_the_model_and_misses_are_counted(client: httpx.Client) -> None:
    user = int(raw_rows()["user"][-1].as_py())
    body = {"user": user, "context": {"place": "here"}, "k": 5, "explain": True}
    answer = client.post("/recommend", json=body).json()
    assert len(answer["items"]) == 5 and not {"active", "seen", "near", "seen_here"} & {*answer["missing"], *answer["filled"]}
    reasons = {name for one in answer["items"] for name, change in one["reasons"].items() if change}
    assert {"active", "seen", "seen_here", "last"} <= reasons
    ranked = client.post("/rank", json={"user": user, "candidates": [12345, 1]}).json()
    assert len(ranked["items"]) == 2
    lines = dict(
        line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line.startswith("evergreen_feature")
    )
    looked, missed = (float(lines[f'evergreen_feature_{name}_total{{table="items"}}']) for name in ("lookups", "misses"))
    assert looked > 7 and missed == 1
    assert float(lines['evergreen_feature_misses_total{table="users"}']) == 0


def test_a_value_that_the_service_computes_is_refused(client: httpx.Client) -> None:
    for name, why in (("active", "a value of a feature table"), ("seen_here", "describes items")):
        found = client.post("/recommend", json={"user": 1, "context": {name: 3}})
        assert found.status_code == 400 and why in found.text
    assert client.post("/recommend", json={"user": 1, "context": {"visit": "abc"}}).status_code == 400
