"""What the loss of one shard of the tables costs, by snapshot interval and number of shards (Monolith has the arithmetic)."""

import dagster as dg
from pydantic import Field

from assets.resources import LakeResource
from assets.studies.study_asset import OnlineStudy, batch_and_online_days, picture, recipes, study_asset, table, write_result
from ml.catalog.spec import DatasetSpec
from ml.stages import MDS_DATASETS

NAME = "shard_failure"


class FailureStudy(OnlineStudy):
    """Shards and snapshot intervals. The study has two days after the days of batch training."""

    slices: int = Field(default=48, ge=1, description="Slices of a day.")
    intervals: list[int] = Field(default=[2, 12, 48], min_length=1, description="Slices between two snapshots.")
    shards: list[int] = Field(default=[2, 10, 100], min_length=1, description="Numbers of shards, of which one is lost.")


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the study on one dataset."""

    @study_asset(
        NAME,
        spec,
        stages=[MDS_DATASETS],
        description=f"Sets the rows of one shard of the tables of {spec.name} back to the last snapshot, and scores the day "
        "after it, by snapshot interval and number of shards.",
    )
    def shard_failure(context: dg.AssetExecutionContext, config: FailureStudy, lake: LakeResource) -> dg.MaterializeResult:
        from ml.studies.shard_failure import columns_of_table, figure, paper_arithmetic, rows_of_table, run_study, write_study

        held, model = lake.open(), config.model or spec.primary
        trained, (online, scored) = batch_and_online_days(held, spec, model, config.batch_days, online_days=2)
        runs = run_study(
            spec,
            held,
            trained,
            online,
            scored,
            recipes(spec, model),
            config.shards,
            config.intervals,
            config.slices,
            config.seeds,
            on_result=lambda r: context.log.info(
                (f"1 of {r.shards} shards, {r.interval} slices" if r.shards else "no loss")
                + f", seed {r.seed}: AUC {r.auc:.5f}"
            ),
        )
        made_from = {"batch": trained, "online": online, "scored": scored, **config.model_dump()}
        found, path = write_result(held, f"{NAME}_{model}", spec.name, made_from, lambda folder: write_study(folder, runs))
        return dg.MaterializeResult(
            metadata={
                "auc": picture(figure(runs)),
                "losses": table(columns_of_table(config.slices), rows_of_table(found, config.slices)),
                "paper": table(["Monolith", "value"], ([name, f"{value:g}"] for name, value in paper_arithmetic().items())),
                "path": path,
            }
        )

    return shard_failure
