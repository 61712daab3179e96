"""The serving sensor reports servers that lag behind and services that are not healthy, whenever that changes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from upath import UPath

from assets.resources import LakeResource, ServingResource, SyncResource
from assets.serving_checks import build_health_check, build_lag_check
from ml.catalog.spec import DatasetSpec
from ml.http.server import serving
from ml.online import published
from ml.serving.announced import FILE, Announcement
from ml.serving.app import create_serving_app
from ml.serving.start import start
from ml.sync.folder import Acknowledgement
from orchestration.definitions import build_defs
from tests.helpers.kiosk_days import DAYS
from tests.helpers.kiosk_lake import export, kiosk_lake, put_raw, raw_rows, spec_of
from tests.ml.sync.test_lag import publish

SPEC = spec_of()


@pytest.fixture
def resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    found = {"lake": LakeResource(root=str(tmp_path)), "sync": SyncResource(root=str(tmp_path / "sync"))}
    return found | {"serving": ServingResource(root=str(tmp_path / "serving"))}


class Sensor:
    """The sensor of a dataset, with its cursor."""

    def __init__(self, spec: DatasetSpec, resources: dict[str, Any]) -> None:
        self._definitions, self._resources = build_defs([spec], resources), resources
        self.sensor, self._cursor = self._definitions.resolve_sensor_def(f"{spec.name}_serving"), None

    def tick(self) -> tuple[list[Any], str]:
        """The results of checks that it reports, and the message of the tick."""
        with dg.DagsterInstance.ephemeral() as instance:
            context = dg.build_sensor_context(
                instance=instance, definitions=self._definitions, resources=self._resources, cursor=self._cursor
            )
            done = self.sensor.evaluate_tick(context)
        self._cursor = done.cursor
        return list(done.asset_events), str(done.skip_message)


def test_it_is_on_by_default_and_says_nothing_without_a_service(resources: dict[str, Any]) -> None:
    sensor = Sensor(SPEC, resources)
    assert sensor.sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.tick() == ([], "services and receivers are healthy, or there are none")
    check: Any = build_health_check(SPEC)
    found = check(resources["lake"], resources["serving"])
    assert found.passed and found.metadata["service"].value == "none"


def test_a_server_that_lags_beyond_the_limit_fails_the_check(resources: dict[str, Any]) -> None:
    folder, sensor = resources["sync"].folder(SPEC.name, "dlrm"), Sensor(SPEC, resources)
    publish(folder, "snapshot", 0, time.time() - 1000)
    folder.acknowledge(Acknowledgement("server-1", "a1", 0, {}, time.time()))
    folder.acknowledge(Acknowledgement(published.NAME, "a1", 0, {}, time.time()))
    check: Any = build_lag_check(SPEC, "dlrm")
    assert check(resources["lake"], resources["sync"]).passed and sensor.tick()[0] == []
    publish(folder, "delta", 1, time.time() - 500)
    result = check(resources["lake"], resources["sync"])
    text = "server-1 did not serve a published version within 300 seconds"
    assert not result.passed and result.metadata["explanation"].value == text
    (event,), message = sensor.tick()
    assert (event.check_name, event.passed) == ("serving_lag", False) and message == f"serving_lag of dlrm: {text}"
    assert event.asset_key.path == ["kiosk", "online_updates", "dlrm"]
    assert sensor.tick() == ([], message)


def test_a_service_that_refuses_a_model_and_is_then_killed_fails_the_check_until_it_is_withdrawn(
    tmp_path: Path, resources: dict[str, Any]
) -> None:
    lake, folder, sensor = kiosk_lake(tmp_path), tmp_path / "serving" / SPEC.name, Sensor(SPEC, resources)
    put_raw(lake, SPEC, raw_rows(), DAYS[1])
    engine = start(SPEC, lake, UPath(tmp_path / "stream"))
    with serving(create_serving_app(engine, None)) as url:
        Announcement([url], None).write(folder)
        assert sensor.tick()[0] == []
        export(lake, SPEC, "two_tower", DAYS[1], change=float("nan"))
        engine.poll()
        (refused,), message = sensor.tick()
        assert "serving_health: two_tower: the newest version is refused (not_finite" in message
        records = [record.data for record in refused.metadata["models"].value.records]
        assert {record["model"]: record["status"] for record in records} == {"dlrm": "current", "two_tower": "refused"}
        assert sensor.tick() == ([], message)
    (gone,), message = sensor.tick()
    assert (gone.check_name, gone.passed) == ("serving_health", False) and "the service does not answer" in message
    assert gone.asset_key.path == ["kiosk", "exported_models", "dlrm"]
    (folder / FILE).write_text("{}")
    (damaged,), message = sensor.tick()
    assert not damaged.passed and str(folder / FILE) in message
    Announcement.withdraw(folder)
    (well,), _ = sensor.tick()
    assert well.passed
