"""The day's model: yesterday's, having seen today once, in time order."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets.days import each_day
from assets.partitions import days_before
from assets.policy import TRAINING_POOL, daily_asset, key
from assets.resources import LakeResource, MlflowResource
from ml.catalog.spec import DatasetSpec

STAGE = "tuned_models"


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    @daily_asset(
        spec,
        kinds={"pytorch", "mlflow"},
        deps=[key(spec, "mds_datasets"), dg.AssetDep(key(spec, STAGE), partition_mapping=days_before(1, 1))],
        pool=TRAINING_POOL,
        description="DLRM after one pass over the day in time order, warm-started from the day before.",
    )
    def tuned_models(context: dg.AssetExecutionContext, lake: LakeResource, mlflow: MlflowResource) -> dg.MaterializeResult:
        from ml.training.daily import train_day
        from ml.training.tracking import Tracker

        def work(day: str) -> dict[str, Any]:
            tracker = Tracker(Path(mlflow.home), tags={"dagster/run_id": context.run_id})
            done = train_day(spec, day, lake.open(), tracker=tracker)
            return {
                **done.metrics,
                "dagster/row_count": done.report.rows,
                "warm_started_from": done.parent or "nothing: the first day",
                "resumed_at_row": done.resumed_at,
                "recipe": dg.MetadataValue.json(done.recipe.model_dump(mode="json")),
                "path": dg.MetadataValue.path(str(done.folder)),
            }

        return each_day(context, work, summary="loss")

    return tuned_models
