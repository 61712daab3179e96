"""The check of served values: in the graph of datasets with feature tables, and its verdicts on a store and on requests."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from assets.feature_store_checks import NAME, build_feature_store_check
from assets.feature_tables import build
from assets.graph import dataset_graph
from assets.resources import LakeResource, StreamsResource
from ml.features.online_store import compare
from ml.lake import Lake
from ml.serving.feature_tables import ServedTables
from ml.serving.served_log import ServedLog, noting
from tests.helpers.shop_days import spec_of
from tests.helpers.table_days import DAY, DAYS, FIRST, MINUTE, day_rows, table_spec, write_rows


def check(root: Path) -> dg.AssetCheckEvaluation:
    spec, lake = table_spec(), Lake.at(root)
    write_rows(lake, spec, DAYS[0], day_rows(0, 60))
    done = dg.materialize(
        [build(spec), build_feature_store_check(spec)],
        partition_key=DAYS[0],
        resources={"lake": LakeResource(root=str(root)), "streams": StreamsResource(root=str(root / "stream"))},
        instance=dg.DagsterInstance.ephemeral(),
    )
    (evaluation,) = done.get_asset_check_evaluations()
    return evaluation


def test_equal_values_pass_and_the_metrics_of_each_are_published(tmp_path: Path) -> None:
    found = check(tmp_path)
    assert found.passed and found.metadata["unexplained"].value == 0 and found.metadata["events"].value == 60
    shown = found.metadata["values"]
    assert isinstance(shown, dg.TableMetadataValue)
    assert [record.data["value"] for record in shown.records] == ["shown", "idle", "together", "clicks", "clicked", "ctr"]
    assert all(record.data["mismatches"] == 0 for record in shown.records)


def test_a_store_that_loses_events_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compare._apply
    monkeypatch.setattr(compare, "_apply", lambda writer, events: whole(writer, events.slice(5)))
    found = check(tmp_path)
    assert not found.passed and found.severity == dg.AssetCheckSeverity.WARN
    assert found.metadata["failing_days"].value == [DAYS[0]]


@pytest.mark.parametrize(("loaded_until", "passes"), [(FIRST, True), (FIRST + DAY, False)])
def test_requests_of_the_day_are_compared(loaded_until: int, passes: bool, tmp_path: Path) -> None:
    """A service that knows no event serves defaults. That is wrong only if it has loaded the events."""
    spec = table_spec()
    log = ServedLog(spec, tmp_path / "stream" / spec.name, loaded_until)
    tables = ServedTables(spec, log)
    with noting() as served:
        given = {"user": 3, "country": "BR", "visit": 5}
        tables.of_request(given, FIRST + DAY - MINUTE)
        tables.of_items(pa.table({"item": [1, 2, 3]}), given, FIRST + DAY - MINUTE)
    log.answered("first", served, [3, 1])
    log.flush()
    found = check(tmp_path)
    assert found.passed == passes and found.metadata["requests"].value == 1
    assert (found.metadata["unexplained_of_requests"].value == 0) == passes
    shown = found.metadata["values_of_requests"]
    assert isinstance(shown, dg.TableMetadataValue)
    assert {record.data["value"] for record in shown.records} == {"shown", "idle", "together", "clicks", "history:seen", "ctr"}
    assert all(record.data["rows"] == 2 for record in shown.records)


def test_only_datasets_with_feature_tables_have_the_check() -> None:
    def names(graph: dg.Definitions) -> set[str]:
        keys = (key for one in graph.asset_checks or () if isinstance(one, dg.AssetChecksDefinition) for key in one.check_keys)
        return {key.name for key in keys}

    assert NAME in names(dataset_graph(table_spec())) and NAME not in names(dataset_graph(spec_of()))
