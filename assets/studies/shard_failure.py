"""What the loss of one shard of the tables costs, by snapshot interval and number of shards (Monolith has the arithmetic)."""

import dagster as dg
from pydantic import Field

from assets.owner import own_run
from assets.policy import key
from assets.resources import LakeResource
from assets.studies.study_asset import batch_and_online_days, picture, study_asset, table
from ml.catalog.spec import DatasetSpec
from ml.stages import MDS_DATASETS, STUDIES

NAME = "shard_failure"


class FailureStudy(dg.Config):
    """Days, shards, snapshot intervals and number of runs."""

    model: str = Field(default="", description="One of the dataset's models; by default the first.")
    batch_days: int = Field(default=0, ge=0, description="Days of batch training; by default all but the last two.")
    slices: int = Field(default=48, ge=1, description="Slices of a day.")
    intervals: list[int] = Field(default=[2, 12, 48], min_length=1, description="Slices between two snapshots.")
    shards: list[int] = Field(default=[2, 10, 100], min_length=1, description="Numbers of shards, of which one is lost.")
    seeds: int = Field(default=3, ge=1, description="Number of runs of every case.")


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the study on one dataset."""

    @study_asset(
        f"{spec.name}_{NAME}",
        kinds={"pytorch", "matplotlib"},
        deps=[key(spec, MDS_DATASETS)],
        description=f"Sets the rows of one shard of the tables of {spec.name} back to the last snapshot, and scores the day "
        "after it, by snapshot interval and number of shards.",
    )
    def shard_failure(context: dg.AssetExecutionContext, config: FailureStudy, lake: LakeResource) -> dg.MaterializeResult:
        from ml.recipes.recipe import recipe_of
        from ml.studies.shard_failure import columns_of_table, figure, paper_arithmetic, rows_of_table, run_study, write_study

        own_run(context)
        held, model = lake.open(), config.model or spec.primary
        trained, (online, scored) = batch_and_online_days(held, spec, model, config.batch_days, online_days=2)
        runs = run_study(
            spec,
            held,
            trained,
            online,
            scored,
            lambda seed: recipe_of(spec, model, {"seed": seed}),
            config.shards,
            config.intervals,
            config.slices,
            config.seeds,
            on_result=lambda r: context.log.info(
                (f"1 of {r.shards} shards, {r.interval} slices" if r.shards else "no loss")
                + f", seed {r.seed}: AUC {r.auc:.5f}"
            ),
        )
        with held.write(STUDIES, f"{NAME}_{model}", spec.name) as folder:
            found = write_study(folder, runs)
            held.write_manifest(folder, {"batch": trained, "online": online, "scored": scored, **config.model_dump()})
        return dg.MaterializeResult(
            metadata={
                "auc": picture(figure(runs)),
                "losses": table(columns_of_table(config.slices), rows_of_table(found, config.slices)),
                "paper": table(["Monolith", "value"], ([name, f"{value:g}"] for name, value in paper_arithmetic().items())),
                "path": dg.MetadataValue.path(str(held.partition(STUDIES, f"{NAME}_{model}", spec.name))),
            }
        )

    return shard_failure
