"""Measures the recall of Two Tower over all live items, on a day that it has not seen."""

import dagster as dg
from pydantic import Field

from assets.owner import own_run
from assets.policy import key
from assets.resources import LakeResource
from assets.studies.study_asset import picture, study_asset, table
from ml.catalog.spec import DatasetSpec
from ml.days import days_from
from ml.stages import MDS_DATASETS, STUDIES

MODEL = "two_tower"


class RetrievalStudy(dg.Config):
    """Number of days."""

    days: int = Field(default=3, ge=2, description="Number of days. The last is scored by a model trained on the others.")


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the study on one dataset with a `two_tower` model."""

    @study_asset(
        f"{spec.name}_retrieval",
        kinds={"pytorch", "matplotlib"},
        deps=[key(spec, MDS_DATASETS)],
        description="Recall of Two Tower among all live items on a day that it has not seen, with and without training during "
        "the day, compared with the most clicked items of the hour before.",
    )
    def retrieval(context: dg.AssetExecutionContext, config: RetrievalStudy, lake: LakeResource) -> dg.MaterializeResult:
        from ml.recipes.recipe import recipe_of
        from ml.studies import retrieval as study

        own_run(context)
        held = lake.open()
        days = days_from(spec.partitions.start.isoformat(), config.days)
        found = study.run_study(spec, days, held, MODEL, on_result=context.log.info)
        with held.write(STUDIES, "retrieval", spec.name) as folder:
            written = study.write_study(folder, found)
            recipe = recipe_of(spec, MODEL).model_dump(mode="json")
            held.write_manifest(folder, {"days": days, "recipe": recipe})
        cuts = list(next(iter(written["ways"].values())))
        recalls = ([way, *(f"{of[cut]:.4f}" for cut in cuts)] for way, of in written["ways"].items())
        return dg.MaterializeResult(
            metadata={
                "recall": picture(study.figure(found)),
                "ways": table(["", *cuts], recalls),
                "clicks": written["clicks"],
                "live_items": written["live_items"],
                "reachable": written["reachable"],
                "path": dg.MetadataValue.path(str(held.partition(STUDIES, "retrieval", spec.name))),
            }
        )

    return retrieval
