"""Requests with unsigned ids and padded texts find the rows that the log has for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.http.server import serving
from ml.lake import Lake
from ml.serving.app import create_serving_app
from ml.serving.start import start
from tests.helpers.kiosk_days import DAYS, kiosk_day, put_features
from tests.helpers.kiosk_lake import export, put_raw, raw_rows, spec_of

COLUMNS = {"time": "int", "user": "string", "item": "int", "visit": "int", "place": "string"}


def hashed_spec() -> DatasetSpec:
    """The kiosk with users of text and items that are unsigned hashes."""
    source = {"files": "*.csv", "format": "csv", "columns": COLUMNS, "unsigned": ["item"], "trim": True}
    return spec_of(source=source)


def hashed_rows() -> pa.Table:
    """Rows as the lake holds them: half of the items are negative."""
    rows = raw_rows()
    items = rows["item"].to_numpy() * np.where(rows["item"].to_numpy() % 2, 1, -1)
    rows = rows.set_column(rows.column_names.index("item"), "item", pa.array(items))
    return rows.set_column(rows.column_names.index("user"), "user", pa.array([f"u{user}" for user in rows["user"].to_pylist()]))


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    spec, lake = hashed_spec(), Lake.at(str(tmp_path / "lake"))
    put_raw(lake, spec, hashed_rows())
    put_features(lake, spec, DAYS[0], kiosk_day(spec, DAYS[0]))
    for model in spec.models:
        export(lake, spec, model)
    engine = start(spec, lake, UPath(tmp_path / "stream"))
    with serving(create_serving_app(engine, None)) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def post(client: httpx.Client, path: str, body: Any, status: int = 200) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_padded_users_and_unsigned_items_meet_the_rows_of_the_log(client: httpx.Client) -> None:
    user = client.get("/users").json()["users"][0]
    plain = post(client, "/recommend", {"user": user, "k": 50})
    padded = post(client, "/recommend", {"user": f"  {user} ", "k": 50})
    assert plain["context"] and padded["context"] == plain["context"] and "place" in padded["filled"]
    scores = {one["item"]: one["score"] for one in plain["items"]}
    assert {one["item"]: one["score"] for one in padded["items"]} == scores
    large = [item for item in scores if item >= 2**63]
    assert large and min(scores) > 0, "items are answered as the log has them"
    assert all(one["columns"]["item"] == one["item"] for one in plain["items"])

    signed = [item - 2**64 for item in large]
    for sent in (large, signed, [str(item) for item in large]):
        ranked = post(client, "/rank", {"user": f"{user} ", "candidates": sent})["items"]
        assert sorted(map(str, sent)) == sorted(str(one["item"]) for one in ranked), "as the request has them"
        assert [one["score"] for one in ranked] == pytest.approx(sorted((scores[item] for item in large), reverse=True))
    small = next(item for item in scores if item < 256)
    for mixed in ([small, str(small), f" {small}", small], [str(large[0]), large[0], signed[0]]):
        ranked = post(client, "/rank", {"user": user, "candidates": mixed})["items"]
        assert [one["item"] for one in ranked] == mixed, "each candidate as the request has it, those that are equal too"
    only = post(client, "/recommend", {"user": user, "k": 50, "filters": {"item": large}})["items"]
    assert {one["item"] for one in only} == set(large)
    rows = post(client, "/rank", {"user": user, "candidates": [{"item": large[0], "place": " here "}]})["items"]
    again = post(client, "/rank", {"user": user, "candidates": [{"item": signed[0], "place": "here"}]})["items"]
    assert rows[0]["score"] == again[0]["score"] and rows[0]["item"] == {"item": large[0], "place": " here "}


def test_events_are_stored_as_the_log_is_read(client: httpx.Client) -> None:
    user, item = client.get("/users").json()["users"][0], 2**64 - 2
    assert post(client, "/events", {"examples": [{"user": f" {user}", "item": item}]}, 202) == {"stored": 1}
    assert post(client, "/recommend", {"user": user})["context"][0] == item


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/events", {"examples": [{"visit": 2**63}]}, "examples[0].visit: expected int64"),
        ("/rank", {"candidates": [2**64]}, "candidates"),
        ("/rank", {"candidates": ["9" * 5000]}, "candidates"),
        ("/events", {"examples": [{"item": "9" * 5000}]}, "examples[0].item: expected int64"),
    ],
)
def test_other_ints_that_are_too_large_are_refused(client: httpx.Client, path: str, body: Any, said: str) -> None:
    assert said in post(client, path, body, 400)["message"]
