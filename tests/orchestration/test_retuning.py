"""The sensor requests a tuning once for each reason, for the day after the last report, and the checks name the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.resources import LakeResource
from assets.retune_checks import build_retune_checks
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.stages import EVALUATION_REPORTS, tuned_models
from ml.trials import retune
from ml.trials.retune import RetuneNeed
from orchestration.definitions import build_defs
from orchestration.retuning import CAUSE

DAY, NEXT = "2014-01-03", "2014-01-04"


@pytest.fixture
def needs(monkeypatch: pytest.MonkeyPatch) -> dict[str, RetuneNeed]:
    """What the reports ask for, by model."""
    found = {model: RetuneNeed(model, DAY, None, {}) for model in ("dlrm", "wide_deep", "deepfm", "dcn_v2")}
    monkeypatch.setattr(retune, "retune_needs", lambda spec, day, lake: found)
    return found


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.at(tmp_path / "home")
    with lake.write(EVALUATION_REPORTS, "criteo", DAY) as staging:
        lake.write_manifest(staging, {})
    return lake


def asks(model: str, *reasons: str, since: str | None = None) -> RetuneNeed:
    return RetuneNeed(model, DAY, since, {reason: f"{reason} of {model}" for reason in reasons})


def test_each_reason_is_requested_once(catalog: dict[str, DatasetSpec], lake: Lake, needs: dict[str, RetuneNeed]) -> None:
    resources: dict[str, Any] = {"lake": LakeResource(root=str(lake.root))}
    definitions = build_defs([catalog["criteo"]], resources)
    sensor = definitions.resolve_sensor_def("criteo_retuning")
    job = definitions.resolve_job_def("criteo_tuning")
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED

    with dg.DagsterInstance.ephemeral() as instance:

        def requested() -> list[dg.RunRequest]:
            context = dg.build_sensor_context(instance=instance, definitions=definitions, resources=resources)
            return list(sensor.evaluate_tick(context).run_requests or [])

        assert requested() == []
        needs["dlrm"] = asks("dlrm", "drift")
        (request,) = requested()
        assert request.partition_key == NEXT
        assert request.asset_selection == [dg.AssetKey(["criteo", "tuning_results", "dlrm"])]
        again = requested()
        assert [of.run_key for of in again] == [request.run_key]  # the same key: Dagster runs it once
        instance.create_run_for_job(job, tags={CAUSE: request.tags[CAUSE]}, status=dg.DagsterRunStatus.FAILURE)
        assert requested() == []  # also not after the tuning has failed
        needs["deepfm"] = asks("deepfm", "fall")
        assert [of.asset_selection for of in requested()] == [[dg.AssetKey(["criteo", "tuning_results", "deepfm"])]]
        needs["dlrm"] = asks("dlrm", "drift", since=DAY)  # drift after another tuning is another cause
        assert len(requested()) == 2
        with lake.write(tuned_models("dlrm"), "criteo", NEXT) as staging:
            lake.write_manifest(staging, {})
        assert len(requested()) == 1, "the day of dlrm is trained already"


def test_the_day_after_the_last_day_is_not_requested(
    catalog: dict[str, DatasetSpec], lake: Lake, needs: dict[str, RetuneNeed]
) -> None:
    with lake.write(EVALUATION_REPORTS, "criteo", "2014-01-07") as staging:
        lake.write_manifest(staging, {})
    needs["dlrm"] = asks("dlrm", "drift")
    resources: dict[str, Any] = {"lake": LakeResource(root=str(lake.root))}
    definitions = build_defs([catalog["criteo"]], resources)
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, definitions=definitions, resources=resources)
        tick = definitions.resolve_sensor_def("criteo_retuning").evaluate_tick(context)
    assert not tick.run_requests and "2014-01-08" in (tick.skip_message or "")


def test_checks_name_the_reason(catalog: dict[str, DatasetSpec], lake: Lake, needs: dict[str, RetuneNeed]) -> None:
    spec = catalog["criteo"]
    needs["dlrm"] = asks("dlrm", "drift", "fall")
    upstream = [dg.AssetSpec(dg.AssetKey([spec.name, stage])) for stage in (EVALUATION_REPORTS, "feature_profiles")]
    keys = [dg.AssetCheckKey(upstream[0].key, f"retune_{model}") for model in ("dlrm", "deepfm")]
    job = dg.define_asset_job("checks_alone", dg.AssetSelection.checks(*keys))
    defs = dg.Definitions(
        upstream, asset_checks=[build_retune_checks(spec)], resources={"lake": LakeResource(root=str(lake.root))}, jobs=[job]
    )
    with dg.DagsterInstance.ephemeral() as instance:
        found = defs.resolve_job_def("checks_alone").execute_in_process(instance=instance).get_asset_check_evaluations()
    evaluations = {each.check_name: each for each in found}
    assert {name: each.passed for name, each in evaluations.items()} == {"retune_dlrm": False, "retune_deepfm": True}
    explanation = evaluations["retune_dlrm"].metadata["explanation"].value
    assert explanation == "dlrm should be tuned again: drift of dlrm; fall of dlrm"
