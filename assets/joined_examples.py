"""Impressions with the labels that actions give them, for a dataset with a log of each."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.days import each_day
from assets.partitions import days_around
from assets.policy import SPARK_POOL, daily_asset, key
from assets.resources import LakeResource, SparkResource
from assets.tables import table
from ml import stages
from ml.catalog.spec import DatasetSpec

if TYPE_CHECKING:
    from ml.joiner.catch_up import JoinedDay


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the asset of one dataset."""
    from ml.joiner.days import days_after, days_before

    @daily_asset(
        spec,
        stages.JOINED_EXAMPLES,
        kinds={"parquet", "spark"},
        deps=[
            dg.AssetDep(key(spec, stages.RAW_LOGS), partition_mapping=days_around(-days_before(spec), 0)),
            dg.AssetDep(key(spec, stages.RAW_ACTIONS), partition_mapping=days_around(0, days_after(spec))),
        ],
        pool=SPARK_POOL,
        description="Each impression once, with its labels: whether the user acted within the wait. Actions that match no "
        "impression are in a side table, with the reason.",
    )
    def joined_examples(context: dg.AssetExecutionContext, lake: LakeResource, spark: SparkResource) -> dg.MaterializeResult:
        from ml.joiner.catch_up import join_day

        runner = spark.runner()

        def work(day: str) -> dict[str, Any]:
            done = join_day(spec, day, lake.open(), runner)
            return {
                "dagster/row_count": done.rows,
                **({} if done.match_rate is None else {"match_rate": done.match_rate}),
                "repeated_impressions": done.repeated,
                "impressions_without_key": done.without_key,
                **{f"{name}_rate": count / done.rows for name, count in done.positives.items() if done.rows},
                "actions": _actions(done),
                "delays": _delays(done),
                "path": dg.MetadataValue.path(str(lake.open().partition(stages.JOINED_EXAMPLES, spec.name, day))),
            }

        return each_day(context, work)

    return joined_examples


def _actions(done: "JoinedDay") -> dg.TableMetadataValue:
    """One row per outcome of the actions."""
    total = max(sum(done.actions.values()), 1)
    rows = ({"actions": what, "count": n, "share": round(n / total, 6)} for what, n in done.actions.items())
    return table({"actions": "string", "count": "int", "share": "float"}, rows)


def _delays(done: "JoinedDay") -> dg.TableMetadataValue:
    """One row per label: positives and quantiles of the delay in seconds."""
    columns = {"label": "string", "positives": "int", "p50": "float", "p90": "float", "p99": "float"}
    rows = ({"label": name, "positives": count, **done.delays[name]} for name, count in done.positives.items())
    return table(columns, rows)
