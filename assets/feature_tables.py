"""Events of the day from which feature tables are computed, each with the instant from which it is known."""

from typing import Any

import dagster as dg

from assets.days import each_day
from assets.policy import daily_asset, key
from assets.resources import LakeResource
from ml import stages
from ml.catalog.spec import DatasetSpec


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the asset of one dataset that declares feature tables."""

    @daily_asset(
        spec,
        stages.FEATURE_TABLES,
        kinds={"parquet"},
        deps=[dg.AssetDep(key(spec, spec.examples_log.stage))],
        description="Events that feature tables count. Events that arrive after the day was made do not change older rows.",
    )
    def feature_tables(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        from ml.features.event_days import write_event_day

        def work(day: str) -> dict[str, Any]:
            done = write_event_day(spec, day, lake.open())
            return {
                "dagster/row_count": done.rows,
                "late": done.late,
                "removed": done.removed,
                "corrected": done.corrected,
                "path": dg.MetadataValue.path(str(lake.open().partition(stages.FEATURE_TABLES, spec.name, day))),
            }

        return each_day(context, work)

    return feature_tables
