"""The asset of an export: its metadata, and that it fails without a retry if the export is refused."""

import dagster as dg
import pytest

from assets import exported_models
from assets.resources import LakeResource
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.training.day import DayOptions, train_day
from tests.helpers.training_days import made_spec, small_recipe, write_days

COARSE = {"tables": {"features": {}, "init_scale": 2.0}, "table_optimizer": {"lr": 0.5}}


@pytest.fixture
def day(lake: Lake) -> str:
    (day,) = write_days(lake, made_spec(), 1, 600)
    train_day(made_spec(), day, lake, options=DayOptions(recipe=small_recipe(**COARSE), progress=False))
    return day


def run(lake: Lake, day: str, export: dict[str, object], instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    described = made_spec().model_dump(mode="json") | {"recipe": {"overrides": {"export": export}}}
    asset = exported_models.build(DatasetSpec.model_validate(described), "dlrm")
    resources = {"lake": LakeResource(root=str(lake.root))}
    return dg.materialize([asset], partition_key=day, resources=resources, instance=instance, raise_on_error=False)


def test_metadata_list_every_table_and_a_refused_export_fails_once(
    lake: Lake, day: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml.export.day.REFUSED_BELOW", 0.45)  # few rows can then prove a small loss
    with dg.DagsterInstance.ephemeral() as instance:
        done = run(lake, day, {"rows": "int8", "tables": {"a": "float16"}}, instance)
        assert done.success
        (event,) = done.get_asset_materialization_events()
        metadata = event.materialization.metadata
        manifest = lake.manifest("exported_models/dlrm", "made", day)
        assert metadata["lost"].value == manifest["lost"]["all"] and metadata["lost_of"].value == "AUC"
        assert metadata["bytes_ratio"].value == manifest["bytes"]["after"] / manifest["bytes"]["before"] < 1
        tables = metadata["tables"]
        assert isinstance(tables, dg.TableMetadataValue)
        formats = {record.data["table"]: record.data["format"] for record in tables.records}
        assert formats == {"a": "float16", "b": "int8", "tags": "int8"}

        (check,) = done.get_asset_check_evaluations()
        shown = {name: value.value for name, value in check.metadata.items()}
        assert (check.check_name, check.passed, shown["day"]) == ("export_quality", True, day)
        assert shown["lost"] == metadata["lost"].value and shown["latency_rows"] == 600 and shown["latency_ms"] > 0
        assert shown["latency_ms"] == metadata["latency_ms"].value

        slow = run(lake, day, {"max_latency_ms": 1e-6}, instance)
        (check,) = slow.get_asset_check_evaluations()
        assert slow.success and not check.passed and check.severity == dg.AssetCheckSeverity.WARN
        assert "more than export.max_latency_ms of 1e-06" in str(check.metadata["explanation"].value)
        manifest = lake.manifest("exported_models/dlrm", "made", day)

        failed = run(lake, day, {"rows": "int4", "max_auc_loss": 0.0}, instance)
        assert not failed.success and lake.manifest("exported_models/dlrm", "made", day) == manifest
        assert not any(event.is_step_up_for_retry for event in failed.all_events)
        (failure,) = (event for event in failed.all_events if event.is_step_failure)
        why = failure.step_failure_data.user_failure_data
        assert why is not None and "export.max_auc_loss is 0.0" in (why.description or "")
