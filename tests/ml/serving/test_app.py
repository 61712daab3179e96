"""The service over HTTP: answers, refusals, the token, and new models while it runs."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from upath import UPath

from ml.http.server import serving
from ml.lake import Lake
from ml.serving import app
from ml.serving.app import create_serving_app
from ml.serving.engine import Engine
from ml.serving.journal import Journal
from ml.serving.models import NoModel
from ml.serving.start import start
from tests.helpers.failing_disk import failing
from tests.helpers.kiosk_days import DAYS
from tests.helpers.kiosk_lake import END, export, put_raw, raw_rows, spec_of

TOKEN = "secret"


@pytest.fixture
def client(engine: Engine) -> Iterator[httpx.Client]:
    with (
        serving(create_serving_app(engine, TOKEN)) as url,
        httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30) as client,
    ):
        yield client


def post(client: httpx.Client, path: str, body: Any, status: int = 200) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_a_request_is_answered_and_counted(client: httpx.Client) -> None:
    user = client.get("/users").json()["users"][0]
    answer = post(client, "/recommend", {"user": user, "k": 3, "explain": True})
    assert len(answer["items"]) == 3 and answer["model"] == "dlrm" and answer["version"] == DAYS[0]
    assert set(answer["items"][0]["reasons"]) >= {"user", "place"}
    assert answer["items"][0]["labels"] is None  # the model has one label
    ranked = post(client, "/rank", {"user": user, "candidates": [item["item"] for item in answer["items"]]})
    assert [item["item"] for item in ranked["items"]] == [item["item"] for item in answer["items"]]
    assert 'evergreen_requests_total{route="/recommend",status="200"} 1.0' in client.get("/metrics").text
    version = client.get("/version").json()
    assert version["items"] > 0
    assert version["ranker"] == {"model": "dlrm", "version": DAYS[0], "pinned": None, "refusal": None}


def test_stored_events_change_the_next_answer(client: httpx.Client, engine: Engine) -> None:
    user = client.get("/users").json()["users"][0]
    first = post(client, "/recommend", {"user": user})["items"][0]["item"]
    assert post(client, "/events", {"examples": [{"user": user, "item": first}]}, 202) == {"stored": 1}
    assert post(client, "/recommend", {"user": user})["context"][0] == first


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/recommend", {"user": "x"}, "user: expected int64"),
        ("/recommend", {"user": 3.5}, "user: expected int64, found 3.5"),
        ("/recommend", {"k": 0}, "k"),
        ("/recommend", {"kk": 1}, "kk"),
        ("/recommend", {"context": {"nope": 1}}, "context.nope"),
        ("/recommend", {"context": {"visit": [1]}}, "context.visit: expected int64, found [1]"),
        ("/rank", {"context": {"visit": "x"}, "candidates": [1]}, "context.visit: expected int64"),
        ("/rank", {"context": {"visit": 3.5}, "candidates": [1]}, "context.visit: expected int64, found 3.5"),
        ("/recommend", {"filters": {"nope": [1]}}, "filters.nope"),
        ("/rank", {"candidates": []}, "candidates"),
        ("/rank", {"candidates": ["x"]}, "candidates"),
        ("/rank", {"candidates": [3.5]}, "candidates: 3.5 is not an integer"),
        ("/rank", {"candidates": [1, {"item": 1}]}, "candidates"),
        ("/rank", {"candidates": [{"nope": 1}]}, "candidates[0].nope"),
        ("/events", {"examples": [{"item": "x"}]}, "examples[0].item"),
        ("/events", {"actions": [{"item": 1}]}, "actions"),
    ],
)
def test_a_wrong_request_is_refused_by_name(client: httpx.Client, path: str, body: Any, said: str) -> None:
    assert said in post(client, path, body, 400)["message"]


def test_an_error_of_the_model_is_logged_and_hidden_from_the_client(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("lost shard")

    monkeypatch.setattr(engine.ranking.bundle.predictor, "predict_labels", broken)
    with serving(create_serving_app(engine, None)) as url, httpx.Client(base_url=url, timeout=30) as client:
        answer = post(client, "/rank", {"candidates": [{"item": 1}]}, 500)
    assert answer == {"message": "Internal Server Error", "status": 500}
    assert "ValueError: lost shard" in caplog.text  # once the server has stopped, since it logs after it has answered


def test_without_the_token_only_health_and_the_page_answer(client: httpx.Client) -> None:
    url = str(client.base_url)
    assert httpx.get(url + "/health").status_code == 200
    page = httpx.get(url)
    assert page.status_code == 200 and "script-src" in page.headers["content-security-policy"] and TOKEN not in page.text
    for path in ("/version", "/metrics", "/users", "/openapi.json"):
        assert httpx.get(url + path).status_code == 401
    assert httpx.post(url + "/recommend", json={}).status_code == 401


def test_rows_are_ranked_without_an_item_column(lake: Lake, tmp_path: Path) -> None:
    spec = spec_of()
    engine = start(spec, lake, UPath(tmp_path / "stream"))
    engine.recommender = None
    with serving(create_serving_app(engine, None)) as url, httpx.Client(base_url=url, timeout=30) as client:
        assert "use /rank" in post(client, "/recommend", {}, 409)["message"]
        rows = [{"item": 1, "clicks_1h": 2}, {"item": 2, "clicks_1h": 9}]
        answer = post(client, "/rank", {"user": 1, "context": {"place": "here"}, "candidates": rows})
        assert sorted(str(item["item"]) for item in answer["items"]) == sorted(map(str, rows))
        metrics = client.get("/metrics").text
        assert "evergreen_live_items 0.0" in metrics and "evergreen_items_age_seconds 0.0" in metrics


def two_labels(tmp_path: Path, model: str = "dlrm") -> Engine:
    """A service whose model predicts whether an item is liked, and whether it is saved."""
    columns = {"time": "int", "user": "int", "item": "int", "visit": "int", "place": "string", "liked": "int", "saved": "int"}
    spec = spec_of(
        source={"files": "*.csv", "format": "csv", "columns": columns},
        label={"column": "liked"},
        labels={"saved": {}},
        dense=["visit"],
        sparse=["user", "item", "place"],
        models={model: {"overrides": {"tables": {"default": {"kind": "hashed", "rows": 512}}}}},
    )
    lake, rows = Lake.at(tmp_path / "labels"), raw_rows()
    for name in ("liked", "saved"):
        rows = rows.append_column(name, pa.array([n % 2 for n in range(len(rows))]))
    put_raw(lake, spec, rows)
    export(lake, spec, model)
    return start(spec, lake, UPath(tmp_path / "stream"))


@pytest.mark.parametrize(("model", "scored_by"), [("dlrm", "item_sides"), ("deepfm", "bundle")])
def test_ranked_items_have_the_probability_of_each_label(model: str, scored_by: str, tmp_path: Path) -> None:
    engine = two_labels(tmp_path, model)
    recommender, request = engine.recommender, {"user": 1, "context": {"place": "here", "visit": 5}}
    assert recommender is not None
    recommender.item_sides.counts.clear()
    live = recommender.source.live.items["item"].to_pylist()
    with serving(create_serving_app(engine, None)) as url, httpx.Client(base_url=url, timeout=30) as client:
        answers = [post(client, "/recommend", request | {"k": 9})["items"]]
        answers += [
            post(client, "/rank", request | {"candidates": items})["items"] for items in (live[:9], [*live[:4], 99_999])
        ]
        said = client.get("/openapi.json").json()["components"]["schemas"]["Item"]["properties"]["labels"]["description"]
    assert recommender.item_sides.counts == {scored_by: 2}  # an item that is not live has no side
    assert "label" in said
    for items in answers:
        given = {"user": 1, "place": "here", "visit": 5, "event_time": END}
        rows = pa.RecordBatch.from_pylist([given | {"item": of["item"]} for of in items])
        wanted = engine.ranking.bundle.predict_labels(rows)
        for name, column in zip(("label", "saved"), wanted.T, strict=True):
            assert [of["labels"][name] for of in items] == pytest.approx(column.tolist(), rel=1e-5)
            assert column.std() > 1e-4
        assert [of["labels"]["label"] for of in items] == [of["score"] for of in items]
        assert [of["score"] for of in items] == sorted((of["score"] for of in items), reverse=True)


def test_ranked_rows_have_the_probability_of_each_label(tmp_path: Path) -> None:
    engine = two_labels(tmp_path)
    rows = [{"item": 1, "visit": 3}, {"item": 2, "visit": 40}]
    with serving(create_serving_app(engine, None)) as url, httpx.Client(base_url=url, timeout=30) as client:
        items = post(client, "/rank", {"user": 1, "context": {"place": "here"}, "candidates": rows})["items"]
    columns = {"user": [1, 1], "place": ["here", "here"], "event_time": [END, END]}
    given = {**columns, "item": [of["item"]["item"] for of in items], "visit": [of["item"]["visit"] for of in items]}
    wanted = engine.ranking.bundle.predict_labels(pa.RecordBatch.from_pydict(given))
    assert [of["labels"] for of in items] == [
        {"label": pytest.approx(main, rel=1e-5), "saved": pytest.approx(saved, rel=1e-5)} for main, saved in wanted.tolist()
    ]
    assert [of["labels"]["label"] for of in items] == [of["score"] for of in items]


def test_a_newer_export_replaces_the_served_one(lake: Lake, engine: Engine) -> None:
    assert engine.ranking.version.version == DAYS[0]
    export(lake, spec_of(), "dlrm", DAYS[1], seed=7)
    engine.poll()
    assert engine.ranking.version.version == DAYS[1] and engine.ranking.version.last_refusal is None


def test_a_damaged_export_is_refused_and_the_old_one_served(lake: Lake, engine: Engine) -> None:
    before = engine.ranking.bundle
    export(lake, spec_of(), "dlrm", DAYS[1], seed=7)
    [weights, *_] = lake.partition("exported_models/dlrm", "kiosk", DAYS[1]).glob("weights-*")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    engine.poll()
    assert engine.ranking.bundle is before and DAYS[1] in (engine.ranking.version.last_refusal or "")
    engine.poll()  # it is not read again
    assert engine.ranking.bundle is before


@pytest.mark.parametrize("event", [{"event_time": None}, {"event_time": None, "time": END // 10**6 - 5}])
def test_an_event_with_a_time_of_null_leaves_its_user_answered(client: httpx.Client, event: dict[str, Any]) -> None:
    assert post(client, "/events", {"examples": [event | {"user": 3, "item": 5}]}, 202) == {"stored": 1}
    assert post(client, "/recommend", {"user": 3})["context"][0] == 5


@pytest.mark.parametrize(("column", "per_second"), [("event_time", 10**6), ("time", 1)])
def test_an_event_of_tomorrow_is_refused(client: httpx.Client, engine: Engine, column: str, per_second: int) -> None:
    ahead = {"user": 3, "item": 5, column: (engine.clock.now() // 10**6 + 86_400) * per_second}
    answer = post(client, "/events", {"examples": [{"item": 1}, ahead]}, 400)
    assert f"examples[1].{column}: expected" in answer["message"] and isinstance(engine.journal, Journal)
    assert engine.journal.is_published


def test_stored_events_that_cannot_be_observed_are_acknowledged(
    client: httpx.Client, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine.recommender is not None

    def broken(rows: pa.Table) -> None:
        raise ValueError("not finite")

    monkeypatch.setattr(engine.recommender.tables, "append", broken)
    assert post(client, "/events", {"examples": [{"user": 3, "item": 5}]}, 202) == {"stored": 1}


def test_journals_that_wait_are_reported_until_they_are_published(
    client: httpx.Client, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reported() -> tuple[str, str, bool]:
        health = client.get("/health")
        assert health.status_code == 200
        return (
            health.json()["status"],
            health.json()["events"]["examples"],
            'evergreen_waiting_journals{log="examples"} 1.0' in client.get("/metrics").text,
        )

    assert isinstance(engine.journal, Journal) and reported() == ("ok", "published", False)
    with monkeypatch.context() as patch:
        patch.setattr("ml.parquet.write_table", failing(errno.EACCES))
        post(client, "/events", {"examples": [{"user": 3, "item": 5}]}, 202)
        engine.journal.rotate(at_once=True)
        assert reported() == ("degraded", "waiting", True)
    engine.journal.rotate()
    assert reported() == ("ok", "published", False)


@pytest.mark.parametrize("is_broken", [True, False])
def test_a_model_that_fails_or_takes_long_holds_up_neither_events_nor_items(
    is_broken: bool, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine.recommender is not None and isinstance(engine.journal, Journal)
    held, stop = engine.recommender.source.live, threading.Event()

    def poll() -> bool:
        if is_broken:
            raise RuntimeError("broken")
        return stop.wait()

    monkeypatch.setattr(engine.ranking, "poll", poll)
    for name in ("POLL_SECONDS", "REFRESH_SECONDS"):
        monkeypatch.setattr(f"ml.serving.engine.{name}", 0.01)
    monkeypatch.setattr("ml.serving.journal.ROTATE_SECONDS", 0)
    engine.store({"examples": [{"user": 3, "item": 5}]}, engine.clock.now())
    thread = threading.Thread(target=engine.follow, args=(stop,))
    thread.start()
    try:
        for _ in range(3000):
            if engine.journal.is_published and engine.recommender.source.live is not held:
                break
            time.sleep(0.01)
        assert engine.journal.is_published and engine.recommender.source.live is not held
    finally:
        stop.set()
        thread.join()


def test_without_a_model_the_way_out_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoModel, match="make demo DATASET=kiosk"):
        start(spec_of(), Lake.at(tmp_path), UPath(tmp_path / "stream"))


def test_an_explained_answer_has_the_nearest_past_clicks_and_the_columns_of_the_request(client: httpx.Client) -> None:
    user = client.get("/users").json()["users"][0]
    answer = post(client, "/recommend", {"user": user, "k": 20, "explain": True})
    nearest = [item["nearest"] for item in answer["items"]]
    assert any(nearest) and all(len(own) <= 3 and set(own) <= set(answer["context"]) for own in nearest)
    assert answer["request"]["place"] in ("here", "there") and answer["filled"] == ["place"]
    given = post(client, "/recommend", {"user": user, "explain": True, "context": {"place": "elsewhere"}})
    assert given["request"] == {"place": "elsewhere"}
    plain = post(client, "/recommend", {"user": user})
    assert plain["request"] is None and plain["items"][0]["nearest"] is None
    nobody = post(client, "/recommend", {"user": None, "explain": True})
    assert nobody["request"] == {} and all(item["nearest"] == [] for item in nobody["items"])


def test_background_work_waits_while_requests_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MOST_WAIT_SECONDS", 3600.0)

    async def check() -> None:
        worker, answer = app._Worker(), threading.Event()
        worker.wait_until_idle()  # nothing to wait for
        requests = [asyncio.create_task(worker(answer.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        waiting = asyncio.create_task(asyncio.to_thread(worker.wait_until_idle))
        assert not (await asyncio.wait([waiting], timeout=0.2))[0]
        answer.set()
        await asyncio.wait_for(asyncio.gather(waiting, *requests), 60)
        worker.stop()

    asyncio.run(check())


def test_background_work_goes_on_if_requests_take_long() -> None:
    async def check() -> None:
        worker, answer = app._Worker(), threading.Event()
        request = asyncio.create_task(worker(answer.wait))
        await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.to_thread(worker.wait_until_idle), 60)
        assert not request.done()
        answer.set()
        await request
        worker.stop()

    asyncio.run(check())


@pytest.mark.parametrize(("path", "body"), [("/recommend", {"user": 3, "k": 2}), ("/rank", {"user": 3, "candidates": [1, 2]})])
def test_an_answer_names_the_version_that_has_scored(
    client: httpx.Client, engine: Engine, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    assert engine.recommender is not None
    before, score = post(client, path, body)["version"], engine.recommender.item_sides.score

    def replaced(*arguments: Any) -> Any:
        found = score(*arguments)
        bundle, _, digest = engine.ranking._served  # type: ignore[attr-defined]
        engine.ranking._served = bundle, "2030-01-01", digest  # type: ignore[attr-defined]
        return found

    monkeypatch.setattr(engine.recommender.item_sides, "score", replaced)
    assert post(client, path, body)["version"] == before
    monkeypatch.undo()
    assert post(client, path, body)["version"] == "2030-01-01"
