"""Compares the models of one dataset with several seeds."""

import dagster as dg
from pydantic import Field

from assets.resources import LakeResource
from assets.studies.study_asset import study_asset, table, write_result
from ml.catalog.spec import DatasetSpec
from ml.stages import MDS_DATASETS

NAME = "models"


class ModelStudy(dg.Config):
    """Number of runs."""

    seeds: int = Field(default=3, ge=1, description="Number of runs of every model.")


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the study on one dataset with several ranking models."""

    @study_asset(
        NAME,
        spec,
        kinds=["pytorch"],
        stages=[MDS_DATASETS],
        description=f"Compares the models of {spec.name} over several seeds, each trained on all days before the last day.",
    )
    def models(context: dg.AssetExecutionContext, config: ModelStudy, lake: LakeResource) -> dg.MaterializeResult:
        from ml.studies.model_comparison import compare, write_comparison

        held = lake.open()
        scores = compare(
            spec,
            spec.days(),
            held,
            config.seeds,
            on_result=lambda s: context.log.info(f"{s.model}, seed {s.seed}: AUC {s.auc:.4f}, log loss {s.log_loss:.4f}"),
        )
        found, path = write_result(held, NAME, spec.name, config.model_dump(), lambda folder: write_comparison(folder, scores))
        rows = (
            [name, f"{of['auc']:.4f}", f"{of['auc_spread']:.4f}", f"{of['log_loss']:.4f}", f"{of['calibration']:.3f}"]
            for name, of in found.items()
        )
        return dg.MaterializeResult(
            metadata={
                "models": table(["model", "AUC", "spread", "log loss", "predicted / observed"], rows),
                "path": path,
            }
        )

    return models
