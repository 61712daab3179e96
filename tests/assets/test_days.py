"""A range run does the same as single runs. Transient errors are retried, errors in data are not."""

import gzip
import logging
import os
import signal
import time

import dagster as dg
import pytest
from mlflow.exceptions import MlflowException

from assets.days import each_day, is_transient
from assets.owner import PID
from assets.policy import daily_asset
from ml.catalog.spec import DatasetSpec


def wrapped(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def stage(spec: DatasetSpec, work, name: str = "raw_logs") -> dg.AssetsDefinition:
    @daily_asset(spec, name, kinds={"parquet"}, description="A stage under test.")
    def raw_logs(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        return each_day(context, work)

    return raw_logs


def run(asset: dg.AssetsDefinition, instance: dg.DagsterInstance, first: str, last: str, **kwargs) -> dg.ExecuteInProcessResult:
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    return dg.materialize([asset], tags=tags, instance=instance, raise_on_error=False, **kwargs)


def test_a_range_run_works_day_by_day_in_order_and_keeps_each_days_metadata(catalog):
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


def test_a_run_says_which_process_executes_it(catalog):
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize([stage(catalog["criteo"], lambda day: {})], partition_key="2014-01-02", instance=instance)
        run = instance.get_run_by_id(done.run_id)
        assert run is not None and run.tags[PID] == str(os.getpid())


def test_the_log_line_names_its_number(catalog, caplog: pytest.LogCaptureFixture):
    def logged(summary: str, metadata: dict) -> str:
        @daily_asset(catalog["criteo"], "raw_logs", kinds={"html"}, description="A stage under test.")
        def raw_logs(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            return each_day(context, lambda day: metadata, summary)

        caplog.clear()
        with dg.DagsterInstance.ephemeral() as instance, caplog.at_level(logging.INFO, "evergreen"):
            dg.materialize([raw_logs], partition_key="2014-01-02", instance=instance)
        return next(record.getMessage() for record in caplog.records if record.name == "evergreen")

    assert "auc 0.7000" in logged("auc", {"auc": 0.7, "dagster/row_count": 600})
    assert "600 rows" in logged("auc", {"auc": None, "dagster/row_count": 600})
    lost = {"dagster/row_count": 600, "quarantined": 3, "out_of_range": 1200}
    assert "600 rows, 3 malformed, 1,200 out of range, " in logged("rows", lost)
    assert "malformed" not in logged("rows", lost | {"quarantined": 0})


def test_an_interrupt_ends_the_run_without_a_retry(catalog):
    tries: list[str] = []

    def work(day: str) -> dict[str, int]:
        tries.append(day)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)  # the signal ends it
        return {}

    independent = [stage(catalog["criteo"], work, name) for name in ("raw_logs", "raw_actions")]
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize(independent, partition_key="2014-01-02", instance=instance, raise_on_error=False)
    reasons = [e.step_failure_data.user_failure_data.description for e in done.all_events if e.is_step_failure]
    assert tries == ["2014-01-02"]
    assert len(reasons) == 2 and "of 2014-01-02 was interrupted" in reasons[0]


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
        (gzip.BadGzipFile("not a gzipped file"), False),
        (OSError("Couldn't deserialize thrift"), False),  # Arrow's error for a damaged file
        (wrapped(MlflowException("no answer"), ConnectionError("refused")), True),
        (wrapped(MlflowException("no such experiment"), ValueError("name")), False),
        (MlflowException("no such experiment"), False),
    ],
)
def test_only_transient_errors_are_retried(error: Exception, transient: bool):
    assert is_transient(error) is transient
