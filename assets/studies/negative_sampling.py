"""The effect of negative sampling and of its corrections on AUC, log loss and calibration."""

from typing import Any

import dagster as dg
from pydantic import Field

from assets.resources import LakeResource
from assets.studies.study_asset import picture, study_asset, table, write_result
from ml.catalog.spec import DatasetSpec
from ml.stages import MDS_DATASETS

NAME = "negative_sampling"


class SamplingStudy(dg.Config):
    """Number of runs, and the days that are replayed."""

    seeds: int = Field(default=3, ge=1, description="Number of runs of every variant.")
    days: int = Field(default=7, ge=2, description="Number of days from the first day of the log on, or all if it has fewer.")


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the study on one dataset whose log has unclicked rows."""

    @study_asset(
        NAME,
        spec,
        stages=[MDS_DATASETS],
        description=f"Trains {spec.primary} of {spec.name} on parts of the unclicked rows: naive, corrected in the loss or at "
        "serving, and importance-weighted, at constant rates and at rates by score.",
    )
    def negative_sampling(context: dg.AssetExecutionContext, config: SamplingStudy, lake: LakeResource) -> dg.MaterializeResult:
        from ml.studies.negative_sampling import figure, run_study, write_study

        held, days = lake.open(), spec.days()[: config.days]
        runs = run_study(
            spec,
            days,
            held,
            seeds=config.seeds,
            on_result=lambda r: context.log.info(
                f"{r.name}, {r.keep:.0%} kept, seed {r.seed}: AUC {r.auc:.4f}, log loss {r.log_loss:.4f}, "
                f"predicted / observed {r.calibration:.3f}"
            ),
        )
        made_from = {**config.model_dump(), "days": days}
        found, path = write_result(held, NAME, spec.name, made_from, lambda folder: write_study(folder, runs))
        return dg.MaterializeResult(
            metadata={
                "log_loss": picture(figure(found)),
                "variants": _table(found),
                "path": path,
            }
        )

    return negative_sampling


def _table(found: list[dict[str, Any]]) -> dg.MetadataValue:
    rows = (
        [
            of["name"],
            f"{of['keep']:.0%}",
            f"{of['auc']:.4f}",
            f"{of['auc_gain']:+.4f} ± {of['auc_gain_spread']:.4f}",
            f"{of['log_loss']:.4f}",
            f"{of['log_loss_gain']:+.4f} ± {of['log_loss_gain_spread']:.4f}",
            f"{of['calibration']:.3f}",
            f"{of['cpu_seconds']:.1f}",
        ]
        for of in found
    )
    columns = ["variant", "kept", "AUC", "to all rows", "log loss", "to all rows", "predicted / observed", "CPU s"]
    return table(columns, rows)
