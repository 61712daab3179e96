"""The best items for every user at the end of a day, by the two stages of the service. Made on request, not with every day."""

from typing import Any

import dagster as dg
from pydantic import Field

from assets.check_results import result_of_days
from assets.days import checked_days, each_day
from assets.partitions import daily, days_before
from assets.policy import SPARK_POOL, daily_asset, key
from assets.resources import LakeResource, LandingResource, SparkResource
from ml import stages
from ml.batch.options import BatchOptions
from ml.catalog.spec import DatasetSpec
from ml.serving.forms import MOST_ITEMS


class BatchConfig(dg.Config):
    """What is asked for in one run."""

    k: int = Field(default=BatchOptions.k, ge=1, le=MOST_ITEMS, description="Number of items for each user.")
    user_days: int = Field(
        default=BatchOptions.user_days, ge=1, description="Users of this many days of the log get recommendations."
    )
    exclude_seen: bool = Field(default=BatchOptions.exclude_seen, description="Whether to leave out the users' last items.")


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the asset of one dataset that has an item and a user."""
    look_back = days_before(BatchOptions.user_days - 1, 0)

    @daily_asset(
        spec,
        stages.BATCH_RECOMMENDATIONS,
        kinds={"spark", "parquet"},
        deps=[
            dg.AssetDep(key(spec, spec.examples_log.stage), partition_mapping=look_back),
            *(key(spec, stages.exported_models(model)) for model in spec.models),
            key(spec, stages.CANDIDATE_INDEX),
            key(spec, stages.EVALUATION_REPORTS),  # which decide the champion
            *([dg.AssetDep(key(spec, stages.FEATURE_TABLES), partition_mapping=look_back)] if spec.feature_tables else []),
        ],
        pool=SPARK_POOL,
        description="The best items for every user at the end of the day, by the two stages of the service.",
    )
    def batch_recommendations(
        context: dg.AssetExecutionContext,
        config: BatchConfig,
        lake: LakeResource,
        landing: LandingResource,
        spark: SparkResource,
    ) -> dg.MaterializeResult:
        from ml.batch.day import recommend_day

        options, logs, runner = BatchOptions(**config.model_dump()), landing.folder(spec.name), spark.runner()

        def work(day: str) -> dict[str, Any]:
            done = recommend_day(spec, day, lake.open(), logs, runner, options)
            return {
                "dagster/row_count": done.rows,
                "users": done.users,
                "users_per_second": done.users / done.seconds,
                "candidates": done.candidates,
                "live_items": done.live_items,
                "models": dg.MetadataValue.json(done.models),
                "path": dg.MetadataValue.path(str(done.folder)),
            }

        return each_day(context, work, summary="users")

    return batch_recommendations


def build_check(spec: DatasetSpec) -> dg.AssetChecksDefinition:
    """Build the check of one dataset that has an item and a user."""

    @dg.asset_check(
        asset=key(spec, stages.BATCH_RECOMMENDATIONS),
        name="complete_batch",
        partitions_def=daily(spec),
        description="Every user has k items, none of them twice, with finite scores.",
    )
    def complete_batch(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
        from ml.batch.verdict import batch_verdict

        days = checked_days(context, lake.open(), stages.BATCH_RECOMMENDATIONS, spec)
        found = {day: batch_verdict(spec, day, lake.open()) for day in days}
        failing = [day for day in days if found[day].reasons]
        shown = found[failing[0] if failing else days[-1]]
        values = {name: getattr(shown, name) for name in ("users", "least", "short", "repeated", "not_finite")}
        return result_of_days(failing, values, shown.reasons, dg.AssetCheckSeverity.ERROR)

    return complete_batch
