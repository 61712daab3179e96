"""Measures the recall of Two Tower over all live items, on a day that it has not seen."""

import dagster as dg
from pydantic import Field

from assets.resources import LakeResource
from assets.studies.study_asset import picture, study_asset, table, write_result
from ml.catalog.spec import DatasetSpec
from ml.days import days_from
from ml.stages import MDS_DATASETS

NAME, MODEL = "retrieval", "two_tower"


class RetrievalStudy(dg.Config):
    """Number of days."""

    days: int = Field(default=3, ge=2, description="Number of days. The last is scored by a model trained on the others.")


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the study on one dataset with a `two_tower` model."""

    @study_asset(
        NAME,
        spec,
        stages=[MDS_DATASETS],
        description="Recall of Two Tower among all live items on a day that it has not seen, with and without training during "
        "the day, compared with the most clicked items of the hour before.",
    )
    def retrieval(context: dg.AssetExecutionContext, config: RetrievalStudy, lake: LakeResource) -> dg.MaterializeResult:
        from ml.recipes.recipe import recipe_of
        from ml.studies import retrieval as study

        held = lake.open()
        days = days_from(spec.partitions.start.isoformat(), config.days)
        found = study.run_study(spec, days, held, MODEL, on_result=context.log.info)
        made_from = {"days": days, "recipe": recipe_of(spec, MODEL).model_dump(mode="json")}
        written, path = write_result(held, NAME, spec.name, made_from, lambda folder: study.write_study(folder, found))
        cuts = list(next(iter(written["ways"].values())))
        recalls = ([way, *(f"{of[cut]:.4f}" for cut in cuts)] for way, of in written["ways"].items())
        return dg.MaterializeResult(
            metadata={
                "recall": picture(study.figure(found)),
                "ways": table(["", *cuts], recalls),
                "clicks": written["clicks"],
                "live_items": written["live_items"],
                "reachable": written["reachable"],
                "path": path,
            }
        )

    return retrieval
