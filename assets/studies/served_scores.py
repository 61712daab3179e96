"""Compares the scores of the service with those of the trained model, on a day that the model has not seen."""

import dagster as dg
from pydantic import Field

from assets.resources import LakeResource, LandingResource
from assets.studies.study_asset import study_asset, table, write_result
from ml.catalog.spec import DatasetSpec

NAME = "served_scores"


class ServedScoresStudy(dg.Config):
    """The day and the model."""

    day: str = Field(
        default="",
        description="Day whose rows are scored; by default the last day of the log whose day before has an export.",
    )
    model: str = Field(
        default="", description="One of the dataset's models; by default the first that is not a two-tower model."
    )


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the study on one dataset."""

    @study_asset(
        NAME,
        spec,
        stages=[spec.examples_log.stage],  # not the models: a selection of what is downstream of a day would include the study
        kinds=["pytorch"],
        description="Scores of all rows of a day by the service over HTTP, with the model of the day before, compared with "
        "those of the model as trained: what the export changes, and what the service changes.",
    )
    def served_scores(
        context: dg.AssetExecutionContext, config: ServedScoresStudy, lake: LakeResource, landing: LandingResource
    ) -> dg.MaterializeResult:
        from ml.online.examples import read_side_tables
        from ml.serving.choice import ranking_model
        from ml.studies import served_scores as study

        held, model = lake.open(), config.model or ranking_model(spec)
        if model not in spec.models:
            raise dg.Failure(f"model: {spec.name} has no model {model!r}; it has {list(spec.models)}", allow_retries=False)
        day = config.day or study.last_day(spec, held, model)
        if day is None:
            raise dg.Failure(f"{spec.name}: no day of the log has an export of {model} of the day before", allow_retries=False)
        found = study.served_scores(spec, day, held, read_side_tables(spec, landing.folder(spec.name)), model)
        made_from = {"day": day, "model": model, "fingerprint": spec.fingerprint}
        _, path = write_result(held, NAME, spec.name, made_from, lambda folder: study.write_scores(folder, found))
        aucs = {f"auc/{name}": value for name, value in found.aucs.items() if value is not None}
        about = {"day": day, "model": model, "rows": len(found.labels), "equal": found.are_equal, **aucs, "path": path}
        return dg.MaterializeResult(metadata={"differences": table(study.HEADER, study.table_of(found)), **about})

    return served_scores
