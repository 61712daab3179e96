"""Measures the AUC of compressed embedding tables against their bytes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from assets.resources import LakeResource
from assets.studies.study_asset import first_days, picture, study_asset, table, write_result
from ml.catalog.spec import DatasetSpec
from ml.stages import MDS_DATASETS

if TYPE_CHECKING:
    from ml.studies.compression import Compressed

NAME, MODEL = "compression", "dlrm"


class CompressionStudy(dg.Config):
    """Number of days and runs, and sizes of the tables."""

    days: int | None = Field(
        default=None, ge=2, description="Number of days; all except the first are scored. By default, as many as the demo has."
    )
    seeds: int = Field(default=3, ge=1, description="Number of runs of every variant.")
    shares: list[int] = Field(default=[2, 4, 16, 64], description="Sizes of the tables: number of ids for each row.")
    many_ids: int = Field(default=1000, ge=4, description="Number of ids from which a table is compressed.")


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the study on one dataset with a DLRM."""

    @study_asset(
        NAME,
        spec,
        stages=[MDS_DATASETS],
        description="AUC against bytes of the tables: hashed, capped, compositional tables of every family and operation, and "
        "mixed dimensions, compared with full tables (Shi et al., 2020; Ginart et al., 2019).",
    )
    def compression(context: dg.AssetExecutionContext, config: CompressionStudy, lake: LakeResource) -> dg.MaterializeResult:
        from ml.studies.compression import figure, run_study, write_study

        held, days = lake.open(), first_days(spec, config.days, least=2)
        settings = config.model_dump(exclude={"days"})
        results = run_study(
            *(spec, days, held),
            model=MODEL,
            on_result=lambda r: context.log.info(f"{r.group}, {r.setting}: {r.nbytes / 1e6:.2f} MB, AUC {r.auc:.4f}"),
            **settings,
        )
        title = f"{spec.name}, {MODEL}"
        made_from = {"days": days, **settings}
        _, path = write_result(held, NAME, spec.name, made_from, lambda folder: write_study(folder, title, results))
        return dg.MaterializeResult(
            metadata={
                "auc": picture(figure(title, results)),
                "variants": _variants(results),
                "path": path,
            }
        )

    return compression


def _variants(results: "Sequence[Compressed]") -> dg.MetadataValue:
    from ml.studies.paired import as_text

    rows = (
        [
            *(of.group, of.setting, f"{of.rows:,}", f"{of.nbytes / 1e6:.2f}"),
            *(f"{of.auc:.4f}", as_text(of.auc_gain), f"{of.log_loss:.4f}", as_text(of.log_loss_gain)),
        ]
        for of in results
    )
    columns = ["tables", "setting", "rows", "MB", "AUC", "gain (95 %)", "log loss", "gain (95 %)"]
    return table(columns, rows)
