"""Typed rows of the day's log of actions in time order, for a dataset whose labels are joined from two logs."""

from typing import Any

import dagster as dg

from assets.days import each_day
from assets.policy import SPARK_POOL, daily_asset
from assets.resources import LakeResource, LandingResource, SparkResource
from ml import stages
from ml.catalog.spec import DatasetSpec


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the asset of one dataset."""

    @daily_asset(
        spec,
        stages.RAW_ACTIONS,
        kinds={"parquet", "spark"},
        pool=SPARK_POOL,
        description="The day's actions as Parquet, in time order; malformed lines in quarantine. A run also reads the later "
        "days that the wait of the day's impressions reaches, if the lake lacks them as they have landed.",
    )
    def raw_actions(
        context: dg.AssetExecutionContext, lake: LakeResource, landing: LandingResource, spark: SparkResource
    ) -> dg.MaterializeResult:
        from ml.joiner.days import days_of_actions
        from ml.logs.ingest import ingest_day, is_current

        log, folder, runner = spec.actions_log, landing.folder(spec.name), spark.runner()
        assert log is not None

        def ingest(day: str) -> dict[str, Any]:
            done = ingest_day(log, day, folder, lake.open(), runner)
            return {
                "dagster/row_count": done.rows,
                "quarantined": done.quarantined,
                "quarantine_rate": done.quarantined / max(done.rows + done.quarantined, 1),
                "out_of_range": done.out_of_range,
                "reasons": dg.MetadataValue.json(done.reasons),
                "files": done.files,
                "path": dg.MetadataValue.path(str(lake.open().partition(stages.RAW_ACTIONS, spec.name, day))),
            }

        def work(day: str) -> dict[str, Any]:
            metadata = ingest(day)
            for later in days_of_actions(spec, day)[1:]:
                if later not in context.partition_keys and not is_current(log, later, folder, lake.open(), runner):
                    context.log_event(dg.AssetMaterialization(context.asset_key, partition=later, metadata=ingest(later)))
            return metadata

        return each_day(context, work)

    return raw_actions
