"""The weekly tuning serves the day that has just ended, also of a log without an end, once the window of a model is full."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path

import dagster as dg
import pytest

from assets.resources import LakeResource
from ml.catalog.load import load_dataset
from ml.catalog.spec import DatasetSpec
from ml.days import trailing_days
from ml.lake import Lake
from ml.stages import MDS_DATASETS
from orchestration.definitions import build_defs
from tests.helpers.paths import ROOT


@pytest.mark.parametrize(("end", "tuned"), [(None, True), (date(2026, 3, 1), True), (date(2026, 2, 1), False)])
def test_sunday_is_tuned_on_monday(catalog: dict[str, DatasetSpec], lake: Lake, end: date | None, tuned: bool) -> None:
    spec = catalog["synthetic"]
    partitions = spec.partitions.model_copy(update={"start": date(2026, 1, 1), "end": end})
    definitions = build_defs([spec.model_copy(update={"partitions": partitions})])
    schedule = definitions.resolve_schedule_def("synthetic_tuning_schedule")
    monday = datetime(2026, 3, 2, 0, 10, tzinfo=spec.zone)
    days = trailing_days("2026-03-01", 5)
    with lake.write(MDS_DATASETS, spec.name, days[0]) as folder:
        lake.write_manifest(folder, {"rows": 1})
    resources = {"lake": LakeResource(root=str(lake.root))}
    with dg.build_schedule_context(scheduled_execution_time=monday, resources=resources) as context:
        early = schedule(context)
    assert isinstance(early, dg.SkipReason) and (not tuned or days[-1] in str(early.skip_message)), "the window is not full"
    for day in days[1:]:
        with lake.write(MDS_DATASETS, spec.name, day) as folder:
            lake.write_manifest(folder, {"rows": 1})
    with dg.build_schedule_context(scheduled_execution_time=monday, resources=resources) as context:
        result = schedule(context)
    assert (result.partition_key if isinstance(result, dg.RunRequest) else None) == ("2026-03-01" if tuned else None)


def test_only_models_with_a_full_window_are_tuned(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "criteo.yaml").write_text((ROOT / "catalog" / "criteo.yaml").read_text())
    edits = tmp_path / "recipes" / "criteo" / "deepfm.yaml"
    edits.parent.mkdir(parents=True)
    edits.write_text("sigopt: {window_days: 3}")
    spec = load_dataset(tmp_path / "criteo.yaml")
    for day in trailing_days("2014-01-05", 4):  # the other models need five days
        with lake.write(MDS_DATASETS, spec.name, day) as folder:
            lake.write_manifest(folder, {"rows": 1})
    schedule = build_defs([spec]).resolve_schedule_def("criteo_tuning_schedule")
    monday = datetime(2014, 1, 6, 0, 10, tzinfo=spec.zone)
    resources = {"lake": LakeResource(root=str(lake.root))}
    with dg.build_schedule_context(scheduled_execution_time=monday, resources=resources) as context:
        request = schedule(context)
    assert isinstance(request, dg.RunRequest) and request.partition_key == "2014-01-05"
    assert request.asset_selection == [dg.AssetKey(["criteo", "tuning_results", "deepfm"])]
