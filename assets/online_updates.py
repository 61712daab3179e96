"""The day's models, trained within the day: each slice of the day is predicted by the serving model before it is trained on."""

from base64 import b64encode
from pathlib import Path
from typing import Any

import dagster as dg

from assets.days import each_day
from assets.partitions import days_before
from assets.policy import TRAINING_POOL, daily_asset, key
from assets.resources import LakeResource, MlflowResource, TrainingResource
from assets.tables import table
from ml import stages
from ml.catalog.spec import DatasetSpec


def build(spec: DatasetSpec, model: str) -> dg.AssetsDefinition:
    """Build the asset of one model of a dataset. It is made with every day if the entry says `serve: online`."""
    before = days_before(1, 1)
    stage = stages.online_updates(model)

    @daily_asset(
        spec,
        stage,
        kinds={"pytorch", "parquet"},
        deps=[
            key(spec, stages.MDS_DATASETS),
            *((key(spec, stages.CLEANED_FEATURES),) if spec.ranked else ()),  # the ranking of each slice reads their keys
            key(spec, stages.advisor_recipes(model)),
            dg.AssetDep(key(spec, stage), partition_mapping=before),
            dg.AssetDep(key(spec, stages.tuned_models(model)), partition_mapping=before),
        ],
        pool=TRAINING_POOL,
        description=f"{model} trained within the day, slice by slice. Each slice is first predicted by the serving model.",
    )
    def online_updates(
        context: dg.AssetExecutionContext, lake: LakeResource, mlflow: MlflowResource, training: TrainingResource
    ) -> dg.MaterializeResult:
        from ml.evaluation.online import day_by_slice
        from ml.online.day import OnlineOptions, online_day
        from ml.tracking.online import log_online_day
        from ml.tracking.run import Tracker

        def work(day: str) -> dict[str, Any]:
            done = online_day(spec, day, lake.open(), model, OnlineOptions(cache=training.cache.config()))
            if spec.models[model].serve == "online":
                tracker = Tracker(Path(mlflow.home), {"dagster/run_id": context.run_id}, example_rows=mlflow.example_rows)
                log_online_day(tracker, lake.open(), spec, model, day, done.metrics)
            shown = day_by_slice(lake.open(), spec, model, day)
            return {
                **done.metrics,
                "dagster/row_count": done.record.rows,
                "run": done.manifest["run"]["run_id"],
                "version": done.manifest["run"]["version"],
                "started_from": done.manifest["base"] or "nothing: the first day",
                "resumed_at_slice": done.resumed_at,
                "models": _models(done.manifest["scores"]),
                **({"ranking": _ranking(done.manifest["ranking"])} if done.manifest["ranking"] else {}),
                **_by_slice(shown),
                "path": dg.MetadataValue.path(str(done.folder)),
            }

        return each_day(context, work, summary="auc_online")

    return online_updates


def _by_slice(shown: dict[str, Any] | None) -> dict[str, dg.MetadataValue]:
    """Plot the headline of each slice, from what `day_by_slice` returned; empty for a day without rows."""
    from ml.evaluation.online import headline_of
    from ml.evaluation.plots import online_day

    if not shown or not shown["slices"]:
        return {}
    metric = headline_of(shown)
    figure = b64encode(online_day(shown["slices"], metric)).decode()
    return {f"{metric.replace('@', '_at_')}_by_slice": dg.MetadataValue.md(f"![by slice](data:image/png;base64,{figure})")}


def _models(scores: dict[str, dict[str, Any]]) -> dg.TableMetadataValue:
    """One row per model that predicted the day."""
    numbers = ("auc", "log_loss", "calibration", "age_seconds")
    rows = ({"model": name, **{n: "" if of[n] is None else round(of[n], 5) for n in numbers}} for name, of in scores.items())
    return table({"model": "string"} | dict.fromkeys(numbers, "float"), rows)


def _ranking(ranking: dict[str, Any]) -> dg.TableMetadataValue:
    """One row per model and source that ranked the day's clicks."""
    systems, numbers = {**ranking["models"], **ranking["sources"]}, ("recall@20", "recall@100", "mrr@20", "popular_auc")
    rows = ({"system": name, **{n: "" if of[n] is None else round(of[n], 5) for n in numbers}} for name, of in systems.items())
    return table({"system": "string"} | dict.fromkeys(numbers, "float"), rows)
