"""Tunings of recipes, each for the day that it serves. They run on request or weekly, not with every day."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from assets.days import each_day
from assets.partitions import days_before
from assets.policy import TRAINING_POOL, daily_asset, key
from assets.resources import DaskResource, LakeResource, MlflowResource, TuningResource
from assets.tables import table
from ml import stages
from ml.catalog.spec import DatasetSpec
from ml.recipes.search import LONGEST_WINDOW


class TuneConfig(dg.Config):
    """Changes to the recipe's section `sigopt` for one run."""

    observation_budget: int | None = Field(default=None, ge=1, description="Number of trials.")
    parallel_bandwidth: int | None = Field(default=None, ge=1, description="Number of trials at a time.")
    window_days: int | None = Field(default=None, ge=3, le=LONGEST_WINDOW, description="Days before the day that are used.")


def build(spec: DatasetSpec, model: str) -> dg.AssetsDefinition:
    """Build the asset of one model of a dataset."""
    window = days_before(LONGEST_WINDOW, 1)

    @daily_asset(
        spec,
        stages.tuning_results(model),
        kinds={"dask", "optuna"},
        deps=[
            dg.AssetDep(key(spec, stages.MDS_DATASETS), partition_mapping=window),
            dg.AssetDep(key(spec, stages.FEATURE_PROFILES), partition_mapping=window),
            # It also reads `advisor_recipes` of the day before, which Dagster would take for a cycle of the two assets.
        ],
        pool=TRAINING_POOL,
        description=f"Trials of {model} on days before the day, and whether the best recipe is used from the day on.",
    )
    def tuning_results(
        context: dg.AssetExecutionContext,
        config: TuneConfig,
        lake: LakeResource,
        dask: DaskResource,
        tuning: TuningResource,
        mlflow: MlflowResource,
    ) -> dg.MaterializeResult:
        from ml.advisor.hardware import detect
        from ml.advisor.plan import plan_tuning
        from ml.advisor.stored_advice import StoredAdvice
        from ml.trials.connection import Service
        from ml.trials.day import tune_day
        from ml.trials.tracking import TrialTracker
        from ml.trials.tune import Tuning, describe

        def work(day: str) -> dict[str, Any]:
            changes = {name: value for name, value in config.model_dump().items() if value is not None}
            plan = plan_tuning(spec, model, day, lake.open(), detect(), changes, Path(mlflow.home))
            service, folder = Service.of(tuning.database), Path(tuning.folder) / spec.name / model
            service.check_reach(dask.address)
            asked = Tuning(spec, model, day, plan.recipe, plan.search, lake.open(), service, folder)
            tracker = TrialTracker(Path(mlflow.home), asked, {"dagster/run_id": context.run_id})
            done = tune_day(asked, plan.present, dask.cluster().client(), tracker.log, asdict(StoredAdvice.of(plan.advice)))
            for trial in done.tuned.trials:  # also those that ended before the run, and that a killed run did not log
                tracker.log(done.tuned.experiment, trial)
            rows = [
                {
                    "trial": n,
                    "best": "*" if n in done.tuned.front else "",
                    "values": str(dict(of.values)) if of.values else describe(of),
                    "tried": str(of.assignments),
                }
                for n, of in enumerate(done.tuned.trials)
            ]
            return {
                "trials": len(rows),
                "table": table({"trial": "int", "best": "string", "values": "string", "tried": "string"}, rows),
                "adopted": done.adopted,
                **({"verdict": dg.MetadataValue.json(done.verdict.to_json())} if done.verdict else {}),
                "experiment": done.tuned.experiment,
                "path": dg.MetadataValue.path(str(done.folder)),
            }

        return each_day(context, work, summary="trials")

    return tuning_results
