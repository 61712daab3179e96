"""Measures the recall of recommendations as the service makes them, on a day that its models have not seen."""

import dagster as dg
from pydantic import Field

from assets.resources import LakeResource, LandingResource
from assets.studies.study_asset import study_asset, table, write_result
from ml.catalog.spec import DatasetSpec

NAME = "served_recall"


class ServedRecallStudy(dg.Config):
    """The day, and the number of clicks that are answered."""

    day: str = Field(
        default="",
        description="Day whose clicks are answered; by default the last day of the log whose day before has a candidate index.",
    )
    requests: int = Field(default=4000, ge=1, description="Approximate number of clicks.")


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the study on one dataset with an item and a user."""

    @study_asset(
        NAME,
        spec,
        stages=[spec.examples_log.stage],  # not the models: a selection of what is downstream of a day would include the study
        kinds=["pytorch", "faiss"],
        description="Recall of recommendations for the clicks of a day, answered by the code of the service with the models of "
        "the day before: of each ranker and of each two-tower model alone, and what the candidate stage loses.",
    )
    def served_recall(
        context: dg.AssetExecutionContext, config: ServedRecallStudy, lake: LakeResource, landing: LandingResource
    ) -> dg.MaterializeResult:
        from ml.online.examples import read_side_tables
        from ml.studies import served_recall as study

        held = lake.open()
        day = config.day or study.last_day(spec, held)
        if day is None:
            raise dg.Failure(f"{spec.name}: no day of the log has a candidate index of the day before", allow_retries=False)
        sides = read_side_tables(spec, landing.folder(spec.name))
        found = study.run_study(spec, day, held, config.requests, sides, on_result=context.log.info)
        made_from = {"day": day, "requests": config.requests, "fingerprint": spec.fingerprint}
        _, path = write_result(held, NAME, spec.name, made_from, lambda folder: study.write_served(folder, found))
        recalls = {f"recall_at_20/{name}": of.recall[20] for name, of in found.items()}
        return dg.MaterializeResult(
            metadata={"day": day, "rankers": table(study.HEADER, study.table_of(found)), **recalls, "path": path}
        )

    return served_recall
