"""Compares tuning with and without the training time as a second metric, and with thresholds."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from assets.resources import LakeResource
from assets.studies.study_asset import first_days, picture, profile_of_days, study_asset, table, write_result
from ml.catalog.spec import DatasetSpec
from ml.stages import FEATURE_PROFILES, MDS_DATASETS

NAME, MODEL = "multimetric", "dlrm"


class MultimetricStudy(dg.Config):
    """Number of days, trials and experiments."""

    days: int = Field(
        default=4, ge=3, description="Number of days, the last ones of the demo. Trials do not see the last of them."
    )
    observations: int = Field(default=24, ge=2, description="Number of trials of each experiment.")
    seeds: int = Field(default=3, ge=1, description="Number of experiments of each kind.")


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the study on one dataset with a DLRM."""

    @study_asset(
        NAME,
        spec,
        kinds=["pytorch", "optuna", "matplotlib"],
        stages=[MDS_DATASETS, FEATURE_PROFILES],
        description="Training time of the tuned recipe at equal AUC, and share of the trials that meet both thresholds, with "
        "and without the time as a second metric (figures 6 and 7 of the article on the original advisor).",
    )
    def multimetric(context: dg.AssetExecutionContext, config: MultimetricStudy, lake: LakeResource) -> dg.MaterializeResult:
        from ml.studies.multimetric import Study, figure, run_study, write_study

        held, days = lake.open(), first_days(spec, None, least=config.days)[-config.days :]
        settings = config.model_dump(exclude={"days"})
        with tempfile.TemporaryDirectory() as folder:
            study = Study(spec, days, held, Path(folder), profile_of_days(spec, days[:-1], held), **settings)
            experiments = run_study(study, context.log.info)
        made_from = {"days": days, "profiled": study.profile is not None, **settings}
        found, path = write_result(held, NAME, spec.name, made_from, lambda folder: write_study(folder, experiments))
        return dg.MaterializeResult(
            metadata={
                "trials": picture(figure(experiments)),
                "experiments": _experiments(found),
                "path": path,
            }
        )

    return multimetric


def _experiments(found: Mapping[str, Any]) -> dg.MetadataValue:
    from ml.studies.paired import as_text

    rows = []
    for arm, of in found["arms"].items():
        again = of["again"]
        chosen = [f"{again['auc']:.4f}", f"{again['seconds']:.2f}"] if again else ["", ""]
        ratios = [of[name] and as_text(of[name], 2) for name in ("speed_up", "speed_up_again", "speed_up_of_fastest")]
        gain = of["auc_gain"] and as_text(of["auc_gain"])
        rows.append([arm, f"{of['share']:.0%}", *chosen, *(text or "" for text in (gain, *ratios))])
    columns = ["metrics", "trials that meet both thresholds", "AUC of the last day", "CPU-seconds", "AUC gain (95 %)"]
    return table([*columns, "speed-up, as a trial", "speed-up, last day", "speed-up, fastest at the AUC"], rows)
