"""Checks in real runs: errors block, warnings do not, ranges of days, and the events that are logged."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from assets.checks import build_checks
from assets.partitions import daily
from assets.resources import LakeResource
from ml.catalog.spec import DatasetSpec
from ml.days import day_bounds
from ml.lake import Lake
from ml.parquet import write_table
from ml.quality.contract import contract

DAYS = ["2026-03-01", "2026-03-02", "2026-03-03"]
ROWS = 1_000
COLUMNS = {"time": "int", "item": "int", "country": "string", "clicked": "int"}
SPEC = DatasetSpec.model_validate({
    "name": "shop",
    "description": "Clicks of a small shop.",
    "source": {"files": "*.csv", "format": "csv", "columns": COLUMNS},
    "time": {"column": "time"},
    "partitions": {"start": DAYS[0], "end": DAYS[-1]},
    "label": {"column": "clicked"},
    "sparse": ["item", "country"],
})  # fmt: skip
RAW, FEATURES = dg.AssetKey(["shop", "raw_logs"]), dg.AssetKey(["shop", "cleaned_features"])
Spoil = Callable[[str, dict[str, Any]], None]


def unspoilt(day: str, columns: dict[str, Any]) -> None:
    """Leaves every day intact."""


def without_time(day: str, columns: dict[str, Any]) -> None:
    """Causes an error on the second day."""
    if day == DAYS[1]:
        columns["event_time"] = pa.array([None, *columns["event_time"].to_pylist()[1:]], pa.int64())


def another_country(day: str, columns: dict[str, Any]) -> None:
    """Causes a warning on the second day."""
    if day == DAYS[1]:
        columns["country"] = pa.array(["ZZ"] * ROWS)


def write_raw(lake: Lake, day: str, spoil: Spoil, **manifest: Any) -> None:
    first, after = day_bounds(day, SPEC.zone)
    times = [first + i * ((after - first) // ROWS) for i in range(ROWS)]
    columns: dict[str, Any] = {
        "event_time": pa.array(times),
        "time": pa.array([t // 1_000_000 for t in times]),
        "item": pa.array([i % 50 for i in range(ROWS)]),
        "country": pa.array(["BR", "PT"] * (ROWS // 2)),
        "clicked": pa.array([int(i % 10 == 0) for i in range(ROWS)]),
    }
    spoil(day, columns)
    with lake.write("raw_logs", SPEC.name, day) as staging:
        write_table(pa.table(columns), staging / "rows" / "part-00000.parquet")
        lake.write_manifest(staging, {"rows": ROWS, "quarantined": 0, "fingerprint": SPEC.log.fingerprint} | manifest)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def run(
    lake: Lake,
    instance: dg.DagsterInstance,
    spoil: Spoil,
    days: list[str],
    seconds: bool = True,
    selection: dg.AssetSelection | None = None,
) -> dg.ExecuteInProcessResult:
    """Materialise raw_logs, its checks and a downstream asset (or the selection), for one day or a range of days."""
    partitions = daily(SPEC)

    @dg.asset(key=RAW, partitions_def=partitions, backfill_policy=dg.BackfillPolicy.single_run())
    def raw_logs(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        for day in context.partition_keys:
            write_raw(lake.open(), day, spoil)
            if len(context.partition_keys) > 1:
                context.log_event(dg.AssetObservation(RAW, partition=day, metadata={"seconds": 2.0}))
        return dg.MaterializeResult(metadata={"seconds": 2.0} if seconds else {})

    @dg.asset(key=FEATURES, deps=[RAW], partitions_def=partitions, backfill_policy=dg.BackfillPolicy.single_run())
    def cleaned_features(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        return dg.MaterializeResult()

    one = {"partition_key": days[0]} if len(days) == 1 else {}
    ends = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
    span = dict(zip(ends, (days[0], days[-1]), strict=True)) if len(days) > 1 else {}
    return dg.materialize(
        [raw_logs, cleaned_features, build_checks(SPEC, "raw_logs", RAW, partitions)],
        resources={"lake": LakeResource(root=str(lake.root))},
        instance=instance,
        selection=selection,
        raise_on_error=False,
        tags=span,
        **one,
    )


def evaluations(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    return {e.check_name: e for e in result.get_asset_check_evaluations()}


def materialised(result: dg.ExecuteInProcessResult) -> set[dg.AssetKey]:
    return {event.asset_key for event in result.get_asset_materialization_events() if event.asset_key}


def test_a_good_day_passes_every_check_and_goes_on(lake: Lake, instance: dg.DagsterInstance) -> None:
    result = run(lake, instance, unspoilt, DAYS[:1])
    found = evaluations(result)
    assert result.success and materialised(result) == {RAW, FEATURES}
    assert set(found) == {e.name for e in contract(SPEC, "raw_logs")}
    assert all(e.passed for e in found.values())


def test_an_error_blocks_what_is_downstream(lake: Lake, instance: dg.DagsterInstance) -> None:
    assert run(lake, instance, without_time, DAYS[:1]).success
    result = run(lake, instance, without_time, DAYS[1:2])
    failed = [e for e in evaluations(result).values() if not e.passed]
    assert [(e.check_name, e.severity) for e in failed] == [("required", dg.AssetCheckSeverity.ERROR)]
    assert not result.success and materialised(result) == {RAW}


def test_a_warning_does_not(lake: Lake, instance: dg.DagsterInstance) -> None:
    assert run(lake, instance, another_country, DAYS[:1]).success
    result = run(lake, instance, another_country, DAYS[1:2])
    failed = [e for e in evaluations(result).values() if not e.passed]
    assert [(e.check_name, e.severity) for e in failed] == [("drift", dg.AssetCheckSeverity.WARN)]
    assert "country" in failed[0].metadata["observed"].value and failed[0].metadata["compared_with"].value == [DAYS[0]]
    assert result.success and materialised(result) == {RAW, FEATURES}


def test_verdicts_are_kept_by_partition(lake: Lake, instance: dg.DagsterInstance) -> None:
    run(lake, instance, without_time, DAYS[:1])
    run(lake, instance, without_time, DAYS[1:2])
    key = dg.AssetCheckKey(RAW, "required")
    history = instance.event_log_storage.get_asset_check_execution_history(key, limit=10)
    kept = {r.partition: r.status.value for r in history}
    assert kept == {DAYS[0]: "SUCCEEDED", DAYS[1]: "FAILED"}


def test_a_range_fails_where_one_of_its_days_does_and_names_it(lake: Lake, instance: dg.DagsterInstance) -> None:
    result = run(lake, instance, without_time, DAYS)
    found = evaluations(result)
    assert not result.success and materialised(result) == {RAW}
    assert found["required"].metadata["failing_days"].value == [DAYS[1]] and found["required"].metadata["days"].value == len(
        DAYS
    )
    assert [e.check_name for e in found.values() if not e.passed] == ["required"]
    assert found["volume"].metadata["rows"].value == ROWS * len(DAYS)


def test_a_range_of_good_days_goes_on(lake: Lake, instance: dg.DagsterInstance) -> None:
    result = run(lake, instance, unspoilt, DAYS)
    assert result.success and materialised(result) == {RAW, FEATURES}
    assert all(e.metadata["failing_days"].value == [] for e in evaluations(result).values())


@pytest.mark.parametrize("days", [DAYS[:1], DAYS])
def test_the_share_of_the_assets_time_is_recorded(lake: Lake, instance: dg.DagsterInstance, days: list[str]) -> None:
    found = evaluations(run(lake, instance, unspoilt, days))["schema"].metadata
    assert found["share_of_asset_time"].value == pytest.approx(found["seconds"].value / (2.0 * len(days)))


def test_no_share_is_recorded_if_the_asset_recorded_no_time(lake: Lake, instance: dg.DagsterInstance) -> None:
    found = evaluations(run(lake, instance, unspoilt, DAYS[:1], seconds=False))["schema"].metadata
    assert "share_of_asset_time" not in found and found["seconds"].value > 0


def test_checks_alone_look_at_the_newest_day(lake: Lake, instance: dg.DagsterInstance) -> None:
    for day in DAYS[:2]:
        write_raw(lake, day, unspoilt)
    one = dg.AssetSelection.checks(dg.AssetCheckKey(RAW, "volume"))
    result = run(lake, instance, unspoilt, [], selection=one)
    assert result.success and not materialised(result)
    assert {name: e.metadata["day"].value for name, e in evaluations(result).items()} == {"volume": DAYS[1]}


def test_checks_without_data_say_what_to_do(lake: Lake, instance: dg.DagsterInstance) -> None:
    result = run(lake, instance, unspoilt, [], selection=dg.AssetSelection.checks_for_assets(RAW))
    assert not result.success
    faults = [str(event.event_specific_data) for event in result.all_events if event.is_failure]
    assert any(f"--select shop/raw_logs --partition {DAYS[0]}" in fault for fault in faults)


def test_severity_in_the_catalog_decides_what_blocks() -> None:
    softened = SPEC.model_copy(update={"expectations": SPEC.expectations.model_copy(update={
        "label_rate": SPEC.expectations.label_rate.model_copy(update={"severity": "warning"})})})  # fmt: skip
    for spec, blocking in ((SPEC, True), (softened, False)):
        specs = build_checks(spec, "raw_logs", RAW, daily(spec)).check_specs
        assert next(s for s in specs if s.name == "label_rate").blocking is blocking


def test_importing_checks_loads_nothing_heavy() -> None:
    heavy = "{'great_expectations', 'torch', 'pyspark', 'pandas', 'streaming'}"
    code = f"import sys, assets.checks; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0
