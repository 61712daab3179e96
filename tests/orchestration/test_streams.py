"""The stream sensor asks for training when files have arrived."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from upath import UPath

from assets.resources import LakeResource, LandingResource, SyncResource
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.online import arriving_day
from ml.online.stream import stream_folder
from orchestration.definitions import build_defs
from tests.helpers.arriving import DAYS, SPEC, recipe, write_files


@pytest.fixture
def resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    monkeypatch.setattr(arriving_day, "recipe_in_use", lambda *_: recipe())
    found = {"lake": LakeResource(root=str(tmp_path)), "landing": LandingResource(root=str(tmp_path / "landing"))}
    return found | {"sync": SyncResource(root=str(tmp_path / "sync"))}


def tick(spec: DatasetSpec, resources: dict[str, Any], instance: dg.DagsterInstance, cursor: str | None = None) -> Any:
    definitions = build_defs([spec], resources)
    context = dg.build_sensor_context(instance=instance, definitions=definitions, resources=resources, cursor=cursor)
    return definitions.resolve_sensor_def(f"{spec.name}_stream").evaluate_tick(context)


def test_files_that_no_checkpoint_has_are_trained_on_and_days_are_sealed(tmp_path: Path, resources: dict[str, Any]) -> None:
    root = stream_folder(UPath(tmp_path), SPEC.name)
    with dg.DagsterInstance.ephemeral() as instance:
        assert "has no stream folder" in str(tick(SPEC, resources, instance).skip_message)
        write_files(root, 0, 2)
        write_files(root, 1, 1)
        (request,) = tick(SPEC, resources, instance).run_requests
        assert request.run_key == f"{DAYS[1]}-000.parquet:3"
        job = build_defs([SPEC], resources).resolve_job_def(f"{SPEC.name}_arriving")
        assert job.execute_in_process(instance=instance).success
        lake = Lake.at(tmp_path)
        assert lake.days("online_updates/dlrm", SPEC.name) == [DAYS[0]]
        asset = dg.AssetKey([SPEC.name, "online_updates", "dlrm"])
        assert instance.get_materialized_partitions(asset) == {DAYS[0]}
        assert "every file of the stream was trained on" in str(tick(SPEC, resources, instance).skip_message)
        write_files(root, 1, 2)
        (request,) = tick(SPEC, resources, instance).run_requests
        assert request.run_key == f"{DAYS[1]}-001.parquet:1"
