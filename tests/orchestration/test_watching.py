"""The serving sensor reports servers that lag behind and services that are not healthy, whenever that changes."""

from __future__ import annotations

import time
from collections.abc import Iterator
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

SPEC, RUN = spec_of(), "8c1f"


@pytest.fixture
def resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    found = {"lake": LakeResource(root=str(tmp_path)), "sync": SyncResource(root=str(tmp_path / "sync"))}
    return found | {"serving": ServingResource(root=str(tmp_path / "serving"))}


class Sensor:
    """The sensor of a dataset, and the results of checks that its instance stores."""

    def __init__(self, spec: DatasetSpec, resources: dict[str, Any], instance: dg.DagsterInstance) -> None:
        self._definitions, self._resources, self._instance = build_defs([spec], resources), resources, instance
        self.sensor = self._definitions.resolve_sensor_def(f"{spec.name}_serving")

    def tick(self) -> tuple[list[Any], str]:
        """The results of checks that it reports, and the message of the tick."""
        context = dg.build_sensor_context(instance=self._instance, definitions=self._definitions, resources=self._resources)
        done = self.sensor.evaluate_tick(context)
        for event in done.asset_events:
            self._instance.report_runless_asset_event(event)
        return list(done.asset_events), str(done.skip_message)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def sensor(resources: dict[str, Any], instance: dg.DagsterInstance) -> Sensor:
    return Sensor(SPEC, resources, instance)


def test_it_is_on_by_default_and_says_nothing_without_a_service(resources: dict[str, Any], sensor: Sensor) -> None:
    assert sensor.sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.tick() == ([], "services and receivers are healthy, or there are none")
    check: Any = build_health_check(SPEC)
    found = check(resources["lake"], resources["serving"])
    assert found.passed and found.metadata["service"].value == "none"


def test_a_server_that_lags_beyond_the_limit_fails_the_check(resources: dict[str, Any], sensor: Sensor) -> None:
    folder = resources["sync"].folder(SPEC.name, "dlrm")
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
    tmp_path: Path, sensor: Sensor
) -> None:
    lake, folder = kiosk_lake(tmp_path), tmp_path / "serving" / SPEC.name
    put_raw(lake, SPEC, raw_rows(), DAYS[1])
    engine = start(SPEC, lake, UPath(tmp_path / "stream"))
    with serving(create_serving_app(engine, None, instance=RUN)) as url:
        Announcement([url], None, RUN).write(folder)
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


def test_a_result_of_a_run_is_replaced_when_the_service_answers_again(
    tmp_path: Path, resources: dict[str, Any], instance: dg.DagsterInstance, sensor: Sensor
) -> None:
    folder = tmp_path / "serving" / SPEC.name
    Announcement(["http://127.0.0.1:1"], None, RUN).write(folder)
    check = build_health_check(SPEC)
    run = dg.define_asset_job("checks", dg.AssetSelection.checks(check))
    job = dg.Definitions(jobs=[run], asset_checks=[check], resources=resources).resolve_job_def("checks")
    assert job.execute_in_process(instance=instance).success, "a check that warns does not end the run"
    assert sensor.tick()[0] == [], "the run has stored the same"
    Announcement.withdraw(folder)
    (well,), _ = sensor.tick()
    assert (well.check_name, well.passed) == ("serving_health", True)
    assert sensor.tick()[0] == []


def test_a_token_that_cannot_be_read_is_reported_although_the_check_passes(tmp_path: Path, sensor: Sensor) -> None:
    lake, token = kiosk_lake(tmp_path), tmp_path / "token"
    put_raw(lake, SPEC, raw_rows(), DAYS[1])
    engine = start(SPEC, lake, UPath(tmp_path / "stream"))
    with serving(create_serving_app(engine, "word", instance=RUN)) as url:
        Announcement([url], str(token), RUN).write(tmp_path / "serving" / SPEC.name)
        (unknown,), message = sensor.tick()
        assert unknown.passed and "old models cannot be found, because the versions are unknown" in message
        assert str(token) in unknown.metadata["explanation"].value and sensor.tick() == ([], message)
        token.write_text("word")
        (known,), _ = sensor.tick()
        assert known.passed and "explanation" not in known.metadata
