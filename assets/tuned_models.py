"""The day's models: each continues from the previous day's snapshot, by one pass over the day in time order."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.days import each_day
from assets.partitions import days_before
from assets.policy import TRAINING_POOL, daily_asset, key
from assets.resources import LakeResource, MlflowResource, TrainingResource
from assets.tables import table
from ml import stages
from ml.catalog.spec import DatasetSpec

if TYPE_CHECKING:
    from ml.advisor.cost import Comparison
    from ml.embeddings.interface import TableStats


def build(spec: DatasetSpec, model: str) -> dg.AssetsDefinition:
    """Build the asset of one model of a dataset."""

    @daily_asset(
        spec,
        stages.tuned_models(model),
        kinds={"pytorch", "mlflow"},
        deps=[
            key(spec, stages.MDS_DATASETS),
            key(spec, stages.advisor_recipes(model)),
            dg.AssetDep(key(spec, stages.tuned_models(model)), partition_mapping=days_before(1, 1)),
        ],
        pool=TRAINING_POOL,
        description=f"{model} after one pass over the day in time order, warm-started from the day before.",
    )
    def tuned_models(
        context: dg.AssetExecutionContext, lake: LakeResource, mlflow: MlflowResource, training: TrainingResource
    ) -> dg.MaterializeResult:
        from ml.advisor.measured import compare_day
        from ml.distributed.launchers import Processes
        from ml.tracking.run import Tracker
        from ml.training.day import DayOptions
        from ml.training.launch import train_day_on

        processes = Processes(training.processes, training.launcher, training.session())

        def work(day: str) -> dict[str, Any]:
            tags = {"dagster/run_id": context.run_id}
            tracker = Tracker(Path(mlflow.home), tags, example_rows=mlflow.example_rows)
            options = DayOptions(tracker=tracker, cache=training.cache.config())
            done = train_day_on(processes, spec, day, lake.open(), model, options)
            whole = training.processes == 1 and not done.resumed_at and not done.kept_from
            compared = compare_day(spec, day, lake.open(), Path(mlflow.home), done.recipe, done.metrics) if whole else []
            return {
                **done.metrics,
                **({"predicted": _predicted(compared)} if compared else {}),
                "dagster/row_count": done.report.rows,
                "warm_started_from": "/".join(done.base) if done.base else "nothing: the first day",
                **({"kept_from": done.kept_from} if done.kept_from else {}),
                "resumed_at_row": done.resumed_at,
                "processes": training.processes,
                "tables": _tables(done.report.tables),
                "recipe": dg.MetadataValue.json(done.recipe.model_dump(mode="json")),
                "path": dg.MetadataValue.path(str(done.folder)),
            }

        return each_day(context, work, summary="loss")

    return tuned_models


def _predicted(compared: "Sequence[Comparison]") -> dg.TableMetadataValue:
    """One row per predicted quantity: the prediction beside what the training took."""
    columns = {"quantity": "string", "predicted": "float", "measured": "float", "factor": "float", "close": "string"}
    rows = (
        {
            "quantity": of.quantity,
            "predicted": round(of.predicted, 3),
            "measured": round(of.took, 3),
            "factor": round(of.factor, 2),
            "close": "yes" if of.close else "no",
        }
        for of in compared
    )
    return table(columns, rows)


def _tables(stats: "Mapping[str, TableStats]") -> dg.TableMetadataValue:
    """One row per embedding table: its size after the day, and its changes on the day."""
    numbers = ("rows", "candidates", "admitted", "expired", "evicted")
    columns = {"table": "string", **dict.fromkeys(numbers, "int"), "megabytes": "float", "unknown_rate": "string"}
    rows = (
        {
            "table": name,
            "megabytes": round(of.nbytes / 1e6, 3),
            "unknown_rate": "–" if of.unknown_rate is None else f"{of.unknown_rate:.4f}",
            **{number: getattr(of, number) for number in numbers},
        }
        for name, of in stats.items()
    )
    return table(columns, rows)
