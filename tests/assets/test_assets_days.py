"""A range run does what single runs do; bad data is not retried, a passing fault is."""

import dagster as dg
import pytest

from assets.days import each_day, is_transient
from assets.policy import daily_asset
from ml.catalog.spec import DatasetSpec


def stage(spec: DatasetSpec, work) -> dg.AssetsDefinition:
    @daily_asset(spec, kinds={"parquet"}, description="A stage under test.")
    def raw_logs(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        return each_day(context, work)

    return raw_logs


def run(asset: dg.AssetsDefinition, instance: dg.DagsterInstance, first: str, last: str, **kwargs) -> dg.ExecuteInProcessResult:
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    return dg.materialize([asset], tags=tags, instance=instance, raise_on_error=False, **kwargs)


def test_a_range_run_works_day_by_day_in_order_and_keeps_each_days_figures(catalog):
    seen: list[str] = []

    def work(day: str) -> dict[str, int]:
        seen.append(day)
        return {"dagster/row_count": len(seen)}

    with dg.DagsterInstance.ephemeral() as instance:
        asset = stage(catalog["criteo"], work)
        assert run(asset, instance, "2014-01-02", "2014-01-04").success
        assert seen == ["2014-01-02", "2014-01-03", "2014-01-04"]
        observed = instance.fetch_observations(asset.key, limit=10).records
        assert {r.partition_key: r.asset_observation.metadata["dagster/row_count"].value for r in observed} == {
            "2014-01-02": 1,
            "2014-01-03": 2,
            "2014-01-04": 3,
        }


def test_bad_data_fails_once_and_names_the_day(catalog):
    tried: list[str] = []

    def work(day: str) -> dict[str, int]:
        tried.append(day)
        raise ValueError("label 7 is neither 0 nor 1")

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [stage(catalog["criteo"], work)], partition_key="2014-01-02", instance=instance, raise_on_error=False
        )
        assert not result.success
        failure = next(e for e in result.all_events if e.is_step_failure).step_failure_data
        assert "criteo/raw_logs of 2014-01-02: label 7" in failure.user_failure_data.description
        assert tried == ["2014-01-02"]


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (ConnectionResetError("peer"), True),
        (TimeoutError("slow"), True),
        (OSError(5, "Input/output error"), True),
        (FileNotFoundError("rows"), False),
        (PermissionError("rows"), False),
        (ValueError("label"), False),
        (KeyError("C1"), False),
    ],
)
def test_only_passing_faults_are_worth_a_retry(error: Exception, transient: bool):
    assert is_transient(error) is transient
