"""What another process finds out about a running service: faults of its models, its journals, and its own end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from upath import UPath

from ml.http.server import serving
from ml.lake import Lake
from ml.serving.announced import FILE, Announcement, DamagedAnnouncement
from ml.serving.app import create_serving_app
from ml.serving.engine import Engine
from ml.serving.pins import Pins
from ml.serving.start import start
from ml.serving.watched import STALE_SECONDS, WatchedModel, WatchedService, watch_service
from tests.helpers.kiosk_days import DAYS
from tests.helpers.kiosk_lake import DAY, export, kiosk_lake, put_raw, raw_rows, spec_of

SPEC, TOKEN, RUN = spec_of(), "word", "8c1f"
CURRENT = [WatchedModel("dlrm", DAY, "current"), WatchedModel("two_tower", DAY, "current")]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return kiosk_lake(tmp_path / "lake")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text(TOKEN + "\n")
    return tmp_path / "serving"


@pytest.fixture
def engine(lake: Lake, tmp_path: Path, folder: Path) -> Engine:
    put_raw(lake, SPEC, raw_rows(), DAYS[1])
    return start(SPEC, lake, UPath(tmp_path / "stream"), pins=Pins(folder))


def watched(lake: Lake, folder: Path) -> WatchedService:
    found = watch_service(SPEC, lake, folder)
    assert found is not None
    return found


def age(lake: Lake, model: str, day: str, seconds: float) -> None:
    path = lake.partition(f"exported_models/{model}", SPEC.name, day) / "manifest.json"
    written = time.time() - seconds
    os.utime(path.path, (written, written))


def test_a_refused_model_and_a_journal_that_waits_are_reported(lake: Lake, engine: Engine, folder: Path) -> None:
    assert watch_service(SPEC, lake, folder) is None, "no service is announced"
    with serving(create_serving_app(engine, TOKEN, instance=RUN)) as url:
        Announcement([url], str(folder.parent / "token"), RUN).write(folder)
        assert watched(lake, folder) == WatchedService(url, CURRENT)
        export(lake, SPEC, "dlrm", DAYS[1], change=float("nan"))
        engine.poll()
        (engine.journal.root / "examples").write_text("a file in place of the folder")  # type: ignore[union-attr]
        engine.store({"examples": [{"user": 3, "item": 7}]}, engine.clock.now())
        engine.journal.rotate(at_once=True)  # type: ignore[union-attr]
        found = watched(lake, folder)
        refused, waiting = found.reasons
        assert refused.startswith("dlrm: the newest version is refused (not_finite: export of")
        assert waiting == "stored events of examples cannot be published; the log of the service has the reason"
        assert [(model.version, model.status) for model in found.models] == [(DAY, "refused"), (DAY, "current")]


def test_a_service_without_a_newer_export_is_reported_after_a_while(lake: Lake, engine: Engine, folder: Path) -> None:
    engine.follow = lambda stop, wait=None: stop.wait()  # type: ignore[method-assign]  # as if it were stuck
    with serving(create_serving_app(engine, None, instance=RUN)) as url:
        Announcement([url], None, RUN).write(folder)
        export(lake, SPEC, "dlrm", DAYS[1])
        assert watched(lake, folder).reasons == []
        age(lake, "dlrm", DAYS[1], STALE_SECONDS + 60)
        text = f"dlrm: {DAY} is served, although the lake has had the export of {DAYS[1]} for 300 s"
        assert watched(lake, folder).reasons == [text]
        Pins(folder).pin("dlrm", DAY)
        engine.poll()
        assert watched(lake, folder).reasons == [], "a person has chosen the day"
        Pins(folder).unpin("dlrm")
        engine.poll()
        assert watched(lake, folder).reasons == [] and engine.ranking.version.version == DAYS[1]


def test_a_killed_service_is_reported_with_the_way_out(lake: Lake, folder: Path) -> None:
    with serving(lambda *_: None) as url:  # type: ignore[arg-type, return-value]
        pass
    Announcement([url], None, RUN).write(folder)
    found = watched(lake, folder)
    assert found.url == url and found.models == []
    assert found.reasons == [
        f"the service does not answer ({url}/health: ConnectionError); start it again with `make serve DATASET=kiosk`, "
        f"or delete {folder / FILE} if none is wanted"
    ]


def test_a_service_is_found_under_any_of_its_addresses(lake: Lake, engine: Engine, folder: Path) -> None:
    with serving(create_serving_app(engine, TOKEN, instance=RUN)) as url:
        Announcement(["http://127.0.0.1:1", url], str(folder.parent / "token"), RUN).write(folder)
        assert watched(lake, folder) == WatchedService(url, CURRENT)


@pytest.mark.parametrize(
    ("token", "reason"), [("missing", "No such file"), ("wrong", "status 401"), ("binary", "can't decode")]
)
def test_without_the_token_the_health_is_known_and_the_versions_are_not(
    lake: Lake, engine: Engine, folder: Path, token: str, reason: str
) -> None:
    path = folder.parent / token
    if token != "missing":
        path.write_bytes(b"other" if token == "wrong" else b"\xff")
    with serving(create_serving_app(engine, TOKEN, instance=RUN)) as url:
        Announcement([url], str(path), RUN).write(folder)
        found = watched(lake, folder)
    assert found.reasons == [] and {(model.version, model.status) for model in found.models} == {("", "current")}
    assert reason in str(found.versions_error)


class Other:
    """Another service. It answers each path with a given body, and keeps the headers of the requests."""

    def __init__(self, bodies: dict[str, Any]) -> None:
        self.bodies, self.asked = bodies, list[tuple[str, str | None]]()

    @contextmanager
    def running(self) -> Iterator[str]:
        app = FastAPI()

        @app.get("/{path:path}")
        def answer(path: str, request: Request) -> Response:
            self.asked.append((path, request.headers.get("authorization")))
            return Response(self.bodies[path])

        with serving(app) as url:
            yield url


HEALTH = {"instance": RUN, "models": {"dlrm": "current"}, "events": {}}


@pytest.mark.parametrize(
    "health",
    [
        json.dumps(HEALTH | {"instance": "77ab"}),
        json.dumps({"status": "ok"}),
        json.dumps(HEALTH | {"models": ["dlrm"]}),
        json.dumps(HEALTH | {"models": {"dlrm": None}}),
        json.dumps(HEALTH | {"events": "none"}),
        "[]",
        "<html>",
        b"\xff",
    ],
)
def test_another_service_at_the_address_is_reported_and_gets_no_token(lake: Lake, folder: Path, health: str | bytes) -> None:
    other = Other({"health": health})
    with other.running() as url:
        Announcement([url], str(folder.parent / "token"), RUN).write(folder)
        found = watched(lake, folder)
    assert found.models == [] and other.asked == [("health", None)]
    assert found.reasons[0].startswith(f"the service does not answer (another service answers on {url}); start it again")


@pytest.mark.parametrize("version", [{}, {"models": {"dlrm": {}}, "ranker": {}}, {"models": [], "ranker": {"model": "dlrm"}}])
def test_versions_of_another_shape_are_unknown(lake: Lake, folder: Path, version: dict[str, Any]) -> None:
    with Other({"health": json.dumps(HEALTH), "version": json.dumps(version)}).running() as url:
        Announcement([url], None, RUN).write(folder)
        found = watched(lake, folder)
    assert found == WatchedService(url, [WatchedModel("dlrm", "", "current")], [], f"another service answers on {url}")


def test_the_service_is_found_behind_an_address_of_another(lake: Lake, engine: Engine, folder: Path) -> None:
    other = Other({"health": json.dumps({"status": "ok"})})
    with serving(create_serving_app(engine, TOKEN, instance=RUN)) as url, other.running() as wrong:
        Announcement([wrong, url], str(folder.parent / "token"), RUN).write(folder)
        assert watched(lake, folder) == WatchedService(url, CURRENT)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"urls": [], "token": null, "instance": "8c1f"}', '{"urls": ["http://a"], "token": null}', "\udcff"]
)
def test_a_damaged_announcement_is_refused_with_its_name(lake: Lake, folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / FILE).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DamagedAnnouncement, match=FILE):
        watch_service(SPEC, lake, folder)
