"""The cost of late labels, by the mean delay of a click, on a simulated log."""

from typing import Any

import dagster as dg
from pydantic import Field

from assets.resources import LakeResource
from assets.studies.study_asset import picture, recipes, study_asset, table, write_result
from ml.catalog.spec import DatasetSpec
from ml.stages import CLEANED_FEATURES, MDS_DATASETS

NAME = "delayed_labels"


class DelayStudy(dg.Config):
    """Days, delays and number of runs."""

    batch_days: int = Field(default=2, ge=1, description="Days of batch training, with final labels.")
    online_days: int = Field(default=1, ge=1, description="Days after them, which are trained online and scored.")
    delays: list[float] = Field(default=[1.0, 10.0, 60.0, 360.0], description="Mean delays of a click, in minutes.")
    wait: float = Field(default=60.0, gt=0, description="Minutes that the choice `wait` waits.")
    slices: int = Field(default=50, ge=1, description="Slices of a day.")
    exclude_features: list[str] = Field(
        default=["hour"],
        description="Features that the model does not use. One that tells the time tells which labels can be known already.",
    )
    seeds: int = Field(default=3, ge=1, description="Number of runs.")


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the study on one dataset."""

    @study_asset(
        NAME,
        spec,
        stages=[MDS_DATASETS, CLEANED_FEATURES],
        description=f"Trains {spec.primary} of {spec.name} online while clicks arrive with simulated delays: waiting, ignoring "
        "late clicks, weighting fake negatives, and an oracle.",
    )
    def delayed_labels(context: dg.AssetExecutionContext, config: DelayStudy, lake: LakeResource) -> dg.MaterializeResult:
        from ml.studies.delayed_labels import figure, run_study, write_study

        held, days = lake.open(), spec.days()
        trained, served = days[: config.batch_days], days[config.batch_days : config.batch_days + config.online_days]
        runs = run_study(
            spec,
            held,
            trained,
            served,
            recipes(spec, spec.primary, {"exclude_features": config.exclude_features}),
            config.delays,
            config.wait,
            config.slices,
            config.seeds,
            on_result=lambda r: context.log.info(f"{r.choice}, {r.delay:g} minutes, seed {r.seed}: AUC {r.auc:.4f}"),
        )
        made_from = {"batch": trained, "online": served, **config.model_dump()}
        found, path = write_result(held, NAME, spec.name, made_from, lambda folder: write_study(folder, runs))
        return dg.MaterializeResult(
            metadata={
                "auc": picture(figure(found)),
                "choices": _table(found),
                "path": path,
            }
        )

    return delayed_labels


def _table(found: list[dict[str, Any]]) -> dg.MetadataValue:
    rows = (
        [
            f"{of['delay']:g}",
            of["choice"],
            f"{of['auc']:.4f}",
            f"{of['auc_to_oracle']:+.4f} ± {of['auc_spread']:.4f}",
            f"{of['log_loss']:.4f}",
            f"{of['log_loss_to_oracle']:+.4f} ± {of['log_loss_spread']:.4f}",
            f"{of['calibration']:.3f}",
        ]
        for of in found
    )
    columns = ["minutes", "choice", "AUC", "to oracle", "log loss", "to oracle", "predicted / observed"]
    return table(columns, rows)
