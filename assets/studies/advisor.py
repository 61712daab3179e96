"""Measures what the advisor gains in training and tuning time of a DLRM, compared with the reference DLRM."""

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

NAME, MODEL = "advisor", "dlrm"


class AdvisorStudy(dg.Config):
    """Number of days, trials and evaluations."""

    days: int | None = Field(
        default=None, ge=4, description="Number of days; the last is scored. By default, as many as the demo has."
    )
    observations: int = Field(default=5, ge=0, description="Number of trials of each tuning; 0 omits tuning.")
    evaluations: int = Field(default=8, ge=1, description="Number of evaluations on the last day during each day's pass.")
    seed: int = Field(default=0, ge=0, description="Seed of initial weights.")


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the study on one dataset with a DLRM."""

    @study_asset(
        NAME,
        spec,
        stages=[MDS_DATASETS, FEATURE_PROFILES],
        description="Time to equal AUC of the reference DLRM, the advised DLRM, and tuning of either (figure 5 of the "
        "article on the original advisor), and the shares of trainer, model and search space.",
    )
    def advisor(context: dg.AssetExecutionContext, config: AdvisorStudy, lake: LakeResource) -> dg.MaterializeResult:
        from ml.studies.advisor import Study, run_study, write_study
        from ml.studies.advisor_report import figure

        held, days = lake.open(), first_days(spec, config.days, least=4)
        with tempfile.TemporaryDirectory() as folder:
            settings = config.model_dump(exclude={"days"})
            study = Study(spec, days, held, Path(folder), profile_of_days(spec, days[:-1], held), **settings)
            cases = run_study(study, context.log.info)
        made_from = {"days": days, "profiled": study.profile is not None, **settings}
        found, path = write_result(held, NAME, spec.name, made_from, lambda folder: write_study(folder, cases))
        return dg.MaterializeResult(
            metadata={
                "auc": picture(figure(cases)),
                "runs": _runs(found),
                **({"tunings": _tunings(found["tuning"])} if "tuning" in found else {}),
                "speed_ups": dg.MetadataValue.json({name: found[name] for name in ("training", "tuning") if name in found}),
                "path": path,
            }
        )

    return advisor


def _runs(found: Mapping[str, Any]) -> dg.MetadataValue:
    rows = []
    for case, run in found["runs"].items():
        reached = found["training"]["reached"].get(case)
        to = f"{reached['cpu_seconds']:.2f}" if reached else ""
        rows.append([run["name"], f"{run['auc']:.4f}", f"{run['mean_auc']:.4f}", f"{run['cpu_seconds']:.2f}", to])
    return table(["run", "AUC of the last day", "mean of the days", "CPU-seconds", "CPU-seconds to the original's AUC"], rows)


def _tunings(tuning: Mapping[str, Any]) -> dg.MetadataValue:
    rows = []
    for case, of in tuning["cases"].items():
        auc, to = (of[name] is not None and f"{of[name]:.4f}" for name in ("best_auc", "seconds_to_auc"))
        rows.append([case, of["trials"], of["failed"], auc or "", f"{of['seconds']:.1f}", to or ""])
    return table(["space", "trials", "failed", "best AUC", "CPU-seconds", "CPU-seconds to the wide space's best"], rows)
