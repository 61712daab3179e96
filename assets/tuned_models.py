"""The day's model: yesterday's, having seen today once, in time order."""

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

        def work(day: str) -> dict[str, dg.MetadataValue | int | float | str]:
            tracker = Tracker(mlflow.tracking_uri, mlflow.artifacts, tags={"dagster/run_id": context.run_id})
            done = train_day(spec, day, lake.open(), tracker=tracker)
            return {
                "dagster/row_count": done.rows,
                "loss": done.loss,
                "samples_per_second": done.samples_per_second,
                "steps": done.steps,
                "warm_started_from": done.parent_day or "nothing: the first day",
                "mlflow_run": done.mlflow_run_id or "",
                "path": dg.MetadataValue.path(str(lake.open().partition(STAGE, spec.name, day))),
                "seconds": done.seconds,
            }

        return each_day(context, work, summary="loss")

    return tuned_models
